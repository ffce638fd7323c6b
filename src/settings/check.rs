//! Refuses settings that make no sense, alone or together.

use std::time::Duration;

use actix_web::http::{Method, header::HeaderName};

use super::{
    ConfigError, Methods, Settings, is_safe,
    value::{self, may_carry_body},
};
use crate::record::MAX_RECORD;

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
        let invalid = |setting: &str, value: String, accepted: &str| ConfigError::InvalidValue {
            setting: setting.into(),
            layer: "code".into(),
            value,
            accepted: accepted.into(),
        };
        if let Some(url) = &self.docs_url
            && !value::is_absolute_url(url)
        {
            return Err(invalid("docs_url", url.clone(), "an absolute URL"));
        }
        if let Methods::List(methods) = &self.methods {
            if methods.is_empty() {
                return Err(invalid("methods", String::new(), "`unsafe`, or at least one method"));
            }
            let is_lower = |method: &Method| method.as_str().bytes().any(|b| b.is_ascii_lowercase());
            if let Some(method) = methods.iter().find(|method| is_safe(method) || is_lower(method)) {
                return Err(invalid(
                    "methods",
                    method.to_string(),
                    "`unsafe`, or methods that are not safe, in capitals",
                ));
            }
        }
        if let Some((setting, name)) = self.taken_header() {
            return Err(invalid(setting, name.to_string(), "the name of a header that nothing else uses, or none"));
        }
        let statuses = [
            ("conflict_status_code", self.conflict_status_code),
            ("mismatch_status_code", Some(self.mismatch_status_code)),
            ("in_flight_status_code", Some(self.in_flight_status_code)),
        ];
        for (setting, status) in statuses {
            if status.is_some_and(|status| !may_carry_body(status)) {
                return Err(invalid(setting, status.map(|s| s.to_string()).unwrap_or_default(), value::STATUS));
            }
        }
        for (setting, status) in &statuses[1..] {
            if status.is_some_and(|status| status.as_u16() < 400) {
                return Err(invalid(setting, status.map(|s| s.to_string()).unwrap_or_default(), "400 to 599"));
            }
        }
        let caches = self.caches.iter().map(|(name, cache)| (format!("caches.{name}"), cache));
        for (section, storage) in caches.chain([("storage".to_owned(), &self.storage)]) {
            for (setting, value, least, most) in [
                ("max_entries", storage.max_entries, 1, usize::MAX),
                ("max_bytes", storage.max_bytes, 1, usize::MAX),
                ("max_response_body", storage.max_response_body, 0, MAX_RECORD / 2),
            ] {
                if !(least..=most).contains(&value) {
                    let accepted = format!("{least} to {most}");
                    return Err(invalid(&format!("{section}.{setting}"), value.to_string(), &accepted));
                }
            }
            for (setting, value) in [("ttl", storage.ttl), ("timeout", storage.timeout)] {
                if value < Duration::from_millis(1) {
                    return Err(invalid(&format!("{section}.{setting}"), "0".into(), "at least 1ms"));
                }
            }
        }
        if self.cache(&self.storage.cache_name).is_none() {
            return Err(ConfigError::UnknownCache {
                name: self.storage.cache_name.clone(),
                known: self.cache_names().join(", "),
            });
        }
        for (setting, value) in [
            ("lock.lease", Some(self.lock.lease)),
            ("lock.ttl", self.lock.ttl),
            ("limits.max_run", Some(self.limits.max_run)),
        ] {
            if value.is_some_and(|value| value < Duration::from_millis(1)) {
                return Err(invalid(setting, "0".into(), "at least 1ms"));
            }
        }
        for (setting, value) in
            [("max_key_length", self.max_key_length), ("limits.max_in_flight", self.limits.max_in_flight)]
        {
            if value == 0 {
                return Err(invalid(setting, "0".into(), "at least 1"));
            }
        }
        let redis_over_memory = self.lock.class == "redis"
            && self.cache_names().iter().any(|name| self.cache(name).is_some_and(|cache| cache.class == "memory"));
        if redis_over_memory {
            return Err(ConfigError::Combination(
                "`lock.class = redis` over `storage.class = memory`: claims would be shared, but each process would have \
                 its own records. Use `storage.class = redis`, or a storage that all processes share"
                    .into(),
            ));
        }
        Ok(())
    }
}

impl Settings {
    /// The first of the marker settings whose header means something else.
    fn taken_header(&self) -> Option<(&'static str, &HeaderName)> {
        let marks = [
            ("replay_header", &self.replay_header),
            ("expires_header", &self.expires_header),
            ("observe_header", &self.observe_header),
        ];
        let mut named =
            marks.iter().enumerate().filter_map(|(at, (setting, name))| Some((at, *setting, name.as_ref()?)));
        let (_, setting, name) = named.find(|(at, _, name)| {
            OF_OTHERS.contains(&name.as_str())
                || name.as_str().starts_with("access-control-")
                || **name == self.header
                || marks[..*at].iter().any(|(_, other)| other.as_ref() == Some(*name))
        })?;
        Some((setting, name))
    }
}
