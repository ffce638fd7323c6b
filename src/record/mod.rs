//! The record of a response, in the form in which stores keep it.
//!
//! This is the only module that knows the format. Stores keep a [`Record`] as opaque bytes.

mod algorithm;
mod buffer;
mod extras;
#[cfg(feature = "encryption")]
mod sealed;
mod stored_response;

use std::fmt;

use actix_web::http::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::algorithm::SealingAlgorithm;
pub use self::stored_response::StoredResponse;
#[cfg(feature = "encryption")]
pub(crate) use self::{algorithm::Algorithm, sealed::SealedParts};
pub(crate) use self::{
    buffer::{Buffered, buffer},
    extras::RequestDigest,
};

/// The version that this crate writes and reads.
const VERSION: u8 = 2;

/// The algorithm of a record that has not left this process: it has no checksums, because memory is trusted.
const UNCHECKED: u8 = 0;

/// The algorithm of a record that is not sealed, with checksums.
const PLAIN: u8 = 1;

/// Version, algorithm, id of the sealing key (2 bytes), CRC-32 of the head, CRC-32 of the body, length of the head (4
/// bytes each).
const HEADER: usize = 16;

/// No record is larger than this, whatever its bytes claim; `max_response_body` accepts half of it at most.
pub(crate) const MAX_RECORD: usize = 1 << 30;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD>,
>;
const CONFIG: Config = bincode::config::standard().with_limit::<MAX_RECORD>();

/// The head of a response, as bincode has it.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a serde_bytes::Bytes)>,
    /// The length of the body. `None`: the body was never kept.
    body: Option<u64>,
}

/// A response in the form in which stores keep it. Cloning is cheap.
///
/// # Format
///
/// | bytes | meaning |
/// |---|---|
/// | 1 | version: 2 |
/// | 1 | algorithm: 1, the record is not sealed |
/// | 2 | id of the key that the record is sealed with: 0 |
/// | 4, 4 | CRC-32 of head and body, little-endian (a sealed record has its nonce here) |
/// | 4 | length of the head, little-endian |
/// | … | head, bincode: status, headers, and the length of the body; then extras, each with its tag (1 byte) and its length (2) |
/// | … | body: whole, or nothing |
///
/// A sealed record (feature `encryption`) has the algorithm, the number of its key and its nonce in the header, and head and
/// body encrypted apart.
///
/// Head and body are separable, so that a full store can give up a body without reading the record.
#[derive(Clone)]
pub struct Record(Bytes);

