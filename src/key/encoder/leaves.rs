//! The leaves of a JSON body: its scalars and its empty containers, each with the JSON pointer to it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{Canonical, beyond, canonical};
use crate::key::comparison::Pointer;

/// A larger body has no leaves.
const MOST_BYTES: usize = 64 << 10;

/// A body with more leaves has none.
pub(crate) const MOST_LEAVES: usize = 64;

/// A scalar, or an empty container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The pointer to it (RFC 6901).
    pub(crate) pointer: String,
    /// The value, written in one way only.
    pub(crate) value: Vec<u8>,
}

/// The leaves of a JSON text, in its order, without the parts that `ignored` points to. `None`: the text is no JSON, can't
/// be compared safely, is too large, or has too many leaves or too long pointers.
pub(crate) fn leaves(text: &[u8], ignored: &[Pointer]) -> Option<Vec<Leaf>> {
    if text.len() > MOST_BYTES {
        return None;
    }
    // Refuses members that are there twice, and numbers that a double can't tell apart.
    canonical(text, ignored)?;
    let mut found = Found::default();
    let ignored: Vec<&[String]> = ignored.iter().map(Vec::as_slice).collect();
    let mut reader = serde_json::Deserializer::from_slice(text);
    Walk { path: &mut String::new(), ignored: &ignored, to: &mut found }.deserialize(&mut reader).ok()?;
    Some(found.leaves)
}

#[derive(Default)]
struct Found {
    leaves: Vec<Leaf>,
    /// The bytes of all pointers. Members with long names that lie in each other could make far more than the text has.
    pointers: usize,
}

/// Walks through one value.
struct Walk<'a> {
    /// The pointer to this value.
    path: &'a mut String,
    /// The pointers from this value to the parts that are left out.
    ignored: &'a [&'a [String]],
    to: &'a mut Found,
}

impl Walk<'_> {
    fn leaf<E: Error>(self, value: Vec<u8>) -> Result<(), E> {
        self.to.pointers += self.path.len();
        if self.to.leaves.len() == MOST_LEAVES || self.to.pointers > MOST_BYTES {
            return Err(E::custom("too many leaves"));
        }
        self.to.leaves.push(Leaf { pointer: self.path.clone(), value });
        Ok(())
    }

    fn scalar<E: Error>(self, write: impl FnOnce(Canonical<'_, '_>) -> Result<(), E>) -> Result<(), E> {
        let (mut value, mut skipped) = (Vec::new(), Vec::new());
        write(Canonical { to: &mut value, ignored: &[], skipped: &mut skipped })?;
        self.leaf(value)
    }

    /// Walks through a member or an item, by `read`. Whether there was one that counts.
    fn within<T>(&mut self, token: &str, read: impl FnOnce(Option<Walk<'_>>) -> T) -> (T, bool) {
        let ignored = if self.ignored.is_empty() { Vec::new() } else { beyond(self.ignored, token) };
        if ignored.contains(&&[][..]) {
            return (read(None), false);
        }
        let length = self.path.len();
        self.path.push('/');
        self.path.push_str(&token.replace('~', "~0").replace('/', "~1"));
        let value = read(Some(Walk { path: self.path, ignored: &ignored, to: self.to }));
        self.path.truncate(length);
        (value, true)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(|canonical| canonical.visit_unit())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(|canonical| canonical.visit_bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(|canonical| canonical.visit_u64(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(|canonical| canonical.visit_i64(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(|canonical| canonical.visit_f64(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(|canonical| canonical.visit_str(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut is_empty = true;
        for at in 0_usize.. {
            let (read, counts) = self.within(&at.to_string(), |walk| match walk {
                Some(walk) => items.next_element_seed(walk),
                None => items.next_element::<IgnoredAny>().map(|item| item.map(drop)),
            });
            if read?.is_none() {
                break;
            }
            is_empty &= !counts;
        }
        if is_empty { self.leaf(b"[]".to_vec()) } else { Ok(()) }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let mut is_empty = true;
        while let Some(name) = members.next_key::<String>()? {
            let (read, counts) = self.within(&name, |walk| match walk {
                Some(walk) => members.next_value_seed(walk),
                None => members.next_value::<IgnoredAny>().map(drop),
            });
            read?;
            is_empty &= !counts;
        }
        if is_empty { self.leaf(b"{}".to_vec()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::pointer;

    fn pointers(text: &str, ignored: &[&str]) -> Option<Vec<String>> {
        let ignored: Vec<Pointer> = ignored.iter().map(|text| pointer(text).unwrap()).collect();
        Some(leaves(text.as_bytes(), &ignored)?.into_iter().map(|leaf| leaf.pointer).collect())
    }

    #[test]
    fn every_scalar_and_every_empty_container_has_its_pointer() {
        let all = pointers(r#"{"a":1,"b":{"c":[true,null,{"d":"x"}],"e":{}},"f":[],"g/h":{"~":-0.5},"":0}"#, &[]);
        let expected = ["/a", "/b/c/0", "/b/c/1", "/b/c/2/d", "/b/e", "/f", "/g~1h/~0", "/"];
        assert_eq!(all.unwrap(), expected);
        assert_eq!(pointers("17", &[]).unwrap(), [""]);
    }

    #[test]
    fn ignored_parts_have_no_leaves_and_leave_the_others_where_they_are() {
        let text = r#"{"sent_at":{"x":1},"items":[{"at":1,"n":2},3,4],"only":{"at":1}}"#;
        let all = pointers(text, &["/sent_at", "/items/0/at", "/items/1", "/only/at"]).unwrap();
        assert_eq!(all, ["/items/0/n", "/items/2", "/only"]);
    }

    #[test]
    fn values_are_equal_as_the_canonical_encoder_says() {
        let value = |text: &str| leaves(text.as_bytes(), &[]).unwrap().remove(0).value;
        for (a, b) in [("1.50", "1.5"), ("0", "-0"), (r#""x""#, r#""\u0078""#), ("[]", "[ ]")] {
            assert_eq!(value(a), value(b), "{a} {b}");
        }
        for (a, b) in [("1", "1.0"), ("1", "\"1\""), ("null", "false"), ("[]", "{}"), ("\"[]\"", "[]"), ("\"\"", "{}")]
        {
            assert_ne!(value(a), value(b), "{a} {b}");
        }
    }

    #[test]
    fn what_is_too_large_or_can_not_be_compared_has_none() {
        let list = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert_eq!(pointers(&list(MOST_LEAVES), &[]).unwrap().len(), MOST_LEAVES);
        let text = |n: usize| format!("\"{}\"", "x".repeat(n));
        assert!(pointers(&text(MOST_BYTES - 2), &[]).is_some());
        let long = format!("{{\"{}\":{}}}", "n".repeat(10_000), list(7));
        for text in [
            list(MOST_LEAVES + 1),
            text(MOST_BYTES - 1),
            long,
            "{".into(),
            String::new(),
            "1 2".into(),
            r#"{"a":1,"a":1}"#.into(),
            r#"{"amount":1234567890123456.78}"#.into(),
        ] {
            assert_eq!(pointers(&text, &[]), None, "{}", &text[..text.len().min(30)]);
        }
    }
}
