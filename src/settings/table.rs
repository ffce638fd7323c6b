//! The table of settings: the name of each, what it accepts, and how it is set. The loader knows nothing else.

use std::str::FromStr;

use actix_web::http::{Method, StatusCode, header::HeaderName};

use super::{
    BodyMode, CompareMultipart, CompareQuery, Durability, KeySource, Methods, Mode, OnDisconnect, OnError, OnFull,
    OnUnknown, Profile, Scope, SealingAlgorithm, SealingKey, SealingMode, Settings, StartupCheck, Statuses,
    StorageSettings, key_sources, rate,
    value::{self, Given, STATUS, may_carry_body},
};
use crate::key::{Syntax, pointer};

pub(super) struct Setting<T> {
    pub(super) name: &'static str,
    pub(super) accepted: &'static str,
    /// `None`: the value is not accepted.
    pub(super) set: fn(&mut T, &Given) -> Option<()>,
}

const DURATION: &str = "seconds (0.1) or text (500ms, 15m, 24h, 7d)";
const DURATION_OR_NONE: &str = "seconds (0.1), text (500ms, 15m, 24h, 7d), or none";
const SIZE: &str = "bytes (1048576) or text (1MiB, 64kB)";
const COUNT: &str = "a whole number";
const NAME: &str = "a name";
/// JSON pointers (RFC 6901).
pub(super) const POINTERS: &str = "JSON pointers to members, such as /sent_at and /meta/attempt, or none";
const PATTERNS: &str = "route patterns, each starting with /";
const STATUSES: &str = "a list of statuses that is not empty: 201, 200-207, 2xx, !401";
const ERROR_STATUS: &str = "a status from 400 to 599";
const STARTUP_CHECK: &str = "reject or warn";
const HEADERS: &str = "a list of header names, or none";
const METHODS: &str = "unsafe, or a list of registered methods such as POST, PUT, PATCH and DELETE, without safe ones";

/// The methods of the registry of HTTP methods that are not safe.
const UNSAFE_METHODS: [&str; 31] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "DELETE",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPPATCH",
    "PUT",
    "REBIND",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "PURGE",
];
const HEADER_OR_NONE: &str = "a header name, or none";

macro_rules! settings {
    ($($name:literal, $accepted:expr, |$to:ident, $given:ident| $value:expr => $place:expr;)*) => {
        &[$(Setting {
            name: $name,
            accepted: $accepted,
            set: |$to, $given| {
                $place = $value?;
                Some(())
            },
        }),*]
    };
}