/// Why bytes are not a record that this crate can read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableRecord {
    /// Another version wrote the record, or the bytes are no record at all.
    #[error("unknown record version {0:?}")]
    Version(Option<u8>),
    /// The record is sealed with an algorithm that this build does not know.
    #[error("unknown sealing algorithm {0}")]
    Algorithm(u8),
    /// The record is sealed, and was not opened.
    #[error("the record is sealed with key {key}: {why}")]
    Sealed {
        /// The number of the key in `encryption.keys`.
        key: u16,
        /// Why the record was not opened.
        why: &'static str,
    },
    /// A result of a step is sealed, and `encryption.keys` is not set.
    #[error("a step of the record is sealed, and `encryption.keys` is not set")]
    Unopened,
    /// The record is not sealed, although the settings say that records are.
    #[error("the record is not sealed, and `encryption.accept_unsealed` is off")]
    Unsealed,
    /// The record is damaged.
    #[error("damaged record")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Record {
    /// The record of a response. `body` is `None` when the body is not kept.
    ///
    /// ```
    /// use actix_idempotency::record::Record;
    /// use actix_web::http::{StatusCode, header};
    ///
    /// let kind = (header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    /// let record = Record::new(StatusCode::CREATED, [(&kind.0, &kind.1)], Some(b"paid"));
    /// assert_eq!(record.response()?.body().unwrap(), "paid");
    /// # Ok::<(), actix_idempotency::record::UnreadableRecord>(())
    /// ```
    #[must_use]
    pub fn new<'a>(
        status: StatusCode,
        headers: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        body: Option<&[u8]>,
    ) -> Self {
        let head = Head {
            status: status.as_u16(),
            headers: headers.into_iter().map(|(name, value)| (name.as_str(), value.as_bytes().into())).collect(),
            body: body.map(|body| body.len() as u64),
        };
        Self::encode(&head, &[], body.unwrap_or_default())
    }

    fn encode(head: &Head<'_>, extras: &[u8], body: &[u8]) -> Self {
        // The exact length, so that the buffer never grows and wastes nothing.
        let headers = head.headers.iter().map(|(name, value)| prefixed(name.len()) + prefixed(value.len()));
        let info = 1 + head.body.map_or(0, varint);
        let head_length = varint(head.status.into())
            + varint(head.headers.len() as u64)
            + headers.sum::<usize>()
            + info
            + extras.len();
        let mut bytes = Vec::with_capacity(HEADER + head_length + body.len());
        bytes.extend([VERSION, UNCHECKED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // A head is far smaller than 4 GiB: actix-web limits header sections.
        bytes.extend(u32::try_from(head_length).unwrap_or(u32::MAX).to_le_bytes());
        bincode::serde::encode_into_std_write(head, &mut bytes, CONFIG)
            .expect("a Vec takes any bytes, and sequences know their length");
        bytes.extend_from_slice(extras);
        debug_assert_eq!(bytes.len(), HEADER + head_length);
        bytes.extend_from_slice(body);
        Self(bytes.into())
    }

    /// The record whose bytes a store has kept. Verifies their checksums.
    ///
    /// # Errors
    /// [`UnreadableRecord`] unless the bytes come from [`to_bytes`](Self::to_bytes) of a version that this crate reads,
    /// whole or with the body cut off.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, UnreadableRecord> {
        let record = Self(bytes);
        #[cfg(feature = "encryption")]
        if record.sealed_parts()?.is_some() {
            // The tags of a sealed record say whether it is whole, to the holder of its key.
            return Ok(record);
        }
        let opened = record.open()?;
        if opened.algorithm != PLAIN {
            return Err(UnreadableRecord::Algorithm(opened.algorithm));
        }
        if opened.checksums[0] != crc32fast::hash(opened.head_bytes) {
            return Err(damaged("the checksum of the head does not fit"));
        }
        if opened.has_body() && opened.checksums[1] != crc32fast::hash(opened.body_bytes) {
            return Err(damaged("the checksum of the body does not fit"));
        }
        record.response()?;
        Ok(record)
    }

    /// The bytes that a store keeps outside of this process, with checksums.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let Ok(Opened { algorithm: UNCHECKED, head_bytes, body_bytes, .. }) = self.open() else {
            return self.0.clone();
        };
        let mut bytes = Vec::with_capacity(self.0.len());
        bytes.extend([VERSION, PLAIN, 0, 0]);
        bytes.extend(crc32fast::hash(head_bytes).to_le_bytes());
        bytes.extend(crc32fast::hash(body_bytes).to_le_bytes());
        bytes.extend_from_slice(&self.0[12..]);
        bytes.into()
    }

    /// The size of the record in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no record is empty")]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the record is sealed: it was not opened, because a key is missing.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        !matches!(self.0[..], [VERSION, UNCHECKED | PLAIN, ..])
    }

    /// Opens the record. The parts of the response share the record's memory.
    ///
    /// # Errors
    /// [`UnreadableRecord`] when the bytes are damaged.
    pub fn response(&self) -> Result<StoredResponse, UnreadableRecord> {
        let opened = self.open()?;
        let headers = opened.headers().collect::<Result<_, UnreadableRecord>>()?;
        Ok(StoredResponse { status: opened.status()?, headers, body: opened.body() })
    }

    /// As [`response`](Self::response), but gives the parts one by one, so that a replay needs no list between.
    pub(crate) fn open(&self) -> Result<Opened<'_>, UnreadableRecord> {
        let version = self.0.first().copied();
        if version != Some(VERSION) {
            return Err(UnreadableRecord::Version(version));
        }
        let (&header, rest) = self.0.split_first_chunk::<HEADER>().ok_or_else(|| damaged("too short for a header"))?;
        let [_, algorithm, _, _, numbers @ ..] = header;
        if !matches!(algorithm, UNCHECKED | PLAIN) {
            #[cfg(feature = "encryption")]
            if let Some(sealed) = self.sealed_parts()? {
                return Err(UnreadableRecord::Sealed { key: sealed.key, why: "it was not opened" });
            }
            return Err(UnreadableRecord::Algorithm(algorithm));
        }
        let number = |at: usize| u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
        let (checksums, head_length) = ([number(0), number(4)], number(8) as usize);
        let (head_bytes, body_bytes) =
            rest.split_at_checked(head_length).ok_or_else(|| damaged("too short for its head"))?;
        let (head, read) =
            bincode::serde::borrow_decode_from_slice::<Head<'_>, _>(head_bytes, CONFIG).map_err(damaged)?;
        let extras = &head_bytes[read..];
        extras::check(extras)?;
        if !body_bytes.is_empty() && head.body != Some(body_bytes.len() as u64) {
            return Err(damaged("a body of another length"));
        }
        Ok(Opened { bytes: &self.0, algorithm, checksums, head_bytes, head, extras, body_bytes })
    }

    /// The same record with this body.
    pub(crate) fn with_body(&self, body: &[u8]) -> Self {
        match self.open() {
            Ok(opened) => Self::encode(&Head { body: Some(body.len() as u64), ..opened.head }, opened.extras, body),
            Err(_) => self.clone(),
        }
    }

    /// The same record with its body given up. Cuts the body off without looking at it.
    #[must_use]
    pub fn without_body(&self) -> Self {
        #[cfg(feature = "encryption")]
        if let Some(length) = self.sealed_length_without_body() {
            return Self(Bytes::copy_from_slice(&self.0[..length]));
        }
        let Some(Ok(length)) = self.0.get(12..HEADER).map(|bytes| bytes.try_into().map(u32::from_le_bytes)) else {
            return self.clone();
        };
        let head_ends = HEADER.saturating_add(length as usize).min(self.0.len());
        // A copy, because a slice would keep the memory of the body.
        Self(Bytes::copy_from_slice(&self.0[..head_ends]))
    }
}

