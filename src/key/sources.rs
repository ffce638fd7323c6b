//! Keys that are not in a header: in the query, or in the body.

use std::borrow::Cow;

use actix_web::http::header;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{InvalidKey, Key, RequestHeaders, Syntax, comparison::Pointer, is_json};

/// The sources of keys beside headers, and how keys are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) query: Vec<String>,
    pub(crate) form: Vec<String>,
    pub(crate) json: Vec<Pointer>,
    pub(crate) syntax: Syntax,
    pub(crate) max: usize,
}

type Found = Result<Option<Key>, InvalidKey>;

impl Sources {
    /// The key in a query, which must be that of the headers if these have one.
    pub(crate) fn in_query(&self, query: &str, found: Found) -> Found {
        self.in_fields(&self.query, query.as_bytes(), found?)
    }

    /// Whether a body with this head may have the key.
    pub(crate) fn may_be_in_body(&self, headers: RequestHeaders<'_>) -> bool {
        (!self.json.is_empty() && is_json(headers)) || (!self.form.is_empty() && is_form(headers))
    }

    /// The key in a body, which must be that of the head if this has one.
    pub(crate) fn in_body(&self, headers: RequestHeaders<'_>, body: &[Bytes], mut found: Option<Key>) -> Found {
        let whole = match body {
            [one] => Cow::Borrowed(&one[..]),
            pieces => Cow::Owned(pieces.concat()),
        };
        if is_form(headers) {
            return self.in_fields(&self.form, &whole, found);
        }
        if is_json(headers) {
            for pointer in &self.json {
                found = self.joined(found, text_at(&whole, pointer)?)?;
            }
        }
        Ok(found)
    }

    fn in_fields(&self, names: &[String], fields: &[u8], mut found: Option<Key>) -> Found {
        for name in names {
            found = self.joined(found, field(fields, name)?)?;
        }
        Ok(found)
    }

    /// Adds what another source has.
    fn joined(&self, found: Option<Key>, text: Option<String>) -> Found {
        let Some(text) = text else { return Ok(found) };
        let key = Key::of_text(&text, self.syntax, self.max)?;
        if found.is_some_and(|found| found != key) { Err(InvalidKey::Contradicted) } else { Ok(Some(key)) }
    }
}

fn is_form(headers: RequestHeaders<'_>) -> bool {
    let field = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let media = field(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && field(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"))
}

/// The value of a field of a query or a form.
fn field(fields: &[u8], name: &str) -> Result<Option<String>, InvalidKey> {
    let decoded = |text: &[u8]| {
        let text: Vec<u8> = text.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        percent_encoding::percent_decode(&text).collect::<Vec<u8>>()
    };
    let mut found = None;
    for pair in fields.split(|&byte| byte == b'&') {
        let (this, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        };
        if decoded(this) != name.as_bytes() {
            continue;
        }
        if found.is_some() {
            return Err(InvalidKey::RepeatedField);
        }
        found = Some(String::from_utf8(decoded(value)).map_err(|_| InvalidKey::Malformed("it is not UTF-8"))?);
    }
    Ok(found)
}

/// The text at a place of a JSON document. `None`: it is no JSON, or nothing is there.
fn text_at(text: &[u8], pointer: &[String]) -> Result<Option<String>, InvalidKey> {
    let mut found = Place::default();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let is_read = Find { pointer, to: &mut found }.deserialize(&mut reader).is_ok() && reader.end().is_ok();
    match found {
        _ if !is_read => Ok(None),
        Place { is_repeated: true, .. } => Err(InvalidKey::RepeatedField),
        Place { is_other: true, .. } => Err(InvalidKey::Malformed("it is not a JSON string")),
        Place { text, .. } => Ok(text),
    }
}

/// The value at a place of a document.
#[derive(Default)]
struct Place {
    text: Option<String>,
    /// Whether a member on the way is there twice: readers would take one or the other.
    is_repeated: bool,
    /// Whether something else than a text or null is there.
    is_other: bool,
}

struct Find<'a> {
    pointer: &'a [String],
    to: &'a mut Place,
}

impl Find<'_> {
    /// Something without members is here.
    fn scalar(self, is_null: bool) {
        self.to.is_other |= self.pointer.is_empty() && !is_null;
    }
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar(true);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar(false);
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.scalar(false);
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.scalar(false);
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.scalar(false);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.pointer.is_empty() {
            self.to.text = Some(text.to_owned());
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let next = self.pointer.split_first();
        self.to.is_other |= next.is_none();
        for at in 0_usize.. {
            let is_there = match next {
                Some((token, pointer)) if *token == at.to_string() => {
                    items.next_element_seed(Find { pointer, to: self.to })?.is_some()
                }
                _ => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !is_there {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let next = self.pointer.split_first();
        self.to.is_other |= next.is_none();
        let mut seen = false;
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            match next {
                Some((token, pointer)) if *token == name => {
                    self.to.is_repeated |= seen;
                    seen = true;
                    members.next_value_seed(Find { pointer, to: self.to })?;
                }
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::pointer;

    #[test]
    fn a_text_is_found_by_its_pointer() {
        let at = |text: &str, place: &str| text_at(text.as_bytes(), &pointer(place).unwrap());
        assert_eq!(at(r#"{"a":1,"key":"k\u0031"}"#, "/key"), Ok(Some("k1".into())));
        assert_eq!(at(r#"{"data":[{},{"id":"x"}],"data2":[1,1]}"#, "/data/1/id"), Ok(Some("x".into())));
        for text in ["{}", r#"{"key":null}"#, r#"{"key":"a"} x"#, "{", "", "[]", "1", r#"{"x":{"key":"a","key":"b"}}"#]
        {
            assert_eq!(at(text, "/key"), Ok(None), "{text}");
        }
        for text in [r#"{"key":"a","key":"a"}"#, r#"{"key":null,"k\u0065y":"a"}"#] {
            assert_eq!(at(text, "/key"), Err(InvalidKey::RepeatedField), "{text}");
        }
        for text in [r#"{"key":1}"#, r#"{"key":["a"]}"#, r#"{"key":{}}"#, r#"{"key":true}"#, r#"{"key":1.5}"#] {
            assert!(matches!(at(text, "/key"), Err(InvalidKey::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let of = |fields: &str| field(fields.as_bytes(), "key");
        assert_eq!(of("a=1&key=a%2Bb+c&keys=2"), Ok(Some("a+b c".into())));
        assert_eq!(of("%6bey=a"), Ok(Some("a".into())));
        assert_eq!(of("key"), Ok(Some(String::new())));
        assert_eq!(of("a=key"), Ok(None));
        assert_eq!(of("key=a&key=a"), Err(InvalidKey::RepeatedField));
        assert!(of("key=%ff").is_err());
    }
}