/// Settings without a section, and all sections but `storage` and `caches`.
pub(super) const ROOT: &[Setting<Settings>] = settings! {
    "profile", PROFILES, |s, v| profile(v.one()?) => s.profile;
    "mode", "enforce or observe", |s, v| match v.one()? {
        "enforce" => Some(Mode::Enforce),
        "observe" => Some(Mode::Observe),
        _ => None,
    } => s.mode;
    "encoder", NAME, |s, v| name(v) => s.encoder;
    "header", "a header name, or several", |s, v| headers(v).filter(|names| !names.is_empty()) => s.header;
    "key_sources", key_sources::KEY_SOURCE, |s, v| sources(v) => s.key_sources;
    "syntax", "strict, lenient, raw or any", |s, v| match v.one()? {
        "strict" => Some(Syntax::Strict),
        "lenient" => Some(Syntax::Lenient),
        "raw" => Some(Syntax::Raw),
        "any" => Some(Syntax::Any),
        _ => None,
    } => s.syntax;
    "methods", METHODS, |s, v| methods(v) => s.methods;
    "scope", "principal or endpoint", |s, v| match v.one()? {
        "principal" => Some(Scope::Principal),
        "endpoint" => Some(Scope::Endpoint),
        _ => None,
    } => s.scope;
    "conflict_status_code", STATUS, |s, v| or_none(v, status) => s.conflict_status_code;
    "original_status_header", HEADER_OR_NONE, |s, v| or_none(v, header) => s.original_status_header;
    "mismatch_status_code", ERROR_STATUS, |s, v| error_status(v.one()?) => s.mismatch_status_code;
    "missing_key_status_code", ERROR_STATUS, |s, v| error_status(v.one()?) => s.missing_key_status_code;
    "in_flight_status_code", ERROR_STATUS, |s, v| error_status(v.one()?) => s.in_flight_status_code;
    "replay_header", HEADER_OR_NONE, |s, v| or_none(v, header) => s.replay_header;
    "replay_cookies", "true or false", |s, v| flag(v) => s.replay_cookies;
    "exclude_headers", HEADERS, |s, v| headers(v) => s.exclude_headers;
    "expires_header", HEADER_OR_NONE, |s, v| or_none(v, header) => s.expires_header;
    "observe_header", HEADER_OR_NONE, |s, v| or_none(v, header) => s.observe_header;
    "should_retry_headers", HEADERS, |s, v| headers(v) => s.should_retry_headers;
    "credential_headers", HEADERS, |s, v| headers(v) => s.credential_headers;
    "docs_url", "an absolute URL, or none", |s, v| or_none(v, url) => s.docs_url;
    "on_unknown", "rerun, reject or ask", |s, v| match v.one()? {
        "rerun" => Some(OnUnknown::Rerun),
        "reject" => Some(OnUnknown::Reject),
        "ask" => Some(OnUnknown::Ask),
        _ => None,
    } => s.on_unknown;
    "on_disconnect", "finish or cancel", |s, v| match v.one()? {
        "finish" => Some(OnDisconnect::Finish),
        "cancel" => Some(OnDisconnect::Cancel),
        _ => None,
    } => s.on_disconnect;
    "max_key_length", COUNT, |s, v| count(v) => s.max_key_length;
    "body", "buffer or stream", |s, v| match v.one()? {
        "buffer" => Some(BodyMode::Buffer),
        "stream" => Some(BodyMode::Stream),
        _ => None,
    } => s.body;
    "max_request_body", SIZE, |s, v| value::size(v.one()?) => s.max_request_body;
    "exempt", PATTERNS, |s, v| patterns(v) => s.exempt;
    "optional", PATTERNS, |s, v| patterns(v) => s.optional;
    "manual", PATTERNS, |s, v| patterns(v) => s.manual;
    "required", PATTERNS, |s, v| patterns(v) => s.required;
    "fingerprint.headers", HEADERS, |s, v| headers(v) => s.fingerprint.headers;
    "fingerprint.query", "sent or sorted", |s, v| match v.one()? {
        "sent" => Some(CompareQuery::Sent),
        "sorted" => Some(CompareQuery::Sorted),
        _ => None,
    } => s.fingerprint.query;
    "fingerprint.multipart", "parts or bytes", |s, v| match v.one()? {
        "parts" => Some(CompareMultipart::Parts),
        "bytes" => Some(CompareMultipart::Bytes),
        _ => None,
    } => s.fingerprint.multipart;
    "fingerprint.ignore", POINTERS, |s, v| pointers(v) => s.fingerprint.ignore;
    "fingerprint.differences", "true or false", |s, v| flag(v) => s.fingerprint.differences;
    "lock.class", NAME, |s, v| name(v) => s.lock.class;
    "lock.location", "a host, host:port or URL", |s, v| name(v).map(Into::into) => s.lock.location;
    "lock.name", NAME, |s, v| name(v) => s.lock.name;
    "lock.ttl", DURATION_OR_NONE, |s, v| or_none(v, value::duration) => s.lock.ttl;
    "lock.lease", DURATION, |s, v| value::duration(v.one()?) => s.lock.lease;
    "lock.enable", "true or false", |s, v| flag(v) => s.lock.enable;
    "lock.timeout", DURATION, |s, v| value::duration(v.one()?) => s.lock.timeout;
    "lock.max_waiters", COUNT, |s, v| count(v) => s.lock.max_waiters;
    "lock.max_wait", DURATION, |s, v| value::duration(v.one()?) => s.lock.max_wait;
    "operations.path", "a path that starts with /, or none", |s, v| or_none(v, path) => s.operations.path;
    "limits.max_run", DURATION, |s, v| value::duration(v.one()?) => s.limits.max_run;
    "limits.max_in_flight", COUNT, |s, v| count(v) => s.limits.max_in_flight;
    "limits.max_buffered", SIZE, |s, v| value::size(v.one()?) => s.limits.max_buffered;
    "limits.body_timeout", DURATION, |s, v| value::duration(v.one()?) => s.limits.body_timeout;
    "limits.body_idle_timeout", DURATION, |s, v| value::duration(v.one()?) => s.limits.body_idle_timeout;
    "limits.principal_share", "a number from 0 to 1", |s, v| share(v.one()?) => s.limits.principal_share;
    "limits.fresh_per_principal", rate::RATE_OR_NONE, |s, v| or_none(v, |text| text.parse().ok()) => s.limits.fresh_per_principal;
    "limits.drain_timeout", DURATION, |s, v| value::duration(v.one()?) => s.limits.drain_timeout;
    "encryption.keys", "a list of NUMBER:env:NAME or NUMBER:file:PATH, or none", |s, v| sealing_keys(v) => s.encryption.keys;
    "encryption.algorithm", "aes-256-gcm-siv or xchacha20-poly1305", |s, v| match v.one()? {
        "xchacha20-poly1305" => Some(SealingAlgorithm::XChaCha20Poly1305),
        "aes-256-gcm-siv" => Some(SealingAlgorithm::Aes256GcmSiv),
        _ => None,
    } => s.encryption.algorithm;
    "encryption.mode", "server or client", |s, v| match v.one()? {
        "server" => Some(SealingMode::Server),
        "client" => Some(SealingMode::Client),
        _ => None,
    } => s.encryption.mode;
    "encryption.index_key", "env:NAME, file:PATH, or none", |s, v| or_none(v, |text| text.parse().ok()) => s.encryption.index_key;
    "encryption.index_key_is_new", "true or false", |s, v| flag(v) => s.encryption.index_key_is_new;
    "encryption.accept_unsealed", "true or false", |s, v| flag(v) => s.encryption.accept_unsealed;
};

