//! Parts of a record beside the response: behind the head, each with a tag.

use super::{Opened, Record, UnreadableRecord, damaged};
use crate::key::Fingerprint;

/// The tag of a [`RequestDigest`].
const REQUEST: u8 = 1;

/// The tag of the pairs that explain a mismatch.
#[cfg(feature = "encryption")]
const PAIRS: u8 = 2;

/// Tag and length.
const BEFORE: usize = 3;

/// The length and the SHA-256 of a body that was read after its key was claimed (`body = stream`), and the fingerprint of
/// the request without a digest of its body, so that requests with and without one can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestDigest {
    pub(crate) head: Fingerprint,
    pub(crate) length: u64,
    pub(crate) sha256: [u8; 32],
}

/// The length of a [`RequestDigest`].
const LENGTH: usize = Fingerprint::LENGTH + 40;

impl RequestDigest {
    /// Whether it may be the same request.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.length == other.length && self.sha256 == other.sha256 && self.head.compare(&other.head).is_same()
    }

    fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (head, body) = bytes.split_at_mut(Fingerprint::LENGTH);
        head.copy_from_slice(self.head.as_bytes());
        body[..8].copy_from_slice(&self.length.to_le_bytes());
        body[8..].copy_from_slice(&self.sha256);
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk()?;
        let (length, sha256) = rest.split_first_chunk()?;
        let (head, length) = (Fingerprint::from_bytes(*head), u64::from_le_bytes(*length));
        Some(Self { head, length, sha256: sha256.try_into().ok()? })
    }
}

impl Record {
    /// The same record with the digest of its request's body.
    pub(crate) fn of_request(&self, digest: RequestDigest) -> Self {
        self.with_extra(REQUEST, &digest.to_bytes())
    }

    /// The digest of the request's body. `None`: it was compared before anything ran.
    pub(crate) fn request_digest(&self) -> Result<Option<RequestDigest>, UnreadableRecord> {
        let opened = self.open()?;
        let Some(bytes) = opened.extra(REQUEST) else { return Ok(None) };
        RequestDigest::of_bytes(bytes).map(Some).ok_or_else(|| damaged("a digest of another length"))
    }

    /// Whether the request of the other record was the same, as far as both know.
    pub(crate) fn answers(&self, other: &Self) -> bool {
        match (self.request_digest(), other.request_digest()) {
            (Ok(Some(own)), Ok(Some(other))) => own.is_same(&other),
            _ => true,
        }
    }

    /// The same record with the pairs that explain a mismatch, unless it has some.
    #[cfg(feature = "encryption")]
    pub(crate) fn with_pairs(&self, pairs: &[u8]) -> Self {
        if self.pairs().is_some() { self.clone() } else { self.with_extra(PAIRS, pairs) }
    }

    /// The pairs that explain a mismatch.
    #[cfg(feature = "encryption")]
    pub(crate) fn pairs(&self) -> Option<&[u8]> {
        self.open().ok()?.extra(PAIRS)
    }

    fn with_extra(&self, tag: u8, bytes: &[u8]) -> Self {
        let Ok(opened) = self.open() else { return self.clone() };
        // Extras are far smaller than 64 KiB.
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
        let extras = [opened.extras, &[tag], &length, bytes].concat();
        Self::encode(&opened.head, &extras, opened.body_bytes)
    }
}

impl<'a> Opened<'a> {
    fn extra(&self, wanted: u8) -> Option<&'a [u8]> {
        all(self.extras).flatten().find(|(tag, _)| *tag == wanted).map(|(_, bytes)| bytes)
    }
}

/// Refuses bytes that are no extras. Unknown tags are skipped by those who look for another one.
pub(super) fn check(extras: &[u8]) -> Result<(), UnreadableRecord> {
    if all(extras).all(|extra| extra.is_some()) { Ok(()) } else { Err(damaged("bytes after the head")) }
}

/// All extras with their tags. `None`: what follows is none.
fn all(mut rest: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let first = first(rest);
        rest = first.map_or(&[], |(_, _, after)| after);
        Some(first.map(|(tag, bytes, _)| (tag, bytes)))
    })
}

/// Tag and bytes of the first extra, and what follows.
fn first(extras: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, low, high], rest) = extras.split_first_chunk::<BEFORE>()?;
    let (bytes, after) = rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
    Some((tag, bytes, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;
    use bytes::Bytes;

    const DIGEST: RequestDigest =
        RequestDigest { head: Fingerprint::from_bytes([9; Fingerprint::LENGTH]), length: 1 << 40, sha256: [7; 32] };

    fn record() -> Record {
        Record::new(StatusCode::CREATED, [], Some(b"body"))
    }

    #[test]
    fn a_record_keeps_the_digest_of_its_request_with_its_body_and_without() {
        let kept = record().of_request(DIGEST);
        assert_eq!(record().request_digest().unwrap(), None);
        for kept in [&kept, &kept.without_body(), &kept.with_body(b"another")] {
            let back = Record::from_bytes(kept.to_bytes()).unwrap();
            assert_eq!(back.request_digest().unwrap(), Some(DIGEST));
        }
        assert_eq!(kept.response().unwrap(), record().response().unwrap());
        assert_eq!(kept.len(), record().len() + 3 + LENGTH);
    }

    #[cfg(feature = "encryption")]
    #[test]
    fn a_record_keeps_its_pairs_beside_its_response() {
        for (body, pairs) in [(None, &b""[..]), (Some(&b"body"[..]), b"12345678"), (Some(b""), &[7; 512])] {
            let plain = Record::new(StatusCode::CREATED, [], body);
            let with = plain.with_pairs(pairs).of_request(DIGEST);
            assert_eq!(with.pairs(), Some(pairs));
            let back = Record::from_bytes(with.to_bytes()).unwrap();
            assert_eq!((back.pairs(), &back), (Some(pairs), &with));
            assert_eq!(back.request_digest().unwrap(), Some(DIGEST));
            assert_eq!(back.response().unwrap(), plain.response().unwrap());
            assert_eq!(back.without_body().pairs(), Some(pairs), "a body that is given up leaves them");
            assert_eq!(with.with_body(b"other").pairs(), Some(pairs));
            assert_eq!(back.with_pairs(b"others"), with, "the first ones stay");
            assert_eq!(plain.pairs(), None);
        }
    }

    #[test]
    fn bytes_that_are_no_extras_are_errors_and_unknown_extras_are_not() {
        let with = |extras: &[u8]| {
            let record = record();
            Record::encode(&record.open().unwrap().head, extras, b"body")
        };
        let back = |extras: &[u8]| Record::from_bytes(Bytes::from(with(extras).to_bytes().to_vec()));
        assert!(back(&[9, 1, 0, 7]).is_ok());
        for extras in [&[9][..], &[9, 1], &[9, 1, 0], &[9, 0, 0, 9], &[9, 2, 0, 7]] {
            assert!(back(extras).is_err(), "{extras:?}");
        }
        assert!(with(&[REQUEST, 1, 0, 7]).request_digest().is_err());
    }
}
