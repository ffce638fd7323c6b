//! `key_sources`: where the key of a request may be.

use std::{fmt, str::FromStr};

use actix_web::http::header::HeaderName;

use super::{ConfigError, Settings, check::invalid};
use crate::key::{Sources, header_name, pointer};

/// A place where the key of a request may be; setting `key_sources`. As text: `header:Idempotency-Key`,
/// `json:/idempotency_key`, `query:key` or `form:_idempotency_key`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySource {
    /// A request header.
    Header(HeaderName),
    /// A text in a JSON body, by its JSON pointer (RFC 6901).
    Json(String),
    /// A field of the query.
    Query(String),
    /// A field of an `application/x-www-form-urlencoded` body.
    Form(String),
}

/// A text that names no place for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: {}", KEY_SOURCE)]
pub struct ParseKeySourceError(());

pub(super) const KEY_SOURCE: &str =
    "header:NAME, json:POINTER, query:FIELD or form:FIELD, in visible ASCII without quotes and backslashes";

impl FromStr for KeySource {
    type Err = ParseKeySourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = text.split_once(':').ok_or(ParseKeySourceError(()))?;
        let source = match kind {
            "header" => Self::Header(HeaderName::from_str(name).map_err(|_| ParseKeySourceError(()))?),
            "json" => Self::Json(name.to_owned()),
            "query" => Self::Query(name.to_owned()),
            "form" => Self::Form(name.to_owned()),
            _ => return Err(ParseKeySourceError(())),
        };
        if source.is_well_formed() { Ok(source) } else { Err(ParseKeySourceError(())) }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Json(pointer) => write!(f, "json:{pointer}"),
            Self::Query(field) => write!(f, "query:{field}"),
            Self::Form(field) => write!(f, "form:{field}"),
        }
    }
}

impl KeySource {
    /// Refusals name the source, and nothing in them needs an escape.
    fn is_well_formed(&self) -> bool {
        let is_plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\`".contains(&byte))
        };
        match self {
            Self::Header(_) => true,
            Self::Json(text) => is_plain(text) && pointer(text).is_some(),
            Self::Query(field) | Self::Form(field) => is_plain(field),
        }
    }
}

impl Settings {
    /// The request headers that may have the key.
    pub(crate) fn key_headers(&self) -> Vec<HeaderName> {
        if self.key_sources.is_empty() {
            return self.header.clone();
        }
        let name = |source: &KeySource| if let KeySource::Header(name) = source { Some(name.clone()) } else { None };
        self.key_sources.iter().filter_map(name).collect()
    }

    /// The places beside headers that may have the key.
    pub(crate) fn sources_beside_headers(&self) -> Option<Sources> {
        let mut sources = Sources { syntax: self.syntax, max: self.max_key_length, ..Sources::default() };
        for source in &self.key_sources {
            match source {
                KeySource::Header(_) => {}
                KeySource::Query(field) => sources.query.push(field.clone()),
                KeySource::Form(field) => sources.form.push(field.clone()),
                KeySource::Json(text) => sources.json.extend(pointer(text)),
            }
        }
        let Sources { query, form, json, .. } = &sources;
        (query.len() + form.len() + json.len() > 0).then_some(sources)
    }

    /// The places that may have the key, as people read them.
    pub(crate) fn key_places(&self) -> String {
        let name = |source: &KeySource| match source {
            KeySource::Header(name) => format!("`{}`", header_name(name)),
            KeySource::Query(field) => format!("the query field `{field}`"),
            KeySource::Form(field) => format!("the form field `{field}`"),
            KeySource::Json(pointer) => format!("`{pointer}` of a JSON body"),
        };
        let headers = self.header.iter().cloned().map(KeySource::Header).collect();
        let sources = if self.key_sources.is_empty() { &headers } else { &self.key_sources };
        sources.iter().map(name).collect::<Vec<_>>().join(" or ")
    }

    pub(super) fn check_key_sources(&self) -> Result<(), ConfigError> {
        if let Some(source) = self.key_sources.iter().find(|source| !source.is_well_formed()) {
            return Err(invalid("key_sources", source, KEY_SOURCE));
        }
        Ok(())
    }

    /// Headers are named in one place only.
    pub(super) fn check_one_place(&self) -> Result<(), ConfigError> {
        let (headers, is_default) = (self.key_headers(), self.header == Self::default_headers());
        if !is_default && headers != self.header {
            return Err(ConfigError::Combination(
                "`header` and `key_sources` name different headers: name them in `key_sources` only".into(),
            ));
        }
        Ok(())
    }
}
