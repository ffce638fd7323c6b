//! What settings mean, without the code that loads them: values that each setting takes and refuses, and how it looks
//! when it is in force.

use std::fmt::Debug;

use actix_idempotency::{Settings, settings::StorageSettings};

/// One setting.
pub(super) struct Known<T> {
    pub(super) name: &'static str,
    /// The value as a file has it, the same value as a variable has it, and what is in force then.
    pub(super) good: &'static [(&'static str, &'static str, &'static str)],
    /// Values that the setting refuses, as variables have them.
    pub(super) bad: &'static [&'static str],
    pub(super) show: fn(&T) -> String,
}

fn text(value: &dyn Debug) -> String {
    format!("{value:?}")
}

macro_rules! known {
    ($($name:literal: $show:expr; $(($file:literal, $variable:literal) is $shown:literal),*;
       not $($bad:literal),*;)*) => {
        &[$(Known {
            name: $name,
            good: &[$(($file, $variable, $shown)),*],
            bad: &[$($bad),*],
            show: |settings| text(&$show(settings)),
        }),*]
    };
}

/// Settings without a section, and the sections `lock` and `limits`.
pub(super) const ROOT: &[Known<Settings>] = known! {
    "profile": |s: &Settings| s.profile; ("\"ietf\"", "ietf") is "Ietf", ("'stripe'", "stripe") is "Stripe",
        ("\"stripe-v2\"", "stripe-v2") is "StripeV2",
        ("\"default\"", "default") is "Default"; not "django", "", "IETF", "stripe_v2";
    "mode": |s: &Settings| s.mode; ("\"observe\"", "observe") is "Observe", ("\"enforce\"", "enforce") is "Enforce";
        not "watch", "", "Observe";
    "encoder": |s: &Settings| s.encoder.clone(); ("\"django\"", "django") is "\"django\""; not "";
    "header": |s: &Settings| s.header.clone(); ("\"X-Key\"", "x-key") is "[\"x-key\"]",
        ("[\"X-Key\", \"HTTP_X_OTHER\"]", "X-Key,HTTP_X_OTHER") is "[\"x-key\", \"x-other\"]";
        not "", "none", "bad name", "Authorization", "X-Key,Cookie";
    "key_sources": |s: &Settings| s.key_sources.iter().map(ToString::to_string).collect::<Vec<_>>();
        ("[\"header:X-Key\", \"json:/idempotency_key\", \"query:key\", \"form:_key\"]",
         "header:X-Key,json:/idempotency_key,query:key,form:_key") is
        "[\"header:x-key\", \"json:/idempotency_key\", \"query:key\", \"form:_key\"]",
        ("[]", "none") is "[]";
        not "X-Key", "json:key", "cookie:key", "query:", "header:Authorization";
    "syntax": |s: &Settings| s.syntax; ("\"strict\"", "strict") is "Strict", ("\"any\"", "any") is "Any";
        not "loose", "";
    "methods": |s: &Settings| s.methods.clone(); ("[\"POST\", \"put\"]", "POST, put") is "List([POST, PUT])",
        ("\"unsafe\"", "unsafe") is "Unsafe"; not "", "all", "none", "GET", "unsafe,POST", "POTS";
    "scope": |s: &Settings| s.scope; ("\"endpoint\"", "endpoint") is "Endpoint"; not "path", "";
    "conflict_status_code": |s: &Settings| s.conflict_status_code; ("208", "208") is "Some(208)",
        ("\"none\"", "none") is "None"; not "204", "99", "", "conflict";
    "original_status_header": |s: &Settings| s.original_status_header.clone();
        ("\"X-First\"", "X-First") is "Some(\"x-first\")", ("\"none\"", "none") is "None";
        not "", "a b", "Content-Type";
    "mismatch_status_code": |s: &Settings| s.mismatch_status_code; ("400", "400") is "400"; not "200", "none", "";
    "missing_key_status_code": |s: &Settings| s.missing_key_status_code; ("428", "428") is "428"; not "302", "none", "";
    "in_flight_status_code": |s: &Settings| s.in_flight_status_code; ("503", "503") is "503"; not "304", "600", "";
    "replay_header": |s: &Settings| s.replay_header.clone(); ("\"X-Again\"", "X-Again") is "Some(\"x-again\")",
        ("\"none\"", "none") is "None"; not "", "Date";
    "replay_cookies": |s: &Settings| s.replay_cookies; ("true", "true") is "true", ("\"false\"", "false") is "false";
        not "yes", "", "1", "True";
    "exclude_headers": |s: &Settings| s.exclude_headers.clone(); ("[\"X-A\"]", "X-A") is "[\"x-a\"]",
        ("[]", "none") is "[]"; not "a b";
    "expires_header": |s: &Settings| s.expires_header.clone(); ("\"X-Until\"", "X-Until") is "Some(\"x-until\")";
        not "", "Expires";
    "observe_header": |s: &Settings| s.observe_header.clone(); ("\"X-Would\"", "X-Would") is "Some(\"x-would\")";
        not "", "Location";
    "should_retry_headers": |s: &Settings| s.should_retry_headers.clone();
        ("[\"X-Retry\"]", "X-Retry") is "[\"x-retry\"]", ("\"none\"", "") is "[]"; not "a b", "Retry-After";
    "credential_headers": |s: &Settings| s.credential_headers.clone();
        ("[\"X-Account\"]", "X-Account") is "[\"x-account\"]", ("\"none\"", "none") is "[]"; not "a b";
    "docs_url": |s: &Settings| s.docs_url.clone(); ("\"https://a.b/c\"", "https://a.b/c") is "Some(\"https://a.b/c\")",
        ("\"none\"", "none") is "None"; not "docs", "";
    "on_unknown": |s: &Settings| s.on_unknown; ("\"reject\"", "reject") is "Reject", ("'ask'", "ask") is "Ask"; not "retry", "";
    "on_disconnect": |s: &Settings| s.on_disconnect; ("\"cancel\"", "cancel") is "Cancel"; not "stop", "";
    "max_key_length": |s: &Settings| s.max_key_length; ("64", "64") is "64"; not "0", "-1", "", "1.5";
    "body": |s: &Settings| s.body; ("\"buffer\"", "buffer") is "Buffer", ("'stream'", "stream") is "Stream"; not "", "Stream";
    "max_request_body": |s: &Settings| s.max_request_body; ("\"64kB\"", "64kB") is "64000", ("0", "0") is "0";
        not "lots", "", "-1", "0.5";
    "exempt": |s: &Settings| s.exempt.clone();
        ("[\"/a\", \"/b/{tail}*\"]", "/a,/b/{tail}*") is "[\"/a\", \"/b/{tail}*\"]",
        ("[]", "") is "[]"; not "webhooks", "/a,b";
    "optional": |s: &Settings| s.optional.clone(); ("[\"/c\"]", "/c") is "[\"/c\"]"; not "c";
    "manual": |s: &Settings| s.manual.clone(); ("\"/d\"", "/d") is "[\"/d\"]"; not "d";
    "required": |s: &Settings| s.required.clone(); ("[\"/e\", \"/f\"]", "/e, /f") is "[\"/e\", \"/f\"]"; not "e";
    "fingerprint.headers": |s: &Settings| s.fingerprint.headers.clone();
        ("[\"Host\", \"X-Tenant\"]", "host,X-Tenant") is "[\"host\", \"x-tenant\"]", ("\"none\"", "none") is "[]";
        not "a b", "Date";
    "fingerprint.query": |s: &Settings| s.fingerprint.query; ("\"sorted\"", "sorted") is "Sorted",
        ("'sent'", "sent") is "Sent"; not "", "Sorted";
    "fingerprint.multipart": |s: &Settings| s.fingerprint.multipart; ("\"bytes\"", "bytes") is "Bytes",
        ("'parts'", "parts") is "Parts"; not "", "boundary";
    "fingerprint.ignore": |s: &Settings| s.fingerprint.ignore.clone();
        ("[\"/sent_at\", \"/meta/attempt\"]", "/sent_at,/meta/attempt") is "[\"/sent_at\", \"/meta/attempt\"]",
        ("[]", "none") is "[]"; not "sent_at", "/a~2";
    "fingerprint.differences": |s: &Settings| s.fingerprint.differences; ("true", "true") is "true",
        ("'false'", "false") is "false"; not "", "yes";
    "lock.class": |s: &Settings| s.lock.class.clone(); ("\"thread\"", "thread") is "\"thread\""; not "";
    "lock.location": |s: &Settings| s.lock.location.as_str().to_owned(); ("\"h:1\"", "h:1") is "\"h:1\""; not "";
    "lock.name": |s: &Settings| s.lock.name.clone(); ("\"Theirs\"", "Theirs") is "\"Theirs\""; not "";
    "lock.ttl": |s: &Settings| s.lock.ttl; ("90", "1.5m") is "Some(90s)", ("\"none\"", "none") is "None";
        not "0", "soon", "";
    "lock.lease": |s: &Settings| s.lock.lease; ("\"7s\"", "7") is "7s"; not "0", "-1", "", "1h30m";
    "lock.enable": |s: &Settings| s.lock.enable; ("false", "false") is "false", ("true", "true") is "true";
        not "no", "";
    "lock.timeout": |s: &Settings| s.lock.timeout; ("0.25", "250ms") is "250ms", ("0", "0") is "0ns",
        ("\"3 s\"", "3s") is "3s"; not "soon", "-1", "", "1y";
    "lock.max_wait": |s: &Settings| s.lock.max_wait; ("5", "5s") is "5s"; not "soon", "";
    "operations.path": |s: &Settings| s.operations.path.clone(); ("\"/operations\"", "/operations") is "Some(\"/operations\")",
        ("\"none\"", "none") is "None"; not "operations", "", "/a b", "//host", "/a?b", "/a#b";
    "lock.max_waiters": |s: &Settings| s.lock.max_waiters; ("0", "0") is "0", ("7", "7") is "7"; not "few", "", "-1";
    "limits.max_run": |s: &Settings| s.limits.max_run; ("\"1h\"", "60m") is "3600s"; not "0", "";
    "limits.max_in_flight": |s: &Settings| s.limits.max_in_flight; ("5", "5") is "5"; not "0", "", "1k";
    "limits.max_buffered": |s: &Settings| s.limits.max_buffered; ("\"1MiB\"", "1MiB") is "1048576"; not "0", "";
    "limits.body_timeout": |s: &Settings| s.limits.body_timeout; ("2", "2s") is "2s"; not "0", "";
    "limits.body_idle_timeout": |s: &Settings| s.limits.body_idle_timeout; ("\"1m\"", "60") is "60s"; not "0", "";
    "limits.principal_share": |s: &Settings| s.limits.principal_share; ("0.25", "0.25") is "0.25", ("1", "1") is "1.0";
        not "1.5", "-0.1", "half", "";
    "limits.fresh_per_principal": |s: &Settings| s.limits.fresh_per_principal;
        ("\"600/m\"", "600/m") is "Some(600/m)", ("'1000000/s'", "1000000/s") is "Some(1000000/s)",
        ("\"none\"", "none") is "None";
        not "", "600", "0/s", "1000001/s", "+1/s", "1/d", "1.5/s", "600/ m";
    "limits.drain_timeout": |s: &Settings| s.limits.drain_timeout; ("0", "0") is "0ns"; not "", "never";
    "encryption.keys": |s: &Settings| s.encryption.keys.clone();
        ("[\"2:env:K2\", \"1:file:/run/k1\"]", "2:env:K2, 1:file:/run/k1") is "[\"2:env:K2\", \"1:file:/run/k1\"]",
        ("\"none\"", "none") is "[]";
        not "", "env:K", "0:env:K", "1:vault:K", "65536:env:K";
    "encryption.algorithm": |s: &Settings| s.encryption.algorithm;
        ("\"aes-256-gcm-siv\"", "aes-256-gcm-siv") is "Aes256GcmSiv",
        ("\"xchacha20-poly1305\"", "xchacha20-poly1305") is "XChaCha20Poly1305"; not "", "aes", "none";
    "encryption.mode": |s: &Settings| s.encryption.mode; ("\"client\"", "client") is "Client",
        ("\"server\"", "server") is "Server"; not "", "both";
    "encryption.index_key": |s: &Settings| s.encryption.index_key.clone();
        ("\"file:/run/index\"", "file:/run/index") is "Some(\"file:/run/index\")", ("\"none\"", "none") is "None";
        not "", "1:env:K", "K";
    "encryption.index_key_is_new": |s: &Settings| s.encryption.index_key_is_new; ("true", "true") is "true"; not "", "yes";
    "encryption.accept_unsealed": |s: &Settings| s.encryption.accept_unsealed; ("true", "true") is "true"; not "", "1";
};

