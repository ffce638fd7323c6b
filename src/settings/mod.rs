#![doc = include_str!("../docs/links.md")]
#![doc = ""]
#![doc = include_str!("../../docs/settings.md")]

mod caches;
mod check;
mod choices;
mod error;
mod fingerprint;
mod key_sources;
mod load;
mod rate;
mod rules;
mod statuses;
mod stored_ids;
mod table;
mod value;

use std::{collections::BTreeMap, time::Duration};

use actix_web::http::{Method, StatusCode, header::HeaderName};

pub use self::{
    caches::CacheOverrides,
    choices::{BodyMode, Methods, Mode, OnDisconnect, OnError, Profile, Scope},
    error::ConfigError,
    fingerprint::{CompareMultipart, CompareQuery, FingerprintSettings},
    key_sources::{KeySource, ParseKeySourceError},
    load::SettingsLoader,
    rate::{ParseRateError, Rate},
    statuses::{ParseStatusesError, Statuses},
};
pub(crate) use self::{choices::is_safe, stored_ids::StoredIds};
use crate::key::Syntax;
pub use crate::{
    policy::PatternError,
    record::SealingAlgorithm,
    sealing::{Encryption, KeyError, ParseKeyError, SealingKey, SealingMode, SecretSource},
    store::{Durability, Location, LocationError, OnFull, OnUnknown, StartupCheck},
};

/// All settings. [`Settings::load`] reads them from layers, of which later ones win: the defaults of the profile, a
/// file, the environment. Code can change the result.
///
/// Each field names its setting. The table of all settings, with defaults and meaning, is at the top of this
/// [module](self).
///
/// ```
/// use actix_idempotency::Settings;
/// use std::time::Duration;
///
/// let mut settings = Settings::ietf();
/// settings.storage.ttl = Duration::from_secs(48 * 60 * 60);
/// assert!(settings.check().is_ok());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// `profile`: the set of defaults.
    pub profile: Profile,
    /// `mode`: whether decisions are enforced or only observed.
    pub mode: Mode,
    /// `encoder`: `basic`, `canonical-json`, `django`, or a registered name.
    pub encoder: String,
    /// `header`: the request headers that may have the key, `Idempotency-Key`. The first one that a request has names its
    /// key; two with different keys are an error.
    pub header: Vec<HeaderName>,
    /// `key_sources`: where the key may be, in place of `header`. Empty: in `header` only.
    pub key_sources: Vec<KeySource>,
    /// `syntax` of the key.
    pub syntax: Syntax,
    /// `methods` that need a key. A key that is sent with another unsafe method is honoured too.
    pub methods: Methods,
    /// `scope` of a key.
    pub scope: Scope,
    /// `conflict_status_code`: the status of a replay. `None`: the original status.
    pub conflict_status_code: Option<StatusCode>,
    /// `original_status_header`: a response header with the first status, where `conflict_status_code` replaced it. `None`:
    /// no such header.
    pub original_status_header: Option<HeaderName>,
    /// `mismatch_status_code`: the status when a key is reused with another payload.
    pub mismatch_status_code: StatusCode,
    /// `missing_key_status_code`: the status of a request without the key that it needs.
    pub missing_key_status_code: StatusCode,
    /// `in_flight_status_code`: the status when the first request still runs after `lock.timeout`.
    pub in_flight_status_code: StatusCode,
    /// `replay_header`: a response header that marks replays with `true`. `None`: no marker.
    pub replay_header: Option<HeaderName>,
    /// `replay_cookies`: whether `Set-Cookie` is stored and replayed.
    pub replay_cookies: bool,
    /// `exclude_headers`: more response headers that are not stored.
    pub exclude_headers: Vec<HeaderName>,
    /// `expires_header`: a response header with the HTTP date until which a stored response is kept. `None`: no such
    /// header.
    pub expires_header: Option<HeaderName>,
    /// `observe_header`: with `mode = observe`, a response header with the outcome that enforcing would have had.
    /// `None`: no such header.
    pub observe_header: Option<HeaderName>,
    /// `should_retry_headers`: response headers that tell clients whether to retry: `true` beside `Retry-After`, `false` on
    /// other refusals and on stored responses.
    pub should_retry_headers: Vec<HeaderName>,
    /// `credential_headers`: request headers with credentials. Where no principal is named, their hash stands in.
    pub credential_headers: Vec<HeaderName>,
    /// `docs_url`: linked from every refusal.
    pub docs_url: Option<String>,
    /// `on_unknown`: what happens after a lost owner.
    pub on_unknown: OnUnknown,
    /// `on_disconnect`: what happens when the client leaves while the handler runs.
    pub on_disconnect: OnDisconnect,
    /// `max_key_length`, in decoded characters; beyond: 400.
    pub max_key_length: usize,
    /// `body`: how the body of a request reaches its handler.
    pub body: BodyMode,
    /// `max_request_body`, in bytes; beyond: 413.
    pub max_request_body: usize,
    /// `exempt`: route patterns, over the whole path.
    pub exempt: Vec<String>,
    /// `optional`: route patterns, over the whole path.
    pub optional: Vec<String>,
    /// `manual`: route patterns, over the whole path.
    pub manual: Vec<String>,
    /// `required`: route patterns, over the whole path.
    pub required: Vec<String>,
    /// `fingerprint.*`.
    pub fingerprint: FingerprintSettings,
    /// `storage.*`.
    pub storage: StorageSettings,
    /// `caches.NAME.*`: a cache has the settings of `storage`, but for those that it overrides. `default` always
    /// exists. [`Settings::cache`] returns the result.
    pub caches: BTreeMap<String, CacheOverrides>,
    /// `lock.*`.
    pub lock: LockSettings,
    /// `operations.*`.
    pub operations: Operations,
    /// `limits.*`.
    pub limits: Limits,
    /// `encryption.*`.
    pub encryption: Encryption,
}

