//! The idempotency key that a client sends: validated, and never shown whole.

use std::fmt;

use actix_web::http::header::{HeaderMap, HeaderName};

use super::{digest::hex, structured_field};

/// How the value of the key header is read; setting `syntax`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Syntax {
    /// Only a structured-field String (RFC 9651): `"8e03978e-40d5-43dd-bc93-6894a57f9324"`.
    Strict,
    /// A String when the value starts with `"`, else a bare value of `[A-Za-z0-9._~:/+=@-]` that does not start with
    /// `:`, `@` or `=`. Both forms of one key are the same key. The default.
    #[default]
    Lenient,
    /// The bytes as they are: visible ASCII, with blanks inside.
    Raw,
    /// Whatever a header can carry. Bytes beyond ASCII are read as Latin-1, as Django reads them.
    Any,
}

/// A validated idempotency key, decoded from its header.
///
/// `Debug` shows its length only: a key may be all that protects a stored response.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// Why a key header can't be used. The client gets a 400 of type `invalid-key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// More than one field line carried a key. Equal values make no difference.
    #[error("the key must be sent in exactly one header line")]
    Repeated,
    /// A field of the query or of the body that has the key, or a member on the way to it, is there twice. Equal values
    /// make no difference.
    #[error("the key must be sent in exactly one field")]
    RepeatedField,
    /// Two of the places that may have the key have different ones.
    #[error("two places have different keys")]
    Contradicted,
    /// The key is empty, or only blanks.
    #[error("the key is empty")]
    Blank,
    /// The key has more characters than `max_key_length`.
    #[error("the key is longer than {max} characters")]
    TooLong {
        /// The setting `max_key_length`.
        max: usize,
    },
    /// The setting `syntax` does not accept the key.
    #[error("the key is malformed: {0}")]
    Malformed(&'static str),
}

impl Key {
    /// Reads the key of a request from the headers that may have it. `Ok(None)`: none of them is there.
    #[inline]
    pub(crate) fn of_request(
        headers: &HeaderMap,
        names: &[HeaderName],
        syntax: Syntax,
        max: usize,
    ) -> Result<Option<Self>, InvalidKey> {
        let mut found: Option<Self> = None;
        for name in names {
            match (Self::of_header(headers, name, syntax, max)?, &found) {
                (Some(key), Some(found)) if key != *found => return Err(InvalidKey::Contradicted),
                (Some(key), None) => found = Some(key),
                _ => {}
            }
        }
        Ok(found)
    }

    fn of_header(
        headers: &HeaderMap,
        name: &HeaderName,
        syntax: Syntax,
        max: usize,
    ) -> Result<Option<Self>, InvalidKey> {
        let mut lines = headers.get_all(name);
        let Some(line) = lines.next() else {
            return Ok(None);
        };
        if lines.next().is_some() {
            return Err(InvalidKey::Repeated);
        }
        Self::parse(line.as_bytes(), syntax, max).map(Some)
    }

    /// Parses one field value. `max` counts characters of the decoded key.
    ///
    /// # Errors
    /// [`InvalidKey`] when the value is blank, too long, or not what `syntax` accepts.
    pub fn parse(value: &[u8], syntax: Syntax, max: usize) -> Result<Self, InvalidKey> {
        let value = value.trim_ascii();
        let key = match syntax {
            Syntax::Strict => structured_field::string(value)?,
            Syntax::Lenient if value.first() == Some(&b'"') => structured_field::string(value)?,
            Syntax::Lenient => bare(value)?,
            Syntax::Raw => printable(value)?,
            Syntax::Any => value.iter().map(|&byte| char::from(byte)).collect(),
        };
        Self::decoded(key, max)
    }

