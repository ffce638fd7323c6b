//! Ids, fingerprints and principals, masked by a key for stores and ledgers, which only compare them.

#[cfg(feature = "encryption")]
use std::sync::Arc;

#[cfg(feature = "encryption")]
use super::{mac::Mac, secret::Secret};
use crate::key::{Fingerprint, Principal, RecordId};

/// The setting `encryption.index_key`. Without it stores have the hashes as they are, and whoever reads a store can try
/// guesses of keys, bodies and principals against them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index(#[cfg(feature = "encryption")] Option<Arc<Mac>>);

#[cfg(not(feature = "encryption"))]
#[expect(clippy::unused_self, reason = "the feature uses it")]
impl Index {
    #[inline]
    pub(crate) fn id(&self, id: RecordId) -> RecordId {
        id
    }

    #[inline]
    pub(crate) fn fingerprint(&self, _: &RecordId, fingerprint: Fingerprint) -> Fingerprint {
        fingerprint
    }

    #[inline]
    pub(crate) fn principal(&self, principal: Principal) -> Principal {
        principal
    }
}

#[cfg(feature = "encryption")]
impl Index {
    pub(super) fn new(key: Option<&Secret>) -> Self {
        Self(key.map(|key| Arc::new(Mac::new(key.as_bytes()))))
    }

    pub(super) fn key(&self) -> Option<&Mac> {
        self.0.as_deref()
    }

    /// The id under which a store has a record.
    pub(crate) fn id(&self, id: RecordId) -> RecordId {
        let Some(key) = &self.0 else { return id };
        RecordId::from_bytes(key.value(b"id", [id.as_bytes(), &[], &[]]))
    }

    /// The fingerprint that a store compares for the record `id`. Equal payloads look different in each record. The
    /// scheme stays as it is: it says how a fingerprint was made, and nothing of the request.
    pub(crate) fn fingerprint(&self, id: &RecordId, fingerprint: Fingerprint) -> Fingerprint {
        let Some(key) = &self.0 else { return fingerprint };
        let (scheme, target, digest) = fingerprint.parts();
        let target = key.value(b"target", [id.as_bytes(), target, &[]]);
        let digest = key.value(b"digest", [id.as_bytes(), digest, &[]]);
        Fingerprint::new(*scheme, *target.first_chunk().expect("a hash has 32 bytes"), digest)
    }

    /// The principal as a store knows it, for its tags.
    pub(crate) fn principal(&self, principal: Principal) -> Principal {
        let Some(key) = &self.0 else { return principal };
        principal.hidden(|hash| key.value(b"principal", [hash, &[], &[]]))
    }
}

#[cfg(all(test, feature = "encryption"))]
mod tests {
    use super::*;
    use crate::key::Match;

    fn index(byte: u8) -> Index {
        Index::new(Some(&Secret::new([byte; 32])))
    }

    /// A changed byte would lose every record of a shared store, and run its operations again.
    #[test]
    fn what_stores_compare_stays_as_it_is() {
        let (index, id) = (index(7), RecordId::from_bytes([1; 32]));
        let fingerprint = Fingerprint::new([1; 2], [2; 8], [3; 32]);
        assert_eq!(index.id(id).to_string(), "539c535cd317968dfa33ee39059c14967aace0093edbd48a3b8d737f054d28e1");
        assert_eq!(
            index.fingerprint(&id, fingerprint).to_string(),
            "0101f0acf44f4850c9a6c7aa6b5a0b481980e29ce1e5a2537f89bd23ad877b737cdb145fab49da521e7e"
        );
        let tag = index.principal(Principal::new("alice")).tag(&id);
        assert_eq!(crate::key::digest::hex(tag.as_bytes()), "d188014c361c6b23");
    }

    #[test]
    fn another_key_makes_everything_else() {
        let (a, b, id) = (index(1), index(2), RecordId::from_bytes([1; 32]));
        let fingerprint = Fingerprint::new([1; 2], [2; 8], [3; 32]);
        assert_ne!(a.id(id), b.id(id));
        assert_eq!(a.fingerprint(&id, fingerprint).compare(&b.fingerprint(&id, fingerprint)), Match::Mismatch);
        assert_ne!(a.principal(Principal::new("alice")), b.principal(Principal::new("alice")));
        assert_ne!(a.principal(Principal::new("alice")), a.principal(Principal::new("bob")));
        assert!(a.principal(Principal::anonymous()).is_anonymous(), "anonymous requests are not one principal");
        assert_eq!(Index::default().id(id), id);
    }

    #[test]
    fn equal_payloads_look_different_in_each_record_and_compare_as_before() {
        let (index, id, other) = (index(1), RecordId::from_bytes([1; 32]), RecordId::from_bytes([2; 32]));
        let of = |scheme, target, digest| Fingerprint::new([scheme; 2], [target; 8], [digest; 32]);
        let hidden = |id: &RecordId, fingerprint| index.fingerprint(id, fingerprint);
        assert_ne!(hidden(&id, of(1, 1, 1)), hidden(&other, of(1, 1, 1)));
        for other in [of(1, 1, 1), of(1, 1, 2), of(1, 2, 1), of(2, 1, 2), of(2, 2, 1)] {
            assert_eq!(hidden(&id, of(1, 1, 1)).compare(&hidden(&id, other)), of(1, 1, 1).compare(&other));
        }
    }
}
