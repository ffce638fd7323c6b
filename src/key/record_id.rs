//! Under which id a record is found.

use super::{
    Principal,
    digest::{Digest, hash_type},
};

hash_type! {
    /// Finds a record: SHA-256 over namespace, cache, principal and encoded key (with `scope = endpoint` also method
    /// and path). The client's key itself never becomes part of a store's key.
    RecordId
}

/// Makes the ids of the records of one cache. Their hashes begin alike, so that beginning is computed once.
pub(crate) struct RecordIds(Digest);

impl RecordIds {
    pub(crate) fn new(namespace: &str, cache: &str) -> Self {
        let mut digest = Digest::new(b"id");
        digest.part(namespace.as_bytes()).part(cache.as_bytes());
        Self(digest)
    }

    /// The id of a record. `endpoint`: method and path, with `scope = endpoint`.
    pub(crate) fn of(&self, principal: &Principal, encoded: &str, endpoint: Option<(&str, &str)>) -> RecordId {
        let mut digest = self.0.clone();
        principal.add_to(&mut digest);
        digest.part(encoded.as_bytes());
        if let Some((method, path)) = endpoint {
            digest.part(method.as_bytes()).part(path.as_bytes());
        }
        RecordId::from_bytes(digest.finish())
    }
}

impl RecordId {
    /// The id of the same request with `mode = observe`. Observed records are kept apart, so that none becomes an
    /// answer.
    pub(crate) fn observed(self) -> Self {
        Self::from_bytes(Digest::new(b"observed").part(self.as_bytes()).finish())
    }
}

impl std::str::FromStr for RecordId {
    type Err = ParseRecordIdError;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(ParseRecordIdError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ParseRecordIdError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseRecordIdError)?;
        }
        Ok(Self::from_bytes(bytes))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record id is 64 hexadecimal digits")]
pub struct ParseRecordIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_id_reads_back_from_its_text() {
        let id = RecordId::from_bytes(Digest::new(b"t").finish());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<RecordId>().is_err());
        assert!("é".repeat(32).parse::<RecordId>().is_err());
    }

    /// A changed byte would lose every record of a shared store, and run its operations again.
    #[test]
    fn record_ids_stay_as_they_are() {
        let (anonymous, alice) = (Principal::anonymous(), Principal::new("alice"));
        let default = RecordIds::new("", "default").of(&anonymous, "k1", None);
        assert_eq!(default.to_string(), "52aa7a311635fe4325e802de66ddfbb890f7ec222bfe4cb2216fda54fc2f5121");
        assert_eq!(default.observed().to_string(), "e421c6851c7270978d2f53dbfd915e395aabd816f343600fe3387f46bd737c08");
        let shop = RecordIds::new("shop", "default");
        assert_eq!(
            shop.of(&alice, "k1", None).to_string(),
            "686bd2f58ab421fd4f9d21ceaddd6d78801b54e5ae6103a748effc665fe632ac"
        );
        let endpoint = shop.of(&alice, "k1", Some(("POST", "/payments")));
        assert_eq!(endpoint.to_string(), "283a8779ca1cf5c073e99364cab05e6f074ec2fc9e9efac645fdd76be4d405d3");
    }
}