/// `storage.*` and, per cache, `caches.NAME.*`: where records are kept and for how long.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StorageSettings {
    /// `class`: `memory`, `redis`, or a registered name.
    pub class: String,
    /// `cache_name`: which cache is used where a wrap names none. Only in `storage.*`.
    pub cache_name: String,
    /// `namespace`: keeps services that share a store apart.
    pub namespace: String,
    /// `location` of a networked store, or the file of an embedded one.
    pub location: Location,
    /// `durability` of an embedded store that survives its process.
    pub durability: Durability,
    /// `store_on_statuses`: other statuses free the key.
    pub store_on_statuses: Statuses,
    /// `ttl` of a record, from completion.
    pub ttl: Duration,
    /// `max_ttl`: the longest time that a handler can [keep](crate::ResponseExt::keep_for) a record. `None`: a century.
    pub max_ttl: Option<Duration>,
    /// `min_retention`: the least that a full embedded store keeps a record.
    pub min_retention: Duration,
    /// `max_entries` of an embedded store.
    pub max_entries: usize,
    /// `max_bytes` of an embedded store.
    pub max_bytes: usize,
    /// `max_response_body`: a larger response is stored without its body.
    pub max_response_body: usize,
    /// `on_full`: what a full embedded store does.
    pub on_full: OnFull,
    /// `on_error`: what happens when the store can't answer before the run.
    pub on_error: OnError,
    /// `on_evicting`: what a Redis whose `maxmemory-policy` evicts leads to at startup.
    pub on_evicting: StartupCheck,
    /// `on_unreachable`: what a store that can't be reached leads to at startup.
    pub on_unreachable: StartupCheck,
    /// `replicas`: how many replicas of a Redis must have a claim or a response before it counts.
    pub replicas: usize,
    /// `timeout` of one store call.
    pub timeout: Duration,
    /// `retry_for`: how long a write after the run is retried.
    pub retry_for: Duration,
}

/// `lock.*`: claims, and how long a duplicate waits for one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LockSettings {
    /// `class`: `auto`, or for a custom storage `thread`, `redis` or a registered name.
    pub class: String,
    /// `location` of a redis lock: host, host:port or URL.
    pub location: Location,
    /// `name`: the prefix of lock keys.
    pub name: String,
    /// `ttl`: `None` holds a claim until it is released. A value is a hard ceiling, after which the claim is freed by
    /// force.
    pub ttl: Option<Duration>,
    /// `lease`: how long a claim outlives its process.
    pub lease: Duration,
    /// `enable`: `false` lets duplicates run side by side.
    pub enable: bool,
    /// `timeout`: how long a duplicate waits for the first request.
    pub timeout: Duration,
    /// `max_waiters` per key. Further duplicates are answered as in flight at once.
    pub max_waiters: usize,
    /// `max_wait`: the most that a client can wait by `Prefer: wait`.
    pub max_wait: Duration,
}

/// `operations.*`: where clients look up what became of an operation.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Operations {
    /// `path`: where [`operations_scope`](crate::Idempotency::operations_scope) is mounted, for the `Location` of a 202.
    /// `None`: it is not.
    pub path: Option<String>,
}

/// `limits.*`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// `max_run`: how long a live owner's lease is renewed, and how long an operation may go on whose client has left.
    pub max_run: Duration,
    /// `max_in_flight`: how many protected requests may be in flight; beyond: 503.
    pub max_in_flight: usize,
    /// `max_buffered`: the most bytes of request bodies, and of copies of streamed responses, that are held at a time;
    /// beyond: 503 for a request, and no copy of a response.
    pub max_buffered: usize,
    /// `body_timeout`: how long a request body may take, with one more second for each 16 KiB that have arrived; beyond:
    /// 408.
    pub body_timeout: Duration,
    /// `body_idle_timeout`: how long a body with `body = stream` may stay without a byte while somebody waits for one;
    /// beyond: 408.
    pub body_idle_timeout: Duration,
    /// `principal_share`: the part of `storage.max_entries`, `storage.max_bytes` and `max_in_flight` that one principal
    /// may use, between 0 and 1.
    pub principal_share: f64,
    /// `fresh_per_principal`: the rate at which one principal may begin new operations; beyond: 429. `None`: at any rate.
    pub fresh_per_principal: Option<Rate>,
    /// `drain_timeout`: how long shutdown waits for operations, and how long a stream whose client left is read on.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    /// The profile `default`.
    fn default() -> Self {
        Self::of(Profile::Default)
    }
}

