//! The idempotency key as a client sent it: validated, and never shown whole.

use std::fmt;

use actix_web::http::header::{HeaderMap, HeaderName};

use super::RecordId;

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
    /// The bytes as they are; visible ASCII only.
    Raw,
}

/// A validated idempotency key, decoded from its header.
///
/// `Debug` shows its length only: a key may be all that protects a stored response.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// Why a key header can't be used. Becomes a `400` of type `invalid-key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// More than one field line carried a key, even if the values are equal.
    #[error("the key must be sent in exactly one header line")]
    Repeated,
    /// Nothing, or only blanks.
    #[error("the key is empty")]
    Blank,
    /// More characters than `max_key_length`.
    #[error("the key is longer than {max} characters")]
    TooLong {
        /// The setting `max_key_length`.
        max: usize,
    },
    /// Not what the setting `syntax` accepts.
    #[error("the key is malformed: {0}")]
    Malformed(&'static str),
}

impl Key {
    /// Reads the one key header of a request. `Ok(None)`: there is none.
    pub(crate) fn of_request(
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
            Syntax::Strict => sf_string(value)?,
            Syntax::Lenient if value.first() == Some(&b'"') => sf_string(value)?,
            Syntax::Lenient => bare(value)?,
            Syntax::Raw => visible(value)?,
        };
        if key.trim_ascii().is_empty() {
            return Err(InvalidKey::Blank);
        }
        if key.len() > max {
            return Err(InvalidKey::TooLong { max });
        }
        Ok(Self(key.into_boxed_str()))
    }

    /// As hexadecimal digits.
    pub(crate) fn derived(hash: [u8; 32]) -> Self {
        Self(RecordId::from_bytes(hash).to_string().into_boxed_str())
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

/// Which characters a bare value has. A table, since every key is looked at.
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

fn visible(value: &[u8]) -> Result<String, InvalidKey> {
    if !value.iter().all(u8::is_ascii_graphic) {
        return Err(InvalidKey::Malformed("not visible ASCII"));
    }
    Ok(ascii(value))
}

/// Callers have checked that every byte is ASCII.
fn ascii(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).expect("ASCII is UTF-8")
}

/// A structured-field Item that is a String; parameters are parsed and ignored (RFC 9651, 4.2.3).
fn sf_string(value: &[u8]) -> Result<String, InvalidKey> {
    let mut rest = Cursor(value);
    let key = rest.string().ok_or(match value.first() {
        None => InvalidKey::Blank,
        Some(b'"') => InvalidKey::Malformed("not a well-formed quoted string"),
        Some(_) => InvalidKey::Malformed("not a quoted string"),
    })?;
    rest.parameters()
        .filter(|()| rest.0.is_empty())
        .ok_or(InvalidKey::Malformed("something after the string that is not a parameter"))?;
    Ok(key)
}

/// What is left of a field value. Each method consumes one production of RFC 9651, or answers `None`.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.peek() == Some(byte);
        if eaten {
            self.0 = &self.0[1..];
        }
        eaten
    }

    /// Consumes while `wanted` holds; how many.
    fn eat_while(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let count = self.0.iter().take_while(|&&b| wanted(b)).count();
        self.0 = &self.0[count..];
        count
    }

    fn string(&mut self) -> Option<String> {
        if !self.eat(b'"') {
            return None;
        }
        let mut text = String::with_capacity(self.0.len());
        loop {
            match self.next()? {
                b'"' => return Some(text),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\') => text.push(char::from(escaped)),
                    _ => return None,
                },
                printable @ b' '..=b'~' => text.push(char::from(printable)),
                _ => return None,
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.eat_while(|b| b == b' ');
            self.parameter_name()?;
            if self.eat(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn parameter_name(&mut self) -> Option<()> {
        matches!(self.peek()?, b'a'..=b'z' | b'*').then_some(())?;
        self.eat_while(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'));
        Some(())
    }

    fn bare_item(&mut self) -> Option<()> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string().map(drop),
            b':' => self.byte_sequence(),
            b'?' => {
                self.next();
                matches!(self.next()?, b'0' | b'1').then_some(())
            }
            b'@' => {
                self.next();
                self.integer()
            }
            b'%' => self.display_string(),
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                self.eat_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
                Some(())
            }
            _ => None,
        }
    }

    fn integer(&mut self) -> Option<()> {
        self.eat(b'-');
        let digits = self.eat_while(|b| b.is_ascii_digit());
        (1..=15).contains(&digits).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        self.eat(b'-');
        let whole = self.eat_while(|b| b.is_ascii_digit());
        if !self.eat(b'.') {
            return (1..=15).contains(&whole).then_some(());
        }
        let fraction = self.eat_while(|b| b.is_ascii_digit());
        ((1..=12).contains(&whole) && (1..=3).contains(&fraction)).then_some(())
    }

    fn byte_sequence(&mut self) -> Option<()> {
        self.next();
        self.eat_while(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
        self.eat(b':').then_some(())
    }

    fn display_string(&mut self) -> Option<()> {
        self.next();
        if !self.eat(b'"') {
            return None;
        }
        let mut decoded = Vec::new();
        loop {
            match self.next()? {
                b'"' => return std::str::from_utf8(&decoded).ok().map(drop),
                b'%' => {
                    let (high, low) = (lower_hex(self.next()?)?, lower_hex(self.next()?)?);
                    decoded.push(high << 4 | low);
                }
                printable @ b' '..=b'~' => decoded.push(printable),
                _ => return None,
            }
        }
    }
}

fn lower_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
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
        assert!(parse("a b", Syntax::Raw).is_err());
        assert!(parse("é", Syntax::Raw).is_err());
        assert_eq!(parse("", Syntax::Raw), Err(InvalidKey::Blank));
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
