//! HMAC-SHA256, and the keys that are derived by it.

use std::{fmt, sync::LazyLock};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::secret::Secret;

/// HMAC-SHA256 with a key. Its state is made once and copied for each use, and every copy is overwritten when it is
/// dropped.
pub(super) struct Mac(Hmac<Sha256>);

impl Mac {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    pub(super) fn of(&self, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        let mut value = Zeroizing::new([0; 32]);
        value.copy_from_slice(mac.finalize().as_bytes());
        value
    }

    /// A value for one purpose. All parts but the last have fixed lengths.
    pub(super) fn value(&self, purpose: &[u8], parts: [&[u8]; 3]) -> [u8; 32] {
        let [first, second, third] = parts;
        *self.of(&[&[purpose.len().to_le_bytes()[0]], purpose, first, second, third])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac")
    }
}

/// A key of 32 bytes by HKDF with SHA-256 (RFC 5869), without a salt. `more` is added to the key material.
pub(super) fn derive(key: &Secret, more: &[u8], purpose: &[u8]) -> Secret {
    static EXTRACT: LazyLock<Mac> = LazyLock::new(|| Mac::new(&[0; 32]));
    let extracted = EXTRACT.of(&[key.as_bytes(), more]);
    Secret::from(Mac::new(&extracted).of(&[purpose, &[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first 32 bytes of test case 3 of RFC 5869, whose key material has 22 bytes.
    #[test]
    fn the_derivation_is_hkdf() {
        let extracted = Mac::new(&[0; 32]).of(&[&[0x0b; 22]]);
        let key = Mac::new(&extracted).of(&[&[1]]);
        let wanted = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        assert_eq!(crate::key::digest::hex(&*key), wanted);
    }
}
