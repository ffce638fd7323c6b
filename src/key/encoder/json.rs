//! Compares JSON bodies by their values instead of their bytes.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use actix_web::http::header;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{KeyEncoder, KeyRequest, head_digest, raw_fingerprint};
use crate::key::{Fingerprint, digest::Digest};

/// As [`BasicKeyEncoder`](super::BasicKeyEncoder), but two JSON bodies are the same payload when their values are equal
/// (`encoder = canonical-json`): white space, the order of members and the spelling of strings don't count.
///
/// Integers of up to 64 bits are compared exactly, other numbers as doubles, as RFC 8785 has it; `1` and `1.0` differ.
/// A body that is no JSON, is compressed, has a member twice or a number too large for a double's precision is compared
/// byte by byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct CanonicalJsonEncoder;

impl KeyEncoder for CanonicalJsonEncoder {
    fn encode<'a>(&self, request: &KeyRequest<'a>) -> Cow<'a, str> {
        Cow::Borrowed(request.key.as_str())
    }

    fn uses_key_only(&self) -> bool {
        true
    }

    fn fingerprint(&self, request: &KeyRequest<'_>) -> Fingerprint {
        let canonical = is_plain_json(request).then(|| canonical(&whole(request))).flatten();
        match canonical {
            Some(value) => Fingerprint::from_bytes(head_digest(b"json request", request).part(&value).finish()),
            None => raw_fingerprint(request),
        }
    }
}

fn whole<'a>(request: &KeyRequest<'a>) -> Cow<'a, [u8]> {
    match request.body {
        [one] => Cow::Borrowed(one),
        pieces => Cow::Owned(pieces.concat()),
    }
}

fn is_plain_json(request: &KeyRequest<'_>) -> bool {
    let field = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let media = field(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let subtype = media.to_ascii_lowercase();
    (subtype == "application/json" || subtype.ends_with("+json"))
        && field(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"))
}

/// A hash of the value that a JSON text denotes. `None`: the text is no JSON, or can't be compared safely.
pub(crate) fn canonical(text: &[u8]) -> Option<[u8; 32]> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Canonical.deserialize(&mut reader).ok()?;
    reader.end().is_ok().then_some(value)
}

/// Reads one value into its hash. serde_json bounds the depth.
#[derive(Clone, Copy)]
struct Canonical;

impl<'de> DeserializeSeed<'de> for Canonical {
    type Value = [u8; 32];

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<[u8; 32], D::Error> {
        reader.deserialize_any(self)
    }
}

fn scalar(kind: &[u8], value: &[u8]) -> [u8; 32] {
    Digest::new(kind).part(value).finish()
}

impl<'de> Visitor<'de> for Canonical {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<[u8; 32], E> {
        Ok(scalar(b"null", b""))
    }

    fn visit_bool<E>(self, value: bool) -> Result<[u8; 32], E> {
        Ok(scalar(b"bool", &[u8::from(value)]))
    }

    fn visit_u64<E>(self, value: u64) -> Result<[u8; 32], E> {
        Ok(scalar(b"integer", &i128::from(value).to_le_bytes()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<[u8; 32], E> {
        Ok(scalar(b"integer", &i128::from(value).to_le_bytes()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<[u8; 32], E> {
        // Beyond 2^53, different integers are the same double.
        if value.abs() >= 9_007_199_254_740_992.0 {
            return Err(E::custom("a number that a double can't tell from others"));
        }
        Ok(scalar(b"double", &value.to_bits().to_le_bytes()))
    }

    fn visit_str<E>(self, value: &str) -> Result<[u8; 32], E> {
        Ok(scalar(b"string", value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<[u8; 32], A::Error> {
        let mut digest = Digest::new(b"array");
        while let Some(item) = items.next_element_seed(self)? {
            digest = digest.part(&item);
        }
        Ok(digest.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<[u8; 32], A::Error> {
        let mut sorted = BTreeMap::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self)?;
            if sorted.insert(name, value).is_some() {
                return Err(A::Error::custom("a member twice"));
            }
        }
        let digest = sorted
            .iter()
            .fold(Digest::new(b"object"), |digest, (name, value)| digest.part(name.as_bytes()).part(value));
        Ok(digest.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn same(a: &str, b: &str) -> bool {
        let (a, b) = (canonical(a.as_bytes()), canonical(b.as_bytes()));
        a.is_some() && a == b
    }

    #[test]
    fn how_json_is_written_does_not_count() {
        assert!(same(r#"{"a":1,"b":[true,null,"x"]}"#, " { \"b\" : [ true , null , \"\\u0078\" ], \"a\":1 }\n"));
        assert!(same("1.50", "1.5"));
        assert!(same("[]", " [ ] "));
    }

    #[test]
    fn what_it_says_does() {
        for (a, b) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            ("[1,2]", "[2,1]"),
            ("[[1],2]", "[[1,2]]"),
            ("1", "1.0"),
            ("1", "\"1\""),
            ("null", "false"),
            ("[]", "{}"),
            ("18446744073709551615", "18446744073709551614"),
            ("[\"a\",\"b\"]", "[\"ab\"]"),
        ] {
            assert!(!same(a, b), "{a} {b}");
            assert!(same(a, a) && same(b, b));
        }
    }

    #[test]
    fn what_can_not_be_compared_safely_is_not() {
        let deep = "[".repeat(100_000);
        for text in
            ["", "{", "nul", "1 2", r#"{"a":1,"a":2}"#, "100000000000000000001", "1e300", "\"\\ud800\"", deep.as_str()]
        {
            assert_eq!(canonical(text.as_bytes()), None, "{}", &text[..text.len().min(30)]);
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn pretty_and_compact_are_the_same(value in json()) {
            prop_assert!(same(&value.to_string(), &serde_json::to_string_pretty(&value).unwrap()));
        }

        #[test]
        fn different_values_differ(a in json(), b in json()) {
            prop_assert_eq!(same(&a.to_string(), &b.to_string()), a == b);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = canonical(&bytes);
        }
    }
}
