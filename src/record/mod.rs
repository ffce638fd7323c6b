//! The record of a response, in the form in which stores keep it.
//!
//! This is the only module that knows the format: a version byte, then bincode. Stores keep a [`Record`] as opaque
//! bytes.

mod stored_response;

use std::fmt;

use actix_web::http::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::stored_response::StoredResponse;

/// Version 1: `(status: u16, headers: [(name, value)], body: bytes or none)`.
const VERSION: u8 = 1;

/// No record is larger than this, whatever its bytes claim; `max_response_body` accepts half of it at most.
pub(crate) const MAX_RECORD: usize = 1 << 30;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD>,
>;
const CONFIG: Config = bincode::config::standard().with_limit::<MAX_RECORD>();

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a serde_bytes::Bytes)>,
    #[serde(borrow)]
    body: Option<&'a serde_bytes::Bytes>,
}

/// A response in the form in which stores keep it. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Bytes);

/// Why bytes are not a record that this crate can read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableRecord {
    /// A newer version wrote the record, or the bytes are no record at all.
    #[error("unknown record version {0:?}")]
    Version(Option<u8>),
    /// The record is damaged.
    #[error("damaged record")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Record {
    pub(crate) fn new<'a>(
        status: StatusCode,
        headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        body: Option<&'a [u8]>,
    ) -> Self {
        Self::encode(&Wire {
            status: status.as_u16(),
            headers: headers.map(|(name, value)| (name.as_str(), value.as_bytes().into())).collect(),
            body: body.map(Into::into),
        })
    }

    fn encode(wire: &Wire<'_>) -> Self {
        // The exact length, so that the buffer never grows and wastes nothing.
        let headers = wire.headers.iter().map(|(name, value)| prefixed(name.len()) + prefixed(value.len()));
        let body = 1 + wire.body.map_or(0, |body| prefixed(body.len()));
        let length = 1 + varint(wire.status.into()) + varint(wire.headers.len()) + headers.sum::<usize>() + body;
        let mut bytes = Vec::with_capacity(length);
        bytes.push(VERSION);
        bincode::serde::encode_into_std_write(wire, &mut bytes, CONFIG)
            .expect("a Vec takes any bytes, and sequences know their length");
        debug_assert_eq!(bytes.len(), length);
        Self(bytes.into())
    }

    /// The record whose bytes a store has kept.
    ///
    /// # Errors
    /// [`UnreadableRecord`] unless the bytes come from [`as_bytes`](Self::as_bytes) of a version that this crate reads.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, UnreadableRecord> {
        let record = Self(bytes);
        record.response()?;
        Ok(record)
    }

    /// The bytes that a store keeps.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
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
        Ok(Opened { bytes: &self.0, wire: self.wire()? })
    }

    /// The same record with another body, or with its body given up.
    pub(crate) fn with_body(&self, body: Option<&[u8]>) -> Self {
        match self.wire() {
            Ok(wire) => Self::encode(&Wire { body: body.map(Into::into), ..wire }),
            Err(_) => self.clone(),
        }
    }

    fn wire(&self) -> Result<Wire<'_>, UnreadableRecord> {
        let (&version, rest) = self.0.split_first().ok_or(UnreadableRecord::Version(None))?;
        if version != VERSION {
            return Err(UnreadableRecord::Version(Some(version)));
        }
        let (wire, read) = bincode::serde::borrow_decode_from_slice::<Wire<'_>, _>(rest, CONFIG).map_err(damaged)?;
        if read != rest.len() {
            return Err(damaged("bytes after the record"));
        }
        Ok(wire)
    }
}

/// An opened record. Its parts share the record's memory.
pub(crate) struct Opened<'a> {
    bytes: &'a Bytes,
    wire: Wire<'a>,
}

impl Opened<'_> {
    pub(crate) fn status(&self) -> Result<StatusCode, UnreadableRecord> {
        StatusCode::from_u16(self.wire.status).map_err(damaged)
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = Result<(HeaderName, HeaderValue), UnreadableRecord>> {
        self.wire.headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(damaged)?;
            let value = HeaderValue::from_maybe_shared(self.bytes.slice_ref(value)).map_err(damaged)?;
            Ok((name, value))
        })
    }

    pub(crate) fn body(&self) -> Option<Bytes> {
        self.wire.body.map(|body| self.bytes.slice_ref(body))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}

/// How many bytes bincode takes for a number.
const fn varint(number: usize) -> usize {
    match number {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// How many bytes bincode takes for a sequence of `length` bytes.
const fn prefixed(length: usize) -> usize {
    varint(length) + length
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
        for body in [None, Some(&b""[..]), Some(&[0, 255, 7])] {
            let back = Record::from_bytes(record(body).as_bytes().clone()).unwrap().response().unwrap();
            assert_eq!(back.status(), StatusCode::CREATED);
            assert_eq!(back.headers().len(), 3);
            assert_eq!(back.headers()[2].1, "</b>; rel=b");
            assert_eq!(back.headers()[1].1.as_bytes(), b"\xff\xfe");
            assert_eq!(back.body().map(|b| &b[..]), body);
        }
    }

    #[test]
    fn a_body_given_up_leaves_status_and_headers() {
        let bare = record(Some(b"body")).with_body(None).response().unwrap();
        assert_eq!((bare.status(), bare.headers().len(), bare.body()), (StatusCode::CREATED, 3, None));
    }

    /// Elsewhere `Vec<u8>` was serialised element by element.
    #[test]
    fn a_body_is_kept_as_bytes() {
        let plain = record(None).as_bytes().len();
        assert!(record(Some(&[0xff; 1000])).as_bytes().len() <= plain + 1000 + 4);
    }

    #[test]
    fn unknown_versions_and_trailing_bytes_are_errors() {
        let good = record(Some(b"x")).as_bytes().to_vec();
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Record::from_bytes(bytes.into())
        };
        assert!(matches!(with(|b| b[0] = 9), Err(UnreadableRecord::Version(Some(9)))));
        assert!(matches!(with(|b| b.push(0)), Err(UnreadableRecord::Damaged(_))));
        assert!(matches!(with(Vec::clear), Err(UnreadableRecord::Version(None))));
        assert!(with(|b| b.truncate(b.len() - 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ours in any::<bool>()) {
            if ours && !bytes.is_empty() { bytes[0] = VERSION; }
            let _ = Record::from_bytes(bytes.into());
        }

        #[test]
        fn damaged_records_never_panic(at in 0usize..60, bit in 0u8..8) {
            let mut bytes = record(Some(b"some body")).as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(record) = Record::from_bytes(bytes.into()) { let _ = record.response().unwrap().to_response(); }
        }
    }
}
