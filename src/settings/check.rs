//! Refuses settings that make no sense, alone or together.

use std::{fmt::Display, time::Duration};

use actix_web::http::{Method, header::HeaderName};

use super::{
    ConfigError, Methods, Settings, is_safe,
    value::{self, may_carry_body},
};
use crate::record::MAX_RECORD;

/// The names that a cache may have.
pub(super) const CACHE_NAME: &str = "a cache name of letters, digits, _ and -";

pub(super) fn is_cache_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// Headers that mean something else in a request, so that they can't have the key.
const OF_REQUESTS: [&str; 30] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "content-digest",
    "digest",
    "dnt",
    "expect",
    "forwarded",
    "from",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "te",
    "trailer",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// Headers that mean something else in a response.
const OF_OTHERS: [&str; 28] = [
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expires",
    "host",
    "idempotency-body",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "set-cookie",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
];

impl Settings {
    /// Checks that the settings make sense, alone and together. Layers are checked when they are read; this checks what
    /// code has changed.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_values()?;
        self.check_ignored()?;
        self.check_streamed()?;
        self.check_differences()?;
        self.encryption.check().map_err(ConfigError::Combination)?;
        if self.cache(&self.storage.cache_name).is_none() {
            return Err(ConfigError::UnknownCache {
                name: self.storage.cache_name.clone(),
                known: self.cache_names().join(", "),
            });
        }
        Ok(())
    }

    /// As [`check`](Self::check), but for `storage.cache_name` and for what needs an encoder: code may declare that cache, or
    /// choose the encoder, later.
    pub(super) fn check_values(&self) -> Result<(), ConfigError> {
        self.check_requests()?;
        self.check_headers()?;
        self.fingerprint.check()?;
        self.check_statuses()?;
        self.check_caches()?;
        self.check_limits()?;
        let redis_over_memory =
            self.lock.class == "redis" && self.all_caches().iter().any(|(_, cache)| cache.class == "memory");
        if redis_over_memory {
            return Err(ConfigError::Combination(
                "`lock.class = redis` over `storage.class = memory`: claims would be shared, but each process would have \
                 its own records. Use `storage.class = redis`, or a storage that all processes share"
                    .into(),
            ));
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), ConfigError> {
        if let Some(url) = &self.docs_url
            && !value::is_absolute_url(url)
        {
            return Err(invalid("docs_url", &url, "an absolute URL"));
        }
        if let Methods::List(methods) = &self.methods {
            if methods.is_empty() {
                return Err(invalid("methods", &"", "`unsafe`, or at least one method"));
            }
            let is_lower = |method: &Method| method.as_str().bytes().any(|b| b.is_ascii_lowercase());
            if let Some(method) = methods.iter().find(|method| is_safe(method) || is_lower(method)) {
                return Err(invalid("methods", &method, "`unsafe`, or methods that are not safe, in capitals"));
            }
        }
        Ok(())
    }

    fn check_headers(&self) -> Result<(), ConfigError> {
        self.check_key_sources()?;
        let names = self.key_headers();
        if names.is_empty() && self.key_sources.is_empty() {
            return Err(invalid("header", &"", "at least one header name"));
        }
        let means_else = |name: &&HeaderName| {
            let text = name.as_str();
            OF_REQUESTS.contains(&text)
                || OF_OTHERS.contains(&text)
                || ["sec-", "access-control-"].iter().any(|prefix| text.starts_with(prefix))
                || self.credential_headers.contains(name)
        };
        if let Some(name) = names.iter().find(means_else) {
            let setting = if self.key_sources.is_empty() { "header" } else { "key_sources" };
            return Err(invalid(setting, &name, "the name of a header that has no other meaning"));
        }
        if let Some((setting, name)) = self.taken_header() {
            return Err(invalid(setting, &name, "the name of a header that nothing else uses, or none"));
        }
        self.check_one_place()
    }

    fn check_statuses(&self) -> Result<(), ConfigError> {
        let statuses = [
            ("conflict_status_code", self.conflict_status_code, 200),
            ("mismatch_status_code", Some(self.mismatch_status_code), 400),
            ("missing_key_status_code", Some(self.missing_key_status_code), 400),
            ("in_flight_status_code", Some(self.in_flight_status_code), 400),
        ];
        for (setting, status, least) in statuses {
            let Some(status) = status else { continue };
            if !may_carry_body(status) {
                return Err(invalid(setting, &status, value::STATUS));
            }
            if status.as_u16() < least {
                return Err(invalid(setting, &status, "400 to 599"));
            }
        }
        Ok(())
    }

    fn check_caches(&self) -> Result<(), ConfigError> {
        let mut names = self.cache_names();
        names.sort_unstable();
        if let Some([name, ..]) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(ConfigError::Combination(format!(
                "two caches are named `{name}`; names are compared without case"
            )));
        }
        if let Some(name) = self.caches.keys().find(|name| !is_cache_name(name)) {
            return Err(invalid("caches", &name, CACHE_NAME));
        }
        let caches = self.all_caches().into_iter().map(|(name, cache)| (format!("caches.{name}"), cache));
        for (section, storage) in [("storage".to_owned(), self.storage.clone())].into_iter().chain(caches) {
            if storage.store_on_statuses.is_empty() {
                let accepted = "at least one status, since a response that is not stored can run again";
                return Err(invalid(&format!("{section}.store_on_statuses"), &"", accepted));
            }
            for (setting, value, least, most) in [
                ("max_entries", storage.max_entries, 1, usize::MAX),
                ("max_bytes", storage.max_bytes, 1, usize::MAX),
                ("max_response_body", storage.max_response_body, 0, MAX_RECORD / 2),
            ] {
                if !(least..=most).contains(&value) {
                    return Err(invalid(&format!("{section}.{setting}"), &value, &format!("{least} to {most}")));
                }
            }
            for (setting, value) in
                [("ttl", Some(storage.ttl)), ("max_ttl", storage.max_ttl), ("timeout", Some(storage.timeout))]
            {
                if value.is_some_and(|value| value < Duration::from_millis(1)) {
                    return Err(invalid(&format!("{section}.{setting}"), &"0", "at least 1ms"));
                }
            }
            if storage.max_ttl.is_some_and(|most| most < storage.ttl) {
                return Err(ConfigError::Combination(format!(
                    "`{section}.ttl` is longer than `{section}.max_ttl`, which bounds what handlers keep"
                )));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        for (setting, value) in [
            ("lock.lease", Some(self.lock.lease)),
            ("lock.ttl", self.lock.ttl),
            ("limits.max_run", Some(self.limits.max_run)),
            ("limits.body_timeout", Some(self.limits.body_timeout)),
            ("limits.body_idle_timeout", Some(self.limits.body_idle_timeout)),
        ] {
            if value.is_some_and(|value| value < Duration::from_millis(1)) {
                return Err(invalid(setting, &"0", "at least 1ms"));
            }
        }
        for (setting, value) in [
            ("max_key_length", self.max_key_length),
            ("limits.max_in_flight", self.limits.max_in_flight),
            ("limits.max_buffered", self.limits.max_buffered),
        ] {
            if value == 0 {
                return Err(invalid(setting, &"0", "at least 1"));
            }
        }
        if !(0.0..=1.0).contains(&self.limits.principal_share) {
            return Err(invalid("limits.principal_share", &self.limits.principal_share, "0 to 1"));
        }
        Ok(())
    }
}

pub(super) fn invalid(setting: &str, value: &dyn Display, accepted: &str) -> ConfigError {
    ConfigError::InvalidValue {
        setting: setting.into(),
        layer: "code".into(),
        value: value.to_string(),
        accepted: accepted.into(),
    }
}

impl Settings {
    /// The first of the marker settings whose header means something else.
    fn taken_header(&self) -> Option<(&'static str, &HeaderName)> {
        let marks = [
            ("replay_header", &self.replay_header),
            ("expires_header", &self.expires_header),
            ("observe_header", &self.observe_header),
            ("original_status_header", &self.original_status_header),
        ];
        let marks = marks.into_iter().filter_map(|(setting, name)| Some((setting, name.as_ref()?)));
        let names = self.key_headers();
        let marks: Vec<(&'static str, &HeaderName)> =
            marks.chain(self.should_retry_headers.iter().map(|name| ("should_retry_headers", name))).collect();
        let (_, &(setting, name)) = marks.iter().enumerate().find(|(at, (_, name))| {
            OF_OTHERS.contains(&name.as_str())
                || name.as_str().starts_with("access-control-")
                || names.contains(name)
                || marks[..*at].iter().any(|(_, other)| other == name)
        })?;
        Some((setting, name))
    }
}