/// `storage.*`; all but `cache_name` also as `caches.NAME.*`.
pub(super) const STORAGE: &[Setting<StorageSettings>] = settings! {
    "class", NAME, |s, v| name(v) => s.class;
    "cache_name", NAME, |s, v| name(v) => s.cache_name;
    "namespace", "any text", |s, v| v.one().map(str::to_owned) => s.namespace;
    "location", "a host, host:port, URL or file", |s, v| name(v).map(Into::into) => s.location;
    "durability", "power or process", |s, v| match v.one()? {
        "power" => Some(Durability::Power),
        "process" => Some(Durability::Process),
        _ => None,
    } => s.durability;
    "store_on_statuses", STATUSES, |s, v| Statuses::of_items(v.items()).filter(|statuses| !statuses.is_empty()) => s.store_on_statuses;
    "ttl", DURATION, |s, v| value::duration(v.one()?) => s.ttl;
    "max_ttl", DURATION_OR_NONE, |s, v| or_none(v, value::duration) => s.max_ttl;
    "min_retention", DURATION, |s, v| value::duration(v.one()?) => s.min_retention;
    "max_entries", COUNT, |s, v| count(v) => s.max_entries;
    "max_bytes", SIZE, |s, v| value::size(v.one()?) => s.max_bytes;
    "max_response_body", SIZE, |s, v| value::size(v.one()?) => s.max_response_body;
    "on_full", "shrink or reject", |s, v| match v.one()? {
        "shrink" => Some(OnFull::Shrink),
        "reject" => Some(OnFull::Reject),
        _ => None,
    } => s.on_full;
    "on_error", "reject or run", |s, v| match v.one()? {
        "reject" => Some(OnError::Reject),
        "run" => Some(OnError::Run),
        _ => None,
    } => s.on_error;
    "on_evicting", STARTUP_CHECK, |s, v| startup_check(v) => s.on_evicting;
    "on_unreachable", STARTUP_CHECK, |s, v| startup_check(v) => s.on_unreachable;
    "replicas", COUNT, |s, v| count(v) => s.replicas;
    "timeout", DURATION, |s, v| value::duration(v.one()?) => s.timeout;
    "retry_for", DURATION, |s, v| value::duration(v.one()?) => s.retry_for;
};

