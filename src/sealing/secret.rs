//! Key material.

use std::fmt;

/// The 32 bytes of a key. They are overwritten when the last owner drops them, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(#[cfg(feature = "encryption")] zeroize::Zeroizing<[u8; 32]>);

#[cfg(feature = "encryption")]
impl Secret {
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a key as hexadecimal digits (64) or as base64 (with or without padding, of either alphabet).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        let mut key = Self::new([0; 32]);
        if digits.len() == 64 {
            for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
            }
            return Some(key);
        }
        let digits = digits.strip_suffix(b"=").unwrap_or(digits);
        if digits.len() != 43 {
            return None;
        }
        let (mut bits, mut count, mut at) = (0_u32, 0, 0);
        for &digit in digits {
            bits = bits << 6 | u32::from(base64_digit(digit)?);
            count += 6;
            if count >= 8 {
                count -= 8;
                *key.0.get_mut(at)? = (bits >> count).to_le_bytes()[0];
                at += 1;
            }
        }
        // 43 digits are 258 bits. The last two mean nothing and must be 0.
        (bits.trailing_zeros() >= 2).then_some(key)
    }
}

#[cfg(feature = "encryption")]
impl From<zeroize::Zeroizing<[u8; 32]>> for Secret {
    fn from(bytes: zeroize::Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }
}

#[cfg(feature = "encryption")]
fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| digit.try_into().ok())
}

#[cfg(feature = "encryption")]
fn base64_digit(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(all(test, feature = "encryption"))]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_or_base64_of_32_bytes() {
        let key: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let hex = crate::key::digest::hex(&key);
        for text in [
            hex.as_str(),
            &hex.to_ascii_uppercase(),
            &format!("{hex}\n"),
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            assert_eq!(Secret::parse(text).unwrap().as_bytes(), &key, "{text}");
        }
        assert_eq!(Secret::parse(&"_".repeat(42)).map(|_| ()), None);
        assert_eq!(Secret::parse(&format!("{}8", "_".repeat(42))).unwrap().as_bytes(), &[0xff; 32]);
        for text in
            ["", "00", &hex[1..], &format!("{hex}0"), &format!("{}g", &hex[1..]), &"_".repeat(43), &"é".repeat(32)]
        {
            assert_eq!(Secret::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new([0x41; 32])), "Secret");
    }
}
