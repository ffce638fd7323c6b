//! Makes two things of a request: the text that finds its record, and the fingerprint that checks it.

mod json;
#[cfg(feature = "encryption")]
mod leaves;
mod multipart;

use std::{borrow::Cow, fmt};

use actix_web::http::{
    Method,
    header::{self, AsHeaderName, HeaderMap, HeaderName, HeaderValue},
};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

pub use self::json::CanonicalJsonEncoder;
pub(crate) use self::json::is_json;
#[cfg(all(test, feature = "encryption"))]
pub(crate) use self::leaves::MOST_LEAVES;
#[cfg(feature = "encryption")]
pub(crate) use self::leaves::{Leaf, leaves};

use super::{
    Key, Principal,
    comparison::{Comparison, PLAIN},
    digest::{Digest, hex},
};

/// A protected request as an encoder sees it: its key is parsed and its body is read. Its `Debug` shows neither key, query,
/// header values nor body, since they may end in a log.
#[non_exhaustive]
pub struct KeyRequest<'a> {
    /// The key that the client sent, decoded.
    pub key: &'a Key,
    /// The subject on whose behalf the request runs.
    pub principal: &'a Principal,
    /// The method.
    pub method: &'a Method,
    /// The path as sent, percent-encoding and all.
    pub path: &'a str,
    /// The query string after `?`, as sent; empty when there is none. With `fingerprint.query = sorted`, its fields in the
    /// order of their names.
    pub query: &'a str,
    /// All headers.
    pub headers: RequestHeaders<'a>,
    /// The body as sent (not decompressed), in the pieces in which it arrived.
    pub body: &'a [Bytes],
    /// The settings `fingerprint.*`.
    pub(crate) comparison: &'a Comparison,
}

impl<'a> KeyRequest<'a> {
    /// A request for tests of encoders.
    #[must_use]
    pub const fn new(
        key: &'a Key,
        principal: &'a Principal,
        method: &'a Method,
        path: &'a str,
        query: &'a str,
        headers: &'a HeaderMap,
        body: &'a [Bytes],
    ) -> Self {
        Self {
            key,
            principal,
            method,
            path,
            query,
            headers: RequestHeaders(Lines::Map(headers)),
            body,
            comparison: &PLAIN,
        }
    }
}

impl fmt::Debug for KeyRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest")
            .field("key", self.key)
            .field("principal", self.principal)
            .field("method", self.method)
            .field("path", &self.path)
            .field("headers", &self.headers)
            .field("body_length", &self.body.iter().map(Bytes::len).sum::<usize>())
            .finish_non_exhaustive()
    }
}

/// The headers of a request as an encoder sees them. Its `Debug` shows their names.
#[derive(Clone, Copy)]
pub struct RequestHeaders<'a>(Lines<'a>);

impl fmt::Debug for RequestHeaders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name.as_str())).finish()
    }
}

#[derive(Clone, Copy)]
enum Lines<'a> {
    Map(&'a HeaderMap),
    List(&'a [(HeaderName, HeaderValue)]),
}

impl<'a> RequestHeaders<'a> {
    /// The first value of a header.
    #[must_use]
    pub fn get(self, name: impl AsHeaderName + AsRef<str>) -> Option<&'a HeaderValue> {
        match self.0 {
            Lines::Map(map) => map.get(name),
            Lines::List(list) => {
                let mut lines = list.iter();
                lines.find(|(each, _)| each.as_str().eq_ignore_ascii_case(name.as_ref())).map(|(_, value)| value)
            }
        }
    }

    /// The lines of a header as one, joined by `, `. Empty without any.
    pub(crate) fn joined(self, name: &HeaderName) -> Cow<'a, [u8]> {
        match self.0 {
            Lines::Map(map) => join(map.get_all(name)),
            Lines::List(list) => join(list.iter().filter(|(each, _)| each == name).map(|(_, value)| value)),
        }
    }

    /// Every line of every header. Lines of one name keep their order.
    pub fn iter(self) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        let (map, list) = match self.0 {
            Lines::Map(map) => (Some(map), &[][..]),
            Lines::List(list) => (None, list),
        };
        map.into_iter().flat_map(HeaderMap::iter).chain(list.iter().map(|(name, value)| (name, value)))
    }
}