/// The settings `storage.*`, which caches have too.
pub(super) const STORAGE: &[Known<StorageSettings>] = known! {
    "class": |s: &StorageSettings| s.class.clone();
        ("\"redis\"", "redis") is "\"redis\"", ("\"own\"", "own") is "\"own\"";
        not "";
    "cache_name": |s: &StorageSettings| s.cache_name.clone(); ("\"Reports\"", "Reports") is "\"Reports\""; not "";
    "namespace": |s: &StorageSettings| s.namespace.clone(); ("\"shop\"", "shop") is "\"shop\"", ("\"\"", "") is "\"\"";
        not;
    "location": |s: &StorageSettings| s.location.as_str().to_owned();
        ("\"redis://:pw@h/1\"", "redis://:pw@h/1") is "\"redis://:pw@h/1\""; not "";
    "store_on_statuses": |s: &StorageSettings| s.store_on_statuses;
        ("[201, \"400-402\", \"!401\"]", "201,400-402,!401") is
        "{201, 400, 402}", ("\"409\"", "409") is "{409}"; not "", "!201", "2xy", "700";
    "ttl": |s: &StorageSettings| s.ttl; ("3600", "1h") is "3600s", ("\"7d\"", "7d") is "604800s"; not "0", "", "week";
    "max_ttl": |s: &StorageSettings| s.max_ttl; ("\"30d\"", "30d") is "Some(2592000s)", ("\"none\"", "none") is "None";
        not "0", "", "week";
    "min_retention": |s: &StorageSettings| s.min_retention; ("0", "0") is "0ns", ("\"2m\"", "2m") is "120s";
        not "", "-1";
    "max_entries": |s: &StorageSettings| s.max_entries; ("9", "9") is "9"; not "0", "", "1e3";
    "max_bytes": |s: &StorageSettings| s.max_bytes; ("\"1g\"", "1GiB") is "1073741824"; not "0", "", "1TB";
    "max_response_body": |s: &StorageSettings| s.max_response_body; ("0", "0") is "0", ("\"2 kB\"", "2kB") is "2000";
        not "", "1000GB";
    "on_full": |s: &StorageSettings| s.on_full; ("\"reject\"", "reject") is "Reject"; not "evict", "";
    "on_error": |s: &StorageSettings| s.on_error; ("\"run\"", "run") is "Run"; not "pass", "";
    "on_evicting": |s: &StorageSettings| s.on_evicting; ("\"warn\"", "warn") is "Warn"; not "ignore", "";
    "durability": |s: &StorageSettings| s.durability; ("\"process\"", "process") is "Process"; not "disk", "";
    "on_unreachable": |s: &StorageSettings| s.on_unreachable; ("\"warn\"", "warn") is "Warn"; not "run", "";
    "replicas": |s: &StorageSettings| s.replicas; ("2", "2") is "2", ("0", "0") is "0"; not "few", "", "-1";
    "timeout": |s: &StorageSettings| s.timeout; ("1", "1000ms") is "1s"; not "0", "";
    "retry_for": |s: &StorageSettings| s.retry_for; ("0", "0") is "0ns", ("5", "5s") is "5s"; not "", "long";
};
