//! The subject on whose behalf a request runs. Equal keys of different principals are different operations.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU64,
    sync::LazyLock,
};

use actix_web::http::header::{HeaderMap, HeaderName};

use super::{RecordId, digest::Digest};

/// The subject on whose behalf a request runs: an account or user id, stable over token rotation.
///
/// An authentication middleware *outside* of [`IdempotencyKey`](crate::middleware::IdempotencyKey) puts one into the
/// request's extensions. Where there is none, [`principal()`](crate::middleware::IdempotencyKey::principal) is asked,
/// then a hash of the headers with credentials stands in (setting `credential_headers`), else the request is anonymous: then nothing but the
/// unguessability of its keys protects a stored response.
///
/// ```
/// use actix_idempotency::Principal;
/// use actix_web::{HttpMessage, test::TestRequest};
///
/// let req = TestRequest::post().to_srv_request();
/// req.extensions_mut().insert(Principal::new("account-17"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Principal(Kind);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Kind {
    Anonymous,
    Named(Box<str>),
    Credentials(Box<[u8; 32]>),
}

impl Principal {
    /// A principal by its stable identifier.
    #[must_use]
    pub fn new(subject: impl Into<String>) -> Self {
        Self(Kind::Named(subject.into().into_boxed_str()))
    }

    /// The principal of requests that show no identity.
    #[must_use]
    pub const fn anonymous() -> Self {
        Self(Kind::Anonymous)
    }

    /// A hash of the credentials as sent, where nobody named a principal: of all headers of these names.
    pub(crate) fn of_credentials(headers: &HeaderMap, names: &[HeaderName]) -> Self {
        let mut digest: Option<Digest> = None;
        for name in names {
            for line in headers.get_all(name) {
                let digest = digest.get_or_insert_with(|| Digest::new(b"credentials"));
                digest.part(name.as_str().as_bytes()).part(line.as_bytes());
            }
        }
        digest.map_or(Self::anonymous(), |mut digest| Self(Kind::Credentials(Box::new(digest.finish()))))
    }

    /// Whether the request showed no identity at all.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        matches!(self.0, Kind::Anonymous)
    }

    /// The subject, when one was named.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        match &self.0 {
            Kind::Named(subject) => Some(subject),
            Kind::Anonymous | Kind::Credentials(_) => None,
        }
    }

    /// The tag of this principal's record `id`. It differs for every record, so that a store's reader can't tell whose
    /// records belong together, and it shows to the same principal only.
    ///
    /// Anonymous requests have a tag of zeros: nothing tells them apart.
    pub(crate) fn tag(&self, id: &RecordId) -> PrincipalTag {
        if self.is_anonymous() {
            return PrincipalTag::default();
        }
        let mut digest = Digest::new(b"principal tag");
        self.add_to(&mut digest);
        PrincipalTag(*digest.part(id.as_bytes()).finish().first_chunk().expect("a hash has 32 bytes"))
    }

    /// The same principal under another name, which `hide` makes of a hash. Anonymous requests stay anonymous.
    #[cfg(feature = "encryption")]
    pub(crate) fn hidden(self, hide: impl FnOnce(&[u8; 32]) -> [u8; 32]) -> Self {
        if self.is_anonymous() {
            return self;
        }
        let mut digest = Digest::new(b"principal");
        self.add_to(&mut digest);
        Self(Kind::Credentials(Box::new(hide(&digest.finish()))))
    }

    /// A number by which a process counts what this principal uses. `None` for anonymous requests, which are not one
    /// principal. Random per process, so that nobody can choose a subject that shares the number of another.
    pub(crate) fn share(&self) -> Option<NonZeroU64> {
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        if self.is_anonymous() {
            return None;
        }
        Some(NonZeroU64::new(STATE.hash_one(self)).unwrap_or(NonZeroU64::MIN))
    }

    /// Adds a tag for the kind, so that kinds can't collide, and the subject. The tags are short: with a UUID as key a
    /// record id is then one block of SHA-256.
    pub(crate) fn add_to(&self, digest: &mut Digest) {
        match &self.0 {
            Kind::Anonymous => digest.part(b"a").part(b""),
            Kind::Named(subject) => digest.part(b"n").part(subject.as_bytes()),
            Kind::Credentials(hash) => digest.part(b"c").part(&hash[..]),
        };
    }
}

/// Tells whether a record belongs to a principal: the first 8 bytes of SHA-256 over the principal and the record id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrincipalTag([u8; 8]);

impl PrincipalTag {
    /// The tag whose bytes a store has kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The bytes of the tag.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Anonymous => "Principal(anonymous)",
            Kind::Named(_) => "Principal(named)",
            Kind::Credentials(_) => "Principal(credentials)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{digest::Hex, record_id::RecordIds};
    use actix_web::http::header::HeaderValue;

    /// A changed byte would lose the records of every principal.
    #[test]
    fn principals_stay_as_they_are() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("authorization");
        headers.insert(name.clone(), HeaderValue::from_static("Bearer x"));
        let id = RecordIds::new("", "default").of(&Principal::of_credentials(&headers, &[name]), "k1", None);
        assert_eq!(id.to_string(), "c39e2f1e54569341a289847242452a95b3acb29ab294175ab99e8e0dc0bb0ea3");
        let tag = Principal::new("alice").tag(&RecordId::from_bytes([7; 32]));
        assert_eq!(Hex(tag.as_bytes()).to_string(), "486d3c150e044562");
    }
}