impl Settings {
    /// The defaults of profile `ietf`.
    #[must_use]
    pub fn ietf() -> Self {
        Self::of(Profile::Ietf)
    }

    /// The defaults of profile `stripe`.
    #[must_use]
    pub fn stripe() -> Self {
        Self::of(Profile::Stripe)
    }

    /// The defaults of profile `stripe-v2`.
    #[must_use]
    pub fn stripe_v2() -> Self {
        Self::of(Profile::StripeV2)
    }

    /// Reads `idempotency.toml` (or the file named by `IDEMPOTENCY_KEY_FILE`) and the environment.
    ///
    /// # Errors
    /// [`ConfigError`] for an unreadable file, an unknown name, or a value that a setting does not take.
    pub fn load() -> Result<Self, ConfigError> {
        SettingsLoader::new().load()
    }

    /// A loader for other files, other variables, or a profile chosen in code.
    pub fn loader() -> SettingsLoader {
        SettingsLoader::new()
    }

    /// The defaults of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let seconds = Duration::from_secs;
        let django = profile == Profile::Default;
        let storage = StorageSettings {
            class: "memory".into(),
            cache_name: "default".into(),
            namespace: String::new(),
            location: "redis://127.0.0.1:6379/0".into(),
            durability: Durability::Power,
            store_on_statuses: Statuses::of(profile),
            ttl: seconds(if profile == Profile::StripeV2 { 30 } else { 1 } * 24 * 60 * 60),
            max_ttl: None,
            min_retention: seconds(60),
            max_entries: 1_000_000,
            max_bytes: 256 << 20,
            max_response_body: 1 << 20,
            on_full: OnFull::Shrink,
            on_error: OnError::Reject,
            on_evicting: StartupCheck::Reject,
            on_unreachable: StartupCheck::Reject,
            replicas: 0,
            timeout: Duration::from_millis(500),
            retry_for: seconds(60),
        };
        Self {
            profile,
            mode: Mode::Enforce,
            encoder: "basic".into(),
            header: Self::default_headers(),
            key_sources: Vec::new(),
            syntax: if profile.is_stripe() { Syntax::Raw } else { Syntax::Lenient },
            methods: match profile {
                Profile::Default => Methods::Unsafe,
                Profile::Ietf => Methods::List(vec![Method::POST, Method::PATCH]),
                Profile::Stripe => Methods::List(vec![Method::POST]),
                Profile::StripeV2 => Methods::List(vec![Method::POST, Method::DELETE]),
            },
            scope: Scope::Principal,
            conflict_status_code: django.then_some(StatusCode::CONFLICT),
            original_status_header: Some(HeaderName::from_static("idempotent-status")),
            mismatch_status_code: if profile.is_stripe() {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::UNPROCESSABLE_ENTITY
            },
            missing_key_status_code: StatusCode::BAD_REQUEST,
            in_flight_status_code: if django { StatusCode::LOCKED } else { StatusCode::CONFLICT },
            replay_header: Some(HeaderName::from_static("idempotent-replayed")),
            replay_cookies: false,
            exclude_headers: Vec::new(),
            expires_header: None,
            observe_header: None,
            should_retry_headers: if profile.is_stripe() {
                ["stripe-should-retry", "x-should-retry"].map(HeaderName::from_static).into()
            } else {
                Vec::new()
            },
            credential_headers: ["authorization", "x-api-key", "api-key", "x-auth-token"]
                .map(HeaderName::from_static)
                .into(),
            docs_url: None,
            on_unknown: OnUnknown::Rerun,
            on_disconnect: OnDisconnect::Finish,
            max_key_length: 255,
            body: BodyMode::Buffer,
            max_request_body: 2 << 20,
            exempt: Vec::new(),
            optional: Vec::new(),
            manual: Vec::new(),
            required: Vec::new(),
            fingerprint: FingerprintSettings::default(),
            caches: BTreeMap::new(),
            storage,
            lock: LockSettings {
                class: "auto".into(),
                location: "localhost:6379".into(),
                name: "MyLock".into(),
                ttl: None,
                lease: seconds(30),
                enable: true,
                timeout: if django { Duration::from_millis(100) } else { seconds(5) },
                max_waiters: 32,
                max_wait: seconds(30),
            },
            operations: Operations::default(),
            encryption: Encryption::default(),
            limits: Limits {
                max_run: seconds(15 * 60),
                max_in_flight: 10_000,
                max_buffered: 512 << 20,
                body_timeout: seconds(30),
                body_idle_timeout: seconds(30),
                principal_share: 0.5,
                fresh_per_principal: None,
                drain_timeout: seconds(30),
            },
        }
    }

    fn default_headers() -> Vec<HeaderName> {
        vec![HeaderName::from_static("idempotency-key")]
    }

    /// Whether every request runs, and decisions are only reported.
    pub(crate) fn is_observed(&self) -> bool {
        self.mode == Mode::Observe
    }
}