/// Most headers have one line, which is not copied.
fn join<'a>(mut lines: impl Iterator<Item = &'a HeaderValue>) -> Cow<'a, [u8]> {
    let Some(first) = lines.next() else { return Cow::Borrowed(&[]) };
    let mut all = Cow::Borrowed(first.as_bytes());
    for line in lines {
        all.to_mut().extend_from_slice(b", ");
        all.to_mut().extend_from_slice(line.as_bytes());
    }
    all
}

impl<'a> From<&'a HeaderMap> for RequestHeaders<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        Self(Lines::Map(map))
    }
}

impl<'a> From<&'a [(HeaderName, HeaderValue)]> for RequestHeaders<'a> {
    fn from(list: &'a [(HeaderName, HeaderValue)]) -> Self {
        Self(Lines::List(list))
    }
}

/// Decides which requests are the same operation. Setting `encoder`, or registered with
/// [`Builder::encoder`](crate::app::Builder::encoder).
pub trait KeyEncoder: Send + Sync + 'static {
    /// The encoded key: any text. Namespace, cache and principal are added to it before it finds a record.
    fn encode<'a>(&self, request: &KeyRequest<'a>) -> Cow<'a, str>;

    /// Whether the encoded key is made of the client's key and nothing else of the request. Operators can then find a
    /// record by its key. Default: `false`.
    fn uses_key_only(&self) -> bool {
        false
    }

    /// The fingerprint: it must be equal when the key comes again, otherwise the answer is `mismatch_status_code`.
    ///
    /// The default hashes method, path, query, `Content-Type`, `Content-Encoding` and the bytes of the body. A
    /// `multipart/form-data` is hashed by its parts, without the boundary, which clients make anew for each attempt.
    fn fingerprint(&self, request: &KeyRequest<'_>) -> [u8; 32] {
        raw_fingerprint(request)
    }

    /// The name of the scheme by which this encoder makes fingerprints. Default: the name of its type.
    ///
    /// Fingerprints of two schemes can't be compared: of two processes that use different schemes, for example during a
    /// deploy that changes the encoder, each takes the other's records for the same operation when method and path are
    /// equal.
    fn scheme(&self) -> Cow<'static, str> {
        Cow::Borrowed(std::any::type_name::<Self>())
    }
}

/// The default fingerprint.
fn raw_fingerprint(request: &KeyRequest<'_>) -> [u8; 32] {
    let content_type = request.headers.joined(&header::CONTENT_TYPE);
    let mut digest = head_digest(b"request", request);
    if !request.comparison.has_boundary && multipart::add_parts(&mut digest, &content_type, request.body) {
        return digest.finish();
    }
    digest.part(&content_type);
    digest.rest(request.body.iter().map(|piece| &piece[..])).finish()
}

/// The fingerprint of a request whose body is not read yet. `digest`: the SHA-256 that its client sent.
pub(crate) fn streamed_fingerprint(request: &KeyRequest<'_>, digest: Option<&[u8; 32]>) -> [u8; 32] {
    let mut hash = head_digest(b"streamed request", request);
    hash.part(&request.headers.joined(&header::CONTENT_TYPE)).part(digest.map_or(&[][..], |digest| &digest[..]));
    hash.finish()
}

/// The parts of a fingerprint that depend neither on the body nor on its type.
fn head_digest(domain: &[u8], request: &KeyRequest<'_>) -> Digest {
    let mut digest = Digest::new(domain);
    digest
        .part(request.method.as_str().as_bytes())
        .part(request.path.as_bytes())
        .part(request.query.as_bytes())
        .part(&request.headers.joined(&header::CONTENT_ENCODING));
    digest
}

/// The default encoder (`encoder = basic`): the key finds the record, and the rest of the request is its fingerprint.
#[derive(Clone, Copy, Debug, Default)]
pub struct BasicKeyEncoder;

impl KeyEncoder for BasicKeyEncoder {
    fn encode<'a>(&self, request: &KeyRequest<'a>) -> Cow<'a, str> {
        Cow::Borrowed(request.key.as_str())
    }

    fn uses_key_only(&self) -> bool {
        true
    }
}

/// Bit-compatible with django-idempotency-key 1.1.0 (`encoder = django`): lower-case hexadecimal SHA-256 of key, path,
/// method and body, without separators.
///
/// Another body, path or method under one key is then another record, not a mismatch. Query and content type are not
/// part of the hash, so a request that differs in them only is a retry. The hash is ambiguous by definition: key
/// `a/api` with path `/orders` equals key `a` with path `/api/orders`. The fingerprint covers the same parts with their
/// lengths, and turns such a collision into a mismatch.
#[derive(Clone, Copy, Debug, Default)]
pub struct DjangoKeyEncoder;