    /// A key that is not in a header. It is decoded already, so it has the characters that `syntax` lets a decoded key have,
    /// and no quotes around them.
    pub(crate) fn of_text(text: &str, syntax: Syntax, max: usize) -> Result<Self, InvalidKey> {
        let text = text.trim_ascii();
        let key = if syntax == Syntax::Any { text.to_owned() } else { printable(text.as_bytes())? };
        Self::decoded(key, max)
    }

    fn decoded(key: String, max: usize) -> Result<Self, InvalidKey> {
        if key.trim_ascii().is_empty() {
            return Err(InvalidKey::Blank);
        }
        if key.len() > max && (key.is_ascii() || key.chars().count() > max) {
            return Err(InvalidKey::TooLong { max });
        }
        Ok(Self(key.into_boxed_str()))
    }

    /// A key for a call to another service, as hexadecimal digits.
    pub(crate) fn derived(hash: [u8; 32]) -> Self {
        Self(hex(&hash).into_boxed_str())
    }

    /// The decoded key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} characters)", self.0.len())
    }
}

/// A header name in the capitalisation that people use. Header names have no case.
pub(crate) fn header_name(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect::<Vec<_>>().join("-")
}

/// The characters of a bare value. A table, since every key is checked.
const BARE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'_' | b'~' | b':' | b'/' | b'+' | b'=' | b'@' | b'-');
        byte += 1;
    }
    table
};

fn bare(value: &[u8]) -> Result<String, InvalidKey> {
    if value.is_empty() {
        return Err(InvalidKey::Blank);
    }
    if !value.iter().all(|&b| BARE[usize::from(b)]) {
        return Err(InvalidKey::Malformed("a character that needs the quoted form"));
    }
    if b":@=".contains(&value[0]) {
        return Err(InvalidKey::Malformed("a first character that needs the quoted form"));
    }
    Ok(ascii(value))
}

fn printable(value: &[u8]) -> Result<String, InvalidKey> {
    if !value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return Err(InvalidKey::Malformed("a character that is not visible ASCII"));
    }
    Ok(ascii(value))
}