fn sealing_keys(given: &Given) -> Option<Vec<SealingKey>> {
    if given.one() == Some("none") {
        return Some(Vec::new());
    }
    let keys: Vec<SealingKey> = given.items().into_iter().map(|item| item.parse().ok()).collect::<Option<_>>()?;
    (!keys.is_empty()).then_some(keys)
}

/// A path alone: `//` would begin with the name of a host.
fn path(text: &str) -> Option<String> {
    let is_path = text.starts_with('/') && !text.starts_with("//") && !text.contains(['?', '#', '\\']);
    (is_path && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

pub(super) const PROFILES: &str = "default, ietf, stripe or stripe-v2";

pub(super) fn profile(text: &str) -> Option<Profile> {
    match text {
        "default" => Some(Profile::Default),
        "ietf" => Some(Profile::Ietf),
        "stripe" => Some(Profile::Stripe),
        "stripe-v2" => Some(Profile::StripeV2),
        _ => None,
    }
}

/// `none` is `None`, anything else must parse.
#[expect(clippy::option_option, reason = "refused, none, or a value")]
fn or_none<T>(given: &Given, parse: fn(&str) -> Option<T>) -> Option<Option<T>> {
    match given.one()? {
        "none" => Some(None),
        text => parse(text).map(Some),
    }
}

fn name(given: &Given) -> Option<String> {
    given.one().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn flag(given: &Given) -> Option<bool> {
    match given.one()? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn startup_check(given: &Given) -> Option<StartupCheck> {
    match given.one()? {
        "reject" => Some(StartupCheck::Reject),
        "warn" => Some(StartupCheck::Warn),
        _ => None,
    }
}

fn count(given: &Given) -> Option<usize> {
    given.one()?.parse().ok()
}

fn status(text: &str) -> Option<StatusCode> {
    StatusCode::from_str(text).ok().filter(|status| may_carry_body(*status))
}

fn error_status(text: &str) -> Option<StatusCode> {
    status(text).filter(|status| status.as_u16() >= 400)
}

/// A header name; Django spells `Idempotency-Key` `HTTP_IDEMPOTENCY_KEY`.
fn header(text: &str) -> Option<HeaderName> {
    match text.strip_prefix("HTTP_") {
        Some(django) => HeaderName::from_str(&django.replace('_', "-")).ok(),
        None => HeaderName::from_str(text).ok(),
    }
}

fn headers(given: &Given) -> Option<Vec<HeaderName>> {
    if given.one() == Some("none") {
        return Some(Vec::new());
    }
    given.items().into_iter().map(header).collect()
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

fn url(text: &str) -> Option<String> {
    value::is_absolute_url(text).then(|| text.to_owned())
}

fn methods(given: &Given) -> Option<Methods> {
    if given.one() == Some("unsafe") {
        return Some(Methods::Unsafe);
    }
    // Method names are case-sensitive, but a `post` can only mean POST. Other names are mistakes: a method that no client
    // sends would switch protection off.
    let parse = |item: &str| {
        let name = item.to_ascii_uppercase();
        UNSAFE_METHODS.contains(&name.as_str()).then(|| Method::from_str(&name).ok()).flatten()
    };
    let methods: Vec<Method> = given.items().into_iter().map(parse).collect::<Option<_>>()?;
    (!methods.is_empty()).then_some(Methods::List(methods))
}

fn sources(given: &Given) -> Option<Vec<KeySource>> {
    if given.one() == Some("none") {
        return Some(Vec::new());
    }
    given.items().into_iter().map(|item| item.parse().ok()).collect()
}

fn pointers(given: &Given) -> Option<Vec<String>> {
    if given.one() == Some("none") {
        return Some(Vec::new());
    }
    given.items().into_iter().map(|item| pointer(item).map(|_| item.to_owned())).collect()
}

fn patterns(given: &Given) -> Option<Vec<String>> {
    let pattern = |item: &str| item.starts_with('/').then(|| item.to_owned());
    given.items().into_iter().map(pattern).collect()
}