/// An opened record. Its parts share the record's memory.
pub(crate) struct Opened<'a> {
    bytes: &'a Bytes,
    algorithm: u8,
    /// Of head and body.
    checksums: [u32; 2],
    head_bytes: &'a [u8],
    head: Head<'a>,
    /// Other facts that are kept with the response: see [`extras`].
    extras: &'a [u8],
    body_bytes: &'a [u8],
}

impl Opened<'_> {
    pub(crate) fn status(&self) -> Result<StatusCode, UnreadableRecord> {
        StatusCode::from_u16(self.head.status).map_err(damaged)
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = Result<(HeaderName, HeaderValue), UnreadableRecord>> {
        self.head.headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(damaged)?;
            let value = HeaderValue::from_maybe_shared(self.bytes.slice_ref(value)).map_err(damaged)?;
            Ok((name, value))
        })
    }

    /// The body. `None`: it was never kept, or was given up.
    pub(crate) fn body(&self) -> Option<Bytes> {
        if !self.has_body() {
            return None;
        }
        // `slice_ref` refuses an empty slice that lies at the end.
        Some(if self.body_bytes.is_empty() { Bytes::new() } else { self.bytes.slice_ref(self.body_bytes) })
    }

    fn has_body(&self) -> bool {
        self.head.body == Some(self.body_bytes.len() as u64)
    }
}

/// Records are equal when their responses are, with checksums or without.
impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        match (self.0.get(12..), other.0.get(12..)) {
            (Some(own), Some(others)) => own == others,
            _ => self.0 == other.0,
        }
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}

