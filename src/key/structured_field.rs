//! The part of RFC 9651 (structured fields) that the headers `Idempotency-Key` and `Content-Digest` need.

use super::InvalidKey;

/// Parses a structured-field Item that is a String. Parameters are parsed and ignored (RFC 9651, 4.2.3).
pub(super) fn string(value: &[u8]) -> Result<String, InvalidKey> {
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

/// Parses a structured-field Dictionary for its member `wanted`, which must be a Byte Sequence. Returns its base64 text.
/// `Ok(None)`: there is no such member. The last of several counts (RFC 9651, 4.2.2).
pub(super) fn bytes_of_member(value: &[u8], wanted: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut rest = Cursor(value);
    let mut found = None;
    rest.spaces();
    while !rest.0.is_empty() {
        let (before, is_wanted) = (rest.0, rest.0.starts_with(wanted));
        rest.parameter_name().ok_or(())?;
        let is_wanted = is_wanted && before.len() - rest.0.len() == wanted.len();
        let value = if rest.eat(b'=') { rest.0 } else { &[] };
        if value.first() == Some(&b'(') || (is_wanted && value.first() != Some(&b':')) {
            return Err(());
        }
        if !value.is_empty() {
            rest.bare_item().ok_or(())?;
        }
        if is_wanted {
            let item = &value[..value.len() - rest.0.len()];
            found = Some(item[1..item.len() - 1].to_vec());
        }
        rest.parameters().ok_or(())?;
        rest.spaces();
        if rest.0.is_empty() {
            break;
        }
        let has_more = rest.eat(b',');
        rest.spaces();
        if !has_more || rest.0.is_empty() {
            return Err(());
        }
    }
    Ok(found)
}

/// The unread rest of a field value. Each method consumes one production of RFC 9651, or returns `None`.
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

    /// Consumes bytes while `wanted` holds. Returns how many.
    fn eat_while(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let count = self.0.iter().take_while(|&&b| wanted(b)).count();
        self.0 = &self.0[count..];
        count
    }

    fn spaces(&mut self) {
        self.eat_while(|b| matches!(b, b' ' | b'\t'));
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
