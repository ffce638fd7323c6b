//! The settings `encryption.*`: which keys seal, and where they are read.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use super::secret::Secret;
use crate::record::SealingAlgorithm;

/// `encryption.*`: how records, and results of steps, are sealed before a store or a ledger gets them. Needs the feature
/// `encryption`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encryption {
    /// `keys`: the first one seals, all of them open. Empty: nothing is sealed.
    pub keys: Vec<SealingKey>,
    /// `algorithm` that seals. Each opens what it has sealed.
    pub algorithm: SealingAlgorithm,
    /// `mode`: whether the keys of the server are enough to open a record.
    pub mode: SealingMode,
    /// `index_key`: the key of the ids, fingerprints and principals in stores. It can't be rotated.
    pub index_key: Option<SecretSource>,
    /// `index_key_is_new`: the start with another `index_key` is meant. Earlier records are not found.
    pub index_key_is_new: bool,
    /// `accept_unsealed`: whether records that are not sealed are answered, from before the encryption.
    pub accept_unsealed: bool,
}

/// Which keys open a record; setting `encryption.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealingMode {
    /// The keys of the server.
    #[default]
    Server,
    /// The keys of the server together with the client's idempotency key: operators don't see a response whose key they
    /// don't know.
    Client,
}

/// A key that seals, in `encryption.keys`: `2:env:IDEM_KEY_2` or `1:file:/run/secrets/k1`.
///
/// The number is in every sealed record, and says which key opens it. Another key needs another number.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey {
    pub(super) id: u16,
    pub(super) source: SecretSource,
}

/// The place where a key is read: `env:NAME` or `file:PATH`. There it is 64 hexadecimal digits, or base64 of 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretSource(pub(super) Place);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    Variable(String),
    File(PathBuf),
    /// Given by code.
    #[cfg_attr(not(feature = "encryption"), expect(dead_code, reason = "keys are taken with the feature only"))]
    Code(Arc<Secret>),
}

impl SealingKey {
    /// A key with this number from 1 on.
    #[must_use]
    pub const fn new(id: u16, source: SecretSource) -> Self {
        Self { id, source }
    }
}

#[cfg(feature = "encryption")]
impl SecretSource {
    /// A key that the application has fetched itself, from a key management service for example.
    #[must_use]
    pub fn given(key: [u8; 32]) -> Self {
        Self(Place::Code(Arc::new(Secret::new(key))))
    }

    /// Reads the key.
    pub(super) fn read(&self) -> Result<Arc<Secret>, String> {
        let text = match &self.0 {
            Place::Code(secret) => return Ok(secret.clone()),
            Place::Variable(name) => std::env::var(name).map_err(|error| error.to_string())?,
            Place::File(path) => std::fs::read_to_string(path).map_err(|error| error.to_string())?,
        };
        let text: zeroize::Zeroizing<String> = text.into();
        let secret = Secret::parse(&text);
        Ok(Arc::new(secret.ok_or("not a key: 64 hexadecimal digits, or base64 of 32 bytes")?))
    }
}

/// Why a key can't be used. Names its entry in the settings, never the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting `{setting}`: `{entry}`: {why}")]
#[non_exhaustive]
pub struct KeyError {
    /// The setting.
    pub setting: &'static str,
    /// The entry of the setting.
    pub entry: String,
    /// The reason.
    pub why: String,
}

/// The text is no entry of `encryption.keys`, or no place of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is named NUMBER:env:NAME or NUMBER:file:PATH, with a number from 1 to 65535; an index key has no number"
)]
pub struct ParseKeyError;

impl FromStr for SealingKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let (id, source) = text.split_once(':').ok_or(ParseKeyError)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or(ParseKeyError)?;
        Ok(Self { id, source: source.parse()? })
    }
}

impl FromStr for SecretSource {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        match text.split_once(':') {
            Some((_, "")) | None => Err(ParseKeyError),
            // Errors name the place of a key, so a key must not be taken for one.
            Some((_, place)) if may_be_a_key(place) => Err(ParseKeyError),
            Some(("env", name)) => Ok(Self(Place::Variable(name.to_owned()))),
            Some(("file", path)) => Ok(Self(Place::File(path.into()))),
            Some(_) => Err(ParseKeyError),
        }
    }
}