/// Turns bytes that are known to be ASCII into text.
fn ascii(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).expect("ASCII is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(value: &str, syntax: Syntax) -> Result<String, InvalidKey> {
        Key::parse(value.as_bytes(), syntax, 255).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn strict_takes_a_structured_field_string_and_nothing_else() {
        for (value, key) in [
            (r#""abc""#, "abc"),
            (r#"  "abc"  "#, "abc"),
            (r#""a b""#, "a b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#""abc";v=1"#, "abc"),
            (r#""abc"; a; b=?1;c=tok/en;d="s";e=:YWJj:;f=-1.5;g=@1659578233;h=%"f%c3%bc";*x"#, "abc"),
        ] {
            assert_eq!(parse(value, Syntax::Strict).as_deref(), Ok(key), "{value}");
        }
        for value in [
            "abc",
            "1",
            "?1",
            ":YWJj:",
            "@1",
            "(\"a\")",
            "\"a\", \"b\"",
            "\"abc",
            "abc\"",
            r#""a\nb""#,
            "\"\u{7f}\"",
            "\"abc\" x",
            "\"abc\";",
            "\"abc\";A=1",
            "\"abc\";a=",
            "\"abc\";a=?2",
            "\"abc\";a=1.",
            "\"abc\";a=1.2345",
            "\"abc\";a=1234567890123456",
            "\"abc\";a=:!:",
            "\"abc\" ;a",
            "\"abc\";a=@1.5",
            "\"abc\";a=%\"%C3\"",
            "\"abc\";a=%\"%c3\"",
            "\"é\"",
            "",
        ] {
            assert!(parse(value, Syntax::Strict).is_err(), "{value}");
        }
    }

    #[test]
    fn lenient_takes_both_forms_as_the_same_key() {
        let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324";
        assert_eq!(parse(uuid, Syntax::Lenient), parse(&format!("\"{uuid}\""), Syntax::Lenient));
        assert_eq!(parse("a:b/c+d=e@f._~", Syntax::Lenient).as_deref(), Ok("a:b/c+d=e@f._~"));
        for value in [":a", "@a", "=a", "a b", "a,b", "a;b=1", "a\"b", "é", "", "   ", "\"\"", "\"  \""] {
            assert!(parse(value, Syntax::Lenient).is_err(), "{value:?}");
        }
    }

    #[test]
    fn raw_keeps_quotes_and_takes_any_visible_ascii() {
        assert_eq!(parse("\"abc\"", Syntax::Raw).as_deref(), Ok("\"abc\""));
        assert_eq!(parse("a;b,c{}", Syntax::Raw).as_deref(), Ok("a;b,c{}"));
        assert_eq!(parse(" a b ", Syntax::Raw).as_deref(), Ok("a b"));
        assert!(parse("é", Syntax::Raw).is_err() && parse("a\tb", Syntax::Raw).is_err());
        assert_eq!(parse("", Syntax::Raw), Err(InvalidKey::Blank));
    }

    #[test]
    fn any_takes_each_byte_as_a_character_of_latin_1() {
        assert_eq!(parse("a b\t\"c\"", Syntax::Any).as_deref(), Ok("a b\t\"c\""));
        assert_eq!(Key::parse(b"caf\xe9", Syntax::Any, 4).unwrap().as_str(), "café");
        assert_eq!(Key::parse(b"caf\xe9s", Syntax::Any, 4), Err(InvalidKey::TooLong { max: 4 }));
        assert_ne!(Key::parse(b"\xc3\xa9", Syntax::Any, 4), Key::parse(b"\xe9", Syntax::Any, 4));
        assert_eq!(parse("  ", Syntax::Any), Err(InvalidKey::Blank));
    }

    #[test]
    fn of_several_headers_the_first_that_is_there_has_the_key() {
        let names = ["idempotency-key", "paypal-request-id"].map(HeaderName::from_static);
        let of = |sent: &[(&'static str, &'static str)]| {
            let headers: HeaderMap =
                sent.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
            Key::of_request(&headers, &names, Syntax::Lenient, 255).map(|key| key.map(|key| key.as_str().to_owned()))
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("paypal-request-id", "a")]), Ok(Some("a".into())));
        assert_eq!(of(&[("paypal-request-id", "a"), ("idempotency-key", "\"a\"")]), Ok(Some("a".into())));
        assert_eq!(of(&[("paypal-request-id", "a"), ("idempotency-key", "b")]), Err(InvalidKey::Contradicted));
    }

    #[test]
    fn length_counts_decoded_characters() {
        let quoted = format!("\"{}\"", "\\\\".repeat(255));
        assert!(parse(&quoted, Syntax::Strict).is_ok());
        assert_eq!(parse(&"k".repeat(256), Syntax::Lenient), Err(InvalidKey::TooLong { max: 255 }));
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let key = Key::parse(b"secret", Syntax::Raw, 255).unwrap();
        assert!(!format!("{key:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_printable_text_survives_quoting(text in "[ -~]{0,80}[!-~][ -~]{0,80}") {
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            for syntax in [Syntax::Strict, Syntax::Lenient] {
                prop_assert_eq!(parse(&quoted, syntax), Ok(text.clone()));
            }
        }

        #[test]
        fn no_bytes_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Key::parse(&bytes, Syntax::Any, 255);
            for syntax in [Syntax::Strict, Syntax::Lenient, Syntax::Raw] {
                if let Ok(key) = Key::parse(&bytes, syntax, 255) {
                    prop_assert!(key.as_str().is_ascii() && !key.as_str().trim().is_empty() && key.as_str().len() <= 255);
                }
            }
        }

        #[test]
        fn mutated_parameters_never_panic(tail in "[;=?@:%\"a-z0-9 .\\-]{0,40}") {
            let _ = parse(&format!("\"k\"{tail}"), Syntax::Strict);
        }
    }
}