/// How many bytes bincode takes for a number.
const fn varint(number: u64) -> usize {
    match number {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// How many bytes bincode takes for a sequence of `length` bytes.
const fn prefixed(length: usize) -> usize {
    varint(length as u64) + length
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> UnreadableRecord {
    UnreadableRecord::Damaged(error.into())
}

/// A header of records that `mode = observe` wrote. Such a record is never replayed.
pub(crate) static OBSERVED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("idempotency-observed"), HeaderValue::from_static("true"));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: Option<&[u8]>) -> Record {
        let headers = [
            (HeaderName::from_static("link"), HeaderValue::from_static("</a>; rel=a")),
            (HeaderName::from_static("x-bytes"), HeaderValue::from_bytes(b"\xff\xfe").unwrap()),
            (HeaderName::from_static("link"), HeaderValue::from_static("</b>; rel=b")),
        ];
        Record::new(StatusCode::CREATED, headers.iter().map(|(n, v)| (n, v)), body)
    }

    #[test]
    fn a_record_reads_back_as_it_was() {
        for body in [None, Some(&b""[..]), Some(&[0, 255, 7]), Some(&vec![7; 70_000][..])] {
            let back = Record::from_bytes(record(body).to_bytes()).unwrap().response().unwrap();
            assert_eq!(back.status(), StatusCode::CREATED);
            assert_eq!(back.headers().len(), 3);
            assert_eq!(back.headers()[2].1, "</b>; rel=b");
            assert_eq!(back.headers()[1].1.as_bytes(), b"\xff\xfe");
            assert_eq!(back.body().map(|b| &b[..]), body);
        }
    }

    #[test]
    fn a_body_that_is_given_up_leaves_status_and_headers() {
        let bare = record(Some(b"body")).without_body();
        assert_eq!(bare.len() + 4, record(Some(b"body")).len());
        let bare = Record::from_bytes(bare.to_bytes()).unwrap().response().unwrap();
        assert_eq!((bare.status(), bare.headers().len(), bare.body()), (StatusCode::CREATED, 3, None));
        let empty = record(Some(b"")).without_body().response().unwrap();
        assert_eq!(empty.body().map(|b| &b[..]), Some(&b""[..]), "nothing was given up");
    }

    #[test]
    fn a_body_that_comes_later_makes_the_record_that_it_would_have_made_at_once() {
        assert_eq!(record(None).with_body(b"body"), record(Some(b"body")));
    }

    /// In another project `Vec<u8>` was serialised element by element.
    #[test]
    fn a_body_is_kept_as_bytes() {
        let plain = record(None).len();
        assert!(record(Some(&[0xff; 1000])).len() <= plain + 1000 + 4);
    }

    #[test]
    fn unknown_versions_and_algorithms_and_more_bytes_are_errors() {
        let good = record(Some(b"x")).to_bytes().to_vec();
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Record::from_bytes(bytes.into())
        };
        assert!(matches!(with(|b| b[0] = 9), Err(UnreadableRecord::Version(Some(9)))));
        assert!(matches!(with(|b| b[0] = 1), Err(UnreadableRecord::Version(Some(1)))));
        assert!(matches!(with(|b| b[1] = 9), Err(UnreadableRecord::Algorithm(9))));
        assert!(matches!(with(|b| b.push(0)), Err(UnreadableRecord::Damaged(_))));
        assert!(matches!(with(Vec::clear), Err(UnreadableRecord::Version(None))));
        assert!(with(|b| b.truncate(b.len() - 2)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ours in any::<bool>()) {
            if ours && bytes.len() > 1 { bytes[..2].copy_from_slice(&[VERSION, PLAIN]); }
            let _ = Record::from_bytes(bytes.into());
        }

        #[test]
        fn a_flipped_bit_is_an_error(at in 0usize..200, bit in 0u8..8) {
            let mut bytes = record(Some(b"some body")).to_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // The id of a sealing key means nothing in a record that is not sealed.
            prop_assume!(!(2..4).contains(&at));
            prop_assert!(Record::from_bytes(bytes.into()).is_err());
        }
    }
}