/// Whether a text may be a key by mistake: hexadecimal digits, or base64 of 32 bytes.
fn may_be_a_key(text: &str) -> bool {
    let is_hex = text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
    let (lower, digit) = (|byte: u8| byte.is_ascii_lowercase(), |byte: u8| byte.is_ascii_digit());
    let has = |what: fn(u8) -> bool| text.bytes().any(what);
    is_hex || matches!(text.len(), 43 | 44) && text.bytes().all(is_of_base64) && has(lower) && has(digit)
}

impl fmt::Display for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.source)
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Variable(name) => write!(f, "env:{name}"),
            Place::File(path) => write!(f, "file:{}", path.display()),
            Place::Code(_) => f.write_str("code"),
        }
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Encryption {
    /// The first setting that is not as without encryption.
    pub(crate) fn first_set(&self) -> Option<&'static str> {
        let set = [
            ("encryption.keys", !self.keys.is_empty()),
            ("encryption.algorithm", self.algorithm != SealingAlgorithm::default()),
            ("encryption.mode", self.mode != SealingMode::default()),
            ("encryption.index_key", self.index_key.is_some()),
            ("encryption.index_key_is_new", self.index_key_is_new),
            ("encryption.accept_unsealed", self.accept_unsealed),
        ];
        set.into_iter().find(|(_, is_set)| *is_set).map(|(name, _)| name)
    }

    /// Whether the settings make sense together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let set = self.first_set();
        if let Some(needs_keys) = set.filter(|_| self.keys.is_empty())
            && !needs_keys.starts_with("encryption.index_key")
        {
            return Err(format!("`{needs_keys}` needs `encryption.keys`: without keys nothing is sealed"));
        }
        if self.index_key_is_new && self.index_key.is_none() {
            return Err("`encryption.index_key_is_new` needs `encryption.index_key`".into());
        }
        let twice = self.keys.iter().enumerate().find(|(at, key)| self.keys[..*at].iter().any(|one| one.id == key.id));
        if let Some((_, key)) = twice {
            return Err(format!("two of `encryption.keys` have the number {}", key.id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_number_and_a_place() {
        for text in ["2:env:IDEM_KEY_2", "1:file:/run/secrets/k1", "65535:file:C:\\key"] {
            assert_eq!(text.parse::<SealingKey>().unwrap().to_string(), text);
        }
        for text in ["", "env:A", "0:env:A", "65536:env:A", "1:env:", "1:env", "1:vault:a", "-1:env:A", "1:A"] {
            assert_eq!(text.parse::<SealingKey>(), Err(ParseKeyError), "{text}");
        }
        assert_eq!("env:A".parse::<SecretSource>().unwrap().to_string(), "env:A");
        assert!("1:env:A".parse::<SecretSource>().is_err());
        let (hex, base64) = ("0af1".repeat(16), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        for key in [&hex, &hex.to_uppercase(), base64, base64.trim_end_matches('=')] {
            for text in [format!("env:{key}"), format!("file:{key}")] {
                assert!(text.parse::<SecretSource>().is_err(), "{text}");
            }
        }
        for name in
            ["env:PAYMENTS_IDEMPOTENCY_INDEX_KEY_OF_THE_YEAR_2027", "file:/run/secrets/idempotency/0af10af10af10af1"]
        {
            assert!(name.parse::<SecretSource>().is_ok(), "{name}");
        }
    }

    #[test]
    fn settings_that_seal_nothing_are_refused() {
        let with = |change: fn(&mut Encryption)| {
            let mut encryption = Encryption::default();
            change(&mut encryption);
            encryption.check()
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|e| e.keys = vec!["1:env:A".parse().unwrap(), "2:env:A".parse().unwrap()]), Ok(()));
        assert_eq!(with(|e| e.index_key = Some("env:A".parse().unwrap())), Ok(()));
        for wrong in [
            with(|e| e.mode = SealingMode::Client),
            with(|e| e.algorithm = SealingAlgorithm::XChaCha20Poly1305),
            with(|e| e.accept_unsealed = true),
            with(|e| e.index_key_is_new = true),
            with(|e| e.keys = vec!["1:env:A".parse().unwrap(), "1:env:B".parse().unwrap()]),
        ] {
            assert!(wrong.is_err());
        }
    }
}
