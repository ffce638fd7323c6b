//! `fingerprint.*`: what makes two requests with one key the same operation.

use actix_web::http::header::HeaderName;

use super::{BodyMode, ConfigError, KeySource, Settings, check::invalid};
use crate::key::{Comparison, pointer};

/// `fingerprint.*`: what is compared when a key comes again, beside what the encoder compares.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FingerprintSettings {
    /// `headers`: request headers that are compared, too.
    pub headers: Vec<HeaderName>,
    /// `query`: whether the order of its fields counts.
    pub query: CompareQuery,
    /// `multipart`: how forms are compared.
    pub multipart: CompareMultipart,
    /// `ignore`: JSON pointers (RFC 6901) to the parts of JSON bodies that do not count. Needs
    /// `encoder = canonical-json`.
    pub ignore: Vec<String>,
    /// `differences`: whether a mismatch names the members of a JSON body that differ. Needs `encryption.index_key`.
    pub differences: bool,
}

/// How queries are compared; setting `fingerprint.query`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompareQuery {
    /// As they are sent.
    #[default]
    Sent,
    /// By their fields in the order of their names. Fields of one name keep their order.
    Sorted,
}

/// How `multipart/form-data` is compared; setting `fingerprint.multipart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompareMultipart {
    /// By its parts, without the boundary, which clients make anew for each attempt.
    #[default]
    Parts,
    /// By its bytes and its content type, with the boundary.
    Bytes,
}

/// Headers of a connection, or of one attempt. Accept-Encoding is taken away before the handler runs.
const OF_ATTEMPTS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-length",
    "date",
    "expect",
    "keep-alive",
    "prefer",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

impl FingerprintSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(name) = self.headers.iter().find(|name| OF_ATTEMPTS.contains(&name.as_str())) {
            let accepted = "headers that a client sends again as they are";
            return Err(invalid("fingerprint.headers", &name, accepted));
        }
        if let Some(text) = self.ignore.iter().find(|text| pointer(text).is_none()) {
            return Err(invalid("fingerprint.ignore", text, super::table::POINTERS));
        }
        Ok(())
    }

    /// The same for the makers of fingerprints.
    pub(crate) fn comparison(&self) -> Comparison {
        Comparison {
            headers: self.headers.clone(),
            sorts_query: self.query == CompareQuery::Sorted,
            has_boundary: self.multipart == CompareMultipart::Bytes,
            ignored: self.ignore.iter().filter_map(|text| pointer(text)).collect(),
        }
    }
}

impl Settings {
    /// Without a key, what a record keeps of a body could be tried against guesses of each member.
    pub(super) fn check_differences(&self) -> Result<(), ConfigError> {
        if !self.fingerprint.differences {
            return Ok(());
        }
        if !cfg!(feature = "encryption") {
            let setting = "fingerprint.differences";
            return Err(ConfigError::MissingFeature { setting, name: "true", feature: "encryption" });
        }
        if self.encryption.index_key.is_none() {
            return Err(ConfigError::Combination(
                "`fingerprint.differences` keeps hashes of the members of JSON bodies, and needs `encryption.index_key`: \
                 without a key anybody who reads a store could try guesses against them"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Only one encoder knows the members of a body.
    pub(super) fn check_ignored(&self) -> Result<(), ConfigError> {
        if self.fingerprint.ignore.is_empty() || self.encoder == "canonical-json" {
            return Ok(());
        }
        Err(ConfigError::Combination(
            "`fingerprint.ignore` leaves members of JSON bodies out, and needs `encoder = canonical-json`; other encoders \
             compare bodies by their bytes"
                .into(),
        ))
    }

    /// A body that arrives after the claim can neither hold the key nor be compared by its parts.
    pub(super) fn check_streamed(&self) -> Result<(), ConfigError> {
        if self.body == BodyMode::Buffer {
            return Ok(());
        }
        let is_in_body = |source: &KeySource| matches!(source, KeySource::Json(_) | KeySource::Form(_));
        let why = if let Some(source) = self.key_sources.iter().find(|source| is_in_body(source)) {
            format!("reads bodies after their keys are known, and `key_sources` has `{source}`")
        } else if self.encoder != "basic" {
            format!("compares bodies by their SHA-256, and needs `encoder = basic` in place of `{}`", self.encoder)
        } else if !self.manual.is_empty() {
            "compares a body before its response is sent again, and a manual handler (`manual`) would run before that"
                .into()
        } else {
            return Ok(());
        };
        Err(ConfigError::Combination(format!("`body = stream` {why}; give it to single wraps by `.configure`")))
    }
}
