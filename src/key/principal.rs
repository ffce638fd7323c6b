//! The subject on whose behalf a request runs. Equal keys of different principals are different operations.

use std::fmt;

use actix_web::http::header::{self, HeaderMap};

use super::digest::Digest;

/// The subject on whose behalf a request runs: an account or user id, stable over token rotation.
///
/// An authentication middleware *outside* of [`IdempotencyKey`](crate::middleware::IdempotencyKey) puts one into the
/// request's extensions. Where there is none, [`principal()`](crate::middleware::IdempotencyKey::principal) is asked,
/// then the `Authorization` header stands in (hashed), else the request is anonymous: then nothing but the
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
    Credentials([u8; 32]),
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

    /// A hash of the credentials as sent, where nobody named a principal.
    pub(crate) fn of_credentials(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(header::AUTHORIZATION).peekable();
        if lines.peek().is_none() {
            return Self::anonymous();
        }
        let digest = lines.fold(Digest::new(b"credentials"), |digest, line| digest.part(line.as_bytes()));
        Self(Kind::Credentials(digest.finish()))
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

    /// Adds a tag for the kind, so that kinds can't collide, and the subject. The tags are short: with a UUID as key a
    /// record id is then one block of SHA-256.
    pub(crate) fn add_to(&self, digest: Digest) -> Digest {
        match &self.0 {
            Kind::Anonymous => digest.part(b"a").part(b""),
            Kind::Named(subject) => digest.part(b"n").part(subject.as_bytes()),
            Kind::Credentials(hash) => digest.part(b"c").part(hash),
        }
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
