//! Compares JSON bodies by their values instead of their bytes.

use std::{borrow::Cow, collections::HashSet, fmt, ops::Range};

use actix_web::http::header;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{KeyEncoder, KeyRequest, RequestHeaders, head_digest, raw_fingerprint};
use crate::key::comparison::Pointer;

/// As [`BasicKeyEncoder`](super::BasicKeyEncoder), but two JSON bodies are the same payload when their values are equal
/// (`encoder = canonical-json`): white space, the order of members and the spelling of strings don't count.
///
/// Integers of up to 64 bits are compared exactly, other numbers as doubles; `1` and `1.0` differ, `0` and `-0` don't.
/// The parts that `fingerprint.ignore` names are left out of the comparison.
///
/// A body is compared byte by byte when it is no JSON, is compressed, has a member twice, or has a number with more
/// digits than a double can tell apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct CanonicalJsonEncoder;

impl KeyEncoder for CanonicalJsonEncoder {
    fn encode<'a>(&self, request: &KeyRequest<'a>) -> Cow<'a, str> {
        Cow::Borrowed(request.key.as_str())
    }

    fn uses_key_only(&self) -> bool {
        true
    }

    fn fingerprint(&self, request: &KeyRequest<'_>) -> [u8; 32] {
        let canonical =
            is_json(request.headers).then(|| canonical(&whole(request), &request.comparison.ignored)).flatten();
        match canonical {
            Some(value) => {
                let kind = request.headers.joined(&header::CONTENT_TYPE);
                head_digest(b"json request", request).part(&kind).rest([&value[..]]).finish()
            }
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

/// Whether a body is JSON, and not compressed.
pub(crate) fn is_json(headers: RequestHeaders<'_>) -> bool {
    let field = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let media = field(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let subtype = media.to_ascii_lowercase();
    (subtype == "application/json" || subtype.ends_with("+json"))
        && field(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"))
}

/// The value that a JSON text denotes, without the parts that `ignored` points to, written in one way only. `None`: the
/// text is no JSON, or can't be compared safely.
pub(crate) fn canonical(text: &[u8], ignored: &[Pointer]) -> Option<Vec<u8>> {
    if ignored.is_empty() && !doubles_tell_numbers_apart(text) {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let (mut value, mut skipped) = (Vec::with_capacity(text.len()), Vec::new());
    let ignored: Vec<&[String]> = ignored.iter().map(Vec::as_slice).collect();
    Canonical { to: &mut value, ignored: &ignored, skipped: &mut skipped }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    if !ignored.is_empty() && !doubles_tell_numbers_apart(&without(text, &skipped)) {
        return None;
    }
    Some(value)
}

/// The text with blanks in place of parts of it.
fn without(text: &[u8], parts: &[&str]) -> Vec<u8> {
    let mut left = text.to_vec();
    for part in parts {
        let from = part.as_ptr().addr() - text.as_ptr().addr();
        left[from..from + part.len()].fill(b' ');
    }
    left
}

/// Whether each number with a fraction or an exponent has at most 15 significant digits, which a double keeps apart.
/// `text` need not be JSON: then this may be wrong, and the reader refuses the text.
fn doubles_tell_numbers_apart(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match first {
            b'"' => {
                rest = after;
                while let Some((&byte, after)) = rest.split_first() {
                    rest = after;
                    match byte {
                        b'"' => break,
                        b'\\' => rest = rest.get(1..).unwrap_or_default(),
                        _ => {}
                    }
                }
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &&u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let (number, after) = rest.split_at(rest.iter().take_while(is_part).count());
                if !is_exact(number) {
                    return false;
                }
                rest = after;
            }
            _ => rest = after,
        }
    }
    true
}

/// Whether no other number of this form is the same double. Integers are compared as integers, if they have 64 bits.
fn is_exact(number: &[u8]) -> bool {
    let is_exponent = |byte: &u8| matches!(byte, b'e' | b'E');
    let mantissa = number.split(is_exponent).next().unwrap_or_default();
    if !number.iter().any(|byte| *byte == b'.' || is_exponent(byte)) {
        return true;
    }
    let digits = mantissa.iter().filter(|byte| byte.is_ascii_digit());
    let significant = digits.skip_while(|digit| **digit == b'0').count();
    let exponent = std::str::from_utf8(&number[mantissa.len()..]).unwrap_or_default();
    let exponent = exponent.get(1..).map_or(Some(0), |text| text.parse::<i32>().ok());
    // Far from the ends of the range of doubles, where they lose precision.
    significant <= 15 && exponent.is_some_and(|exponent| exponent.abs() <= 250) && mantissa.len() <= 40
}

/// Writes one value to the end of a buffer. serde_json bounds the depth.
pub(super) struct Canonical<'a, 'de> {
    pub(super) to: &'a mut Vec<u8>,
    /// The pointers from this value to the parts that are left out.
    pub(super) ignored: &'a [&'a [String]],
    /// The texts that were left out.
    pub(super) skipped: &'a mut Vec<&'de str>,
}

/// The pointers from a member or an item on. An empty one means that it is left out itself.
pub(super) fn beyond<'p>(ignored: &[&'p [String]], token: &str) -> Vec<&'p [String]> {
    let ignored = ignored.iter().filter_map(|pointer| pointer.split_first());
    ignored.filter(|(first, _)| *first == token).map(|(_, rest)| rest).collect()
}

impl Canonical<'_, '_> {
    fn scalar(self, kind: u8, value: &[u8]) {
        self.to.push(kind);
        self.to.extend_from_slice(value);
    }