impl KeyEncoder for DjangoKeyEncoder {
    fn encode<'a>(&self, request: &KeyRequest<'a>) -> Cow<'a, str> {
        let mut hash = Sha256::new();
        hash.update(request.key.as_str());
        hash.update(decoded_path(request));
        hash.update(request.method.as_str());
        for piece in request.body {
            hash.update(piece);
        }
        Cow::Owned(hex(&hash.finalize()))
    }

    fn fingerprint(&self, request: &KeyRequest<'_>) -> [u8; 32] {
        let mut digest = Digest::new(b"django");
        digest
            .part(request.key.as_str().as_bytes())
            .part(&decoded_path(request))
            .part(request.method.as_str().as_bytes())
            .rest(request.body.iter().map(|piece| &piece[..]));
        digest.finish()
    }
}

/// The path without percent-encoding, as Django hashes it.
fn decoded_path(request: &KeyRequest<'_>) -> Vec<u8> {
    percent_encoding::percent_decode_str(request.path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Syntax;

    fn with_request<T>(path: &str, query: &str, body: &[&'static [u8]], f: impl FnOnce(&KeyRequest<'_>) -> T) -> T {
        let key = Key::parse(b"MyKey", Syntax::Lenient, 255).unwrap();
        let body: Vec<Bytes> = body.iter().copied().map(Bytes::from_static).collect();
        f(&KeyRequest {
            key: &key,
            principal: &Principal::anonymous(),
            method: &Method::POST,
            path,
            query,
            headers: RequestHeaders::from(&HeaderMap::new()),
            body: &body,
            comparison: &PLAIN,
        })
    }

    #[test]
    fn django_hash_is_bit_compatible() {
        let encoded =
            with_request("/myURL/path/", "", &[br#"{"key": "value"}"#], |r| DjangoKeyEncoder.encode(r).into_owned());
        assert_eq!(encoded, "da44e9b4dd5bc8e7853a43c8e8f2d2c2de4394f6614ab37dd5507b6f5988aac4");
    }

    /// A changed byte would take every live key of a shared store for another operation.
    #[test]
    fn fingerprints_without_settings_stay_as_they_are() {
        let of = |encoder: &dyn KeyEncoder| with_request("/pay", "b=1&a=2", &[b"{}"], |r| hex(&encoder.fingerprint(r)));
        assert_eq!(of(&BasicKeyEncoder), "5b93be7c38167be65b53ec6072a75ccfb47931475e977809baddd314c5d838cb");
        assert_eq!(of(&CanonicalJsonEncoder), of(&BasicKeyEncoder), "without a content type");
    }

    /// Elsewhere `/pay?amount=999` was answered with the response of `/pay`.
    #[test]
    fn the_query_counts() {
        let of = |query: &str| with_request("/pay", query, &[], |r| BasicKeyEncoder.fingerprint(r));
        assert_ne!(of("amount=1"), of("amount=999"));
    }

    /// Inside of other instances headers are kept as a list.
    #[test]
    fn headers_are_the_same_as_a_map_and_as_a_list() {
        let [accept, tenant] = [header::ACCEPT, HeaderName::from_static("x-tenant")];
        let list = [(&accept, "a"), (&tenant, "1"), (&tenant, "2")]
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let map: HeaderMap = list.iter().cloned().collect();
        for headers in [RequestHeaders::from(&map), RequestHeaders::from(&list[..])] {
            assert_eq!(headers.get(&tenant).unwrap(), "1");
            assert_eq!(headers.get("X-Tenant").unwrap(), "1");
            assert_eq!(headers.get(header::ACCEPT).unwrap(), "a");
            assert_eq!(headers.get("x-other"), None);
            let lines: Vec<_> = headers.iter().filter(|(name, _)| **name == tenant).map(|(_, value)| value).collect();
            assert_eq!(lines, ["1", "2"]);
            assert_eq!(headers.iter().count(), 3);
        }
    }

    #[test]
    fn how_a_body_was_cut_into_pieces_does_not_count() {
        let of = |body: &[&'static [u8]]| with_request("/", "", body, |r| BasicKeyEncoder.fingerprint(r));
        assert_eq!(of(&[b"hello"]), of(&[b"he", b"", b"llo"]));
        assert_eq!(of(&[]), of(&[b""]));
        assert_ne!(of(&[]), of(&[b"x"]));
    }
}