    fn sized(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
        to.push(kind);
        to.extend((value.len() as u64).to_le_bytes());
        to.extend_from_slice(value);
    }
}

impl<'de> DeserializeSeed<'de> for Canonical<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Canonical<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar(b'n', &[]);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { b't' } else { b'f' }, &[]);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(b'i', &i128::from(value).to_le_bytes());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(b'i', &i128::from(value).to_le_bytes());
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        // `-0` is read as a double, and is equal to the integer (RFC 8785).
        if value == 0.0 {
            return self.visit_u64(0);
        }
        // Beyond 2^53, different integers are the same double.
        if value.abs() >= 9_007_199_254_740_992.0 {
            return Err(E::custom("a number that a double can't tell from others"));
        }
        self.scalar(b'd', &value.to_bits().to_le_bytes());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        Self::sized(self.to, b's', value.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.to.push(b'[');
        for at in 0_usize.. {
            let ignored = if self.ignored.is_empty() { Vec::new() } else { beyond(self.ignored, &at.to_string()) };
            if ignored.contains(&&[][..]) {
                let Some(skipped) = items.next_element::<&RawValue>()? else { break };
                self.skipped.push(skipped.get());
                continue;
            }
            let item = Canonical { to: self.to, ignored: &ignored, skipped: self.skipped };
            if items.next_element_seed(item)?.is_none() {
                break;
            }
        }
        self.to.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.to.push(b'{');
        let start = self.to.len();
        let (mut names, mut seen): (Vec<(String, Range<usize>)>, HashSet<String>) = Default::default();
        while let Some(name) = members.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom("a member twice"));
            }
            let ignored = if self.ignored.is_empty() { Vec::new() } else { beyond(self.ignored, &name) };
            if ignored.contains(&&[][..]) {
                self.skipped.push(members.next_value::<&RawValue>()?.get());
                continue;
            }
            let from = self.to.len();
            Self::sized(self.to, b's', name.as_bytes());
            members.next_value_seed(Canonical { to: self.to, ignored: &ignored, skipped: self.skipped })?;
            names.push((name, from..self.to.len()));
        }
        if !names.is_sorted_by(|(a, _), (b, _)| a < b) {
            names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            let sorted: Vec<u8> = names.iter().flat_map(|(_, range)| &self.to[range.clone()]).copied().collect();
            self.to.truncate(start);
            self.to.extend(sorted);
        }
        self.to.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::pointer;
    use proptest::prelude::*;
    use serde_json::Value;

    fn same(a: &str, b: &str) -> bool {
        let (a, b) = (canonical(a.as_bytes(), &[]), canonical(b.as_bytes(), &[]));
        a.is_some() && a == b
    }

    #[test]
    fn how_json_is_written_does_not_count() {
        assert!(same(r#"{"a":1,"b":[true,null,"x"]}"#, " { \"b\" : [ true , null , \"\\u0078\" ], \"a\":1 }\n"));
        assert!(same("1.50", "1.5"));
        assert!(same("[0, -0]", "[-0, 0]"), "RFC 8785");
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
        for text in [
            "",
            "{",
            "nul",
            "1 2",
            r#"{"a":1,"a":2}"#,
            "100000000000000000001",
            "1e300",
            "\"\\ud800\"",
            // Two amounts that are the same double.
            "1.000000000000000001",
            r#"{"amount":1234567890123456.78}"#,
            "0.1e-300",
            deep.as_str(),
        ] {
            assert_eq!(canonical(text.as_bytes(), &[]), None, "{}", &text[..text.len().min(30)]);
        }
    }

    #[test]
    fn ignored_parts_do_not_count_and_everything_else_does() {
        let ignored = ["/sent_at", "/meta/attempt", "/items/0/at", "/a~1b"].map(|text| pointer(text).unwrap());
        let same = |a: &str, b: &str| {
            let (a, b) = (canonical(a.as_bytes(), &ignored), canonical(b.as_bytes(), &ignored));
            a.is_some() && a == b
        };
        for (a, b) in [
            (r#"{"a":1,"sent_at":1700000000.123456789}"#, r#"{"sent_at":{"b":[1e300]},"a":1}"#),
            (r#"{"a":1,"sent_at":2}"#, r#"{"a":1}"#),
            (r#"{"meta":{"attempt":1,"x":2}}"#, r#"{"meta":{"x":2,"attempt":"two"}}"#),
            (r#"{"items":[{"at":1,"n":1}]}"#, r#"{"items":[{"at":2,"n":1}]}"#),
            (r#"{"a/b":1}"#, r#"{"a/b":2}"#),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [
            (r#"{"a":1,"sent_at":1}"#, r#"{"a":2,"sent_at":1}"#),
            (r#"{"meta":{"attempt":1}}"#, r#"{"meta":1}"#),
            (r#"{"x":{"sent_at":1}}"#, r#"{"x":{"sent_at":2}}"#),
            (r#"{"items":[{},{"at":1}]}"#, r#"{"items":[{},{"at":2}]}"#),
            // A member twice may be read in two ways.
            (r#"{"sent_at":1,"sent_at":2}"#, r#"{"sent_at":1,"sent_at":2}"#),
            (r#"{"sent_at":}"#, r#"{"sent_at":}"#),
            (r#"{"sent_at":1,"a":1.000000000000000001}"#, r#"{"a":1.000000000000000001}"#),
        ] {
            assert!(!same(a, b), "{a} {b}");
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
            let _ = canonical(&bytes, &[]);
            let _ = canonical(&bytes, &[vec!["a".into()], vec!["0".into()]]);
        }
    }
}
