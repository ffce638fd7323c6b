//! The configuration of one instance: the settings and parts that are made of a wrap's plan.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_web::{
    HttpMessage as _,
    dev::{Extensions, ServiceRequest},
    http::header::{HeaderMap, HeaderValue, HttpDate, TryIntoHeaderValue as _},
    http::uri::Authority,
};
use bytes::Bytes;

use super::{
    plan::{CarryFn, WrapPlan, fixed_setting},
    reconcile::ReconcileFn,
    request::{BodyLimits, HeadRef, SyntheticRequests},
    streamed::StreamedHead,
};
use crate::{
    app::{Idempotency, PrincipalFn, warn_of_given_up_promises},
    claim::{ClaimRequest, Claims, FirstRuns, InFlight, at_most_a_century},
    client::problem::ProblemStyle,
    handler::{KeepFor, SaveSteps},
    key::{
        BasicKeyEncoder, CanonicalJsonEncoder, Comparison, Fingerprint, Key, KeyEncoder, KeyRequest, Principal,
        RecordId, Sources, record_id::RecordIds, streamed_fingerprint,
    },
    ledger::AnyLedger,
    observe::Observers,
    policy::{Policy, Rules},
    settings::{BodyMode, ConfigError, Scope, Settings, StoredIds},
    store::{IfCompleted, OnUnknown},
};

/// The body of a request, as far as its claim compares it.
#[derive(Clone, Copy)]
pub(super) enum ComparedBody<'a> {
    /// The body was read.
    Read(&'a [Bytes]),
    /// The handler reads the body.
    Streamed(&'a StreamedHead),
}

/// The settings and parts of one instance, ready for use: the settings of the process, changed by the wrap's plan.
pub(super) struct WrapConfig {
    pub(super) settings: Settings,
    pub(super) claims: Arc<Claims>,
    pub(super) style: ProblemStyle,
    pub(super) in_flight: Arc<InFlight>,
    /// Counts first runs. `None`: nothing is counted.
    pub(super) first_runs: Option<Arc<FirstRuns>>,
    pub(super) observers: Arc<Observers>,
    pub(super) synthetic: SyntheticRequests,
    record_ids: RecordIds,
    pub(super) stored_ids: StoredIds,
    policy: Policy,
    own_rules: Rules,
    /// Rules from settings apply at the outermost instance of a request only.
    settings_rules: Rules,
    encoder: Arc<dyn KeyEncoder>,
    /// Where keys may be, beside headers. `None`: in headers only.
    pub(super) sources: Option<Rc<Sources>>,
    /// The parts of a request that fingerprints compare beside those of the encoder.
    pub(super) comparison: Comparison,
    /// The scheme of its fingerprints.
    scheme: [u8; 2],
    /// With `body = stream`: the schemes without and with a digest of the body.
    streamed: Option<[[u8; 2]; 2]>,
    principal: Option<PrincipalFn>,
    pub(super) carry: Option<CarryFn>,
    pub(super) ledger: Option<AnyLedger>,
    pub(super) is_in_transition: bool,
    /// Where handlers save steps.
    pub(super) steps: Rc<dyn SaveSteps>,
    /// Asked about lost runs. `None`: nobody is asked, or requests are only observed.
    pub(super) reconcile: Option<ReconcileFn>,
    /// Whether clients may get a 202 while an operation goes on.
    pub(super) responds_async: bool,
    /// Whether a mismatch is explained: `fingerprint.differences`. An observed request is told nothing.
    #[cfg(feature = "encryption")]
    pub(super) explains: bool,
}

impl WrapConfig {
    pub(super) fn new(plan: &WrapPlan, idempotency: &Idempotency) -> Result<Self, ConfigError> {
        let shared = idempotency.shared();
        let mut settings = shared.settings.clone();
        let cache_name = plan.cache_name.clone().unwrap_or_else(|| settings.storage.cache_name.clone());
        let declared = idempotency.cache(&cache_name)?;
        if let Some(storage) = settings.cache(&cache_name) {
            settings.storage = storage;
        }
        let namespace = settings.storage.namespace.clone();
        settings.storage.cache_name = cache_name;
        if let Some(own) = &plan.encoder {
            // The encoder of the wrap decides on what its other settings can be.
            let known: [(&dyn KeyEncoder, &str); 2] =
                [(&CanonicalJsonEncoder, "canonical-json"), (&BasicKeyEncoder, "basic")];
            let known = known.into_iter().find(|(encoder, _)| encoder.scheme() == own.scheme());
            settings.encoder = known.map_or("one of the wrap", |(_, name)| name).into();
        }
        let before = settings.clone();
        for change in &plan.changes {
            change(&mut settings);
        }
        if plan.reconcile.is_some() {
            settings.on_unknown = OnUnknown::Ask;
        } else if settings.on_unknown == OnUnknown::Ask && !plan.is_operators {
            return Err(ConfigError::Combination(
                "`on_unknown = ask` needs a hook that can be asked: give each wrap one with `.on_unknown(…)`".into(),
            ));
        }
        settings.check()?;
        if let Some(setting) = fixed_setting(&before, &settings) {
            return Err(ConfigError::Combination(format!(
                "`{setting}` shapes what all wraps share, and can't be changed by `.configure` at one of them; declare a \
                 cache for another store, or use the wrap's own methods"
            )));
        }
        if settings.storage.class == "memory"
            && plan.store.is_none()
            && settings.storage.max_response_body > before.storage.max_response_body
        {
            return Err(ConfigError::Combination(
                "a wrap can't set `storage.max_response_body` above that of its cache: the memory store is laid out for the \
                 latter"
                    .into(),
            ));
        }
        let names = settings.key_headers();
        // A look-up has no body, so its key is in a header all the same.
        if !(plan.is_operators && names.is_empty()) {
            settings.header = names;
        }
        warn_of_given_up_promises(&settings, Some(&shared.settings));
        let handle = match &plan.store {
            Some(store) => idempotency.handle_of(&declared.name, store),
            None => declared.clone(),
        };
        plan.check(&settings, &handle)?;
        let mut claimed = settings.clone();
        if plan.ledger.is_some() {
            // The ledger says what a lost owner did, so its claims never bar a key.
            claimed.on_unknown = OnUnknown::Rerun;
        }
        let claims = Claims::new(handle.clone(), &claimed);
        let ledger = plan.ledger.as_ref().map(|ledger| idempotency.ledger_of(&handle.name, ledger, &settings));
        let comparison = settings.fingerprint.comparison();
        let encoder = plan.encoder.clone().unwrap_or_else(|| shared.encoder.clone());
        Ok(Self {
            style: ProblemStyle::of(&settings).shaped_by(shared.refusal.clone()),
            in_flight: shared.in_flight.clone(),
            first_runs: shared.first_runs.clone(),
            observers: shared.observers.clone(),
            synthetic: SyntheticRequests::default(),
            record_ids: RecordIds::new(&namespace, &handle.name),
            stored_ids: idempotency.stored_ids(settings.mode),
            policy: plan.policy,
            own_rules: plan.rules()?,
            settings_rules: settings.rules()?,
            scheme: Fingerprint::scheme_of(&comparison.scheme(&encoder.scheme())),
            streamed: (settings.body == BodyMode::Stream)
                .then(|| ["head", "head and digest"].map(|scheme| Fingerprint::scheme_of(&comparison.scheme(scheme)))),
            comparison,
            sources: settings.sources_beside_headers().map(Rc::new),
            encoder,
            carry: plan.carry.clone(),
            principal: plan.principal.clone().or_else(|| shared.principal.clone()),
            steps: Rc::new(claims.clone()),
            responds_async: plan.responds_async,
            #[cfg(feature = "encryption")]
            explains: settings.fingerprint.differences && !settings.is_observed(),
            reconcile: plan.reconcile.clone().filter(|_| !settings.is_observed()),
            claims,
            ledger,
            is_in_transition: plan.is_in_transition,
            settings,
        })
    }

    /// The policy of this instance for a request, as far as it is known before routing.
    pub(super) fn policy(&self, request: &ServiceRequest, is_outermost: bool) -> Policy {
        let own = self.own_rules.policy(request);
        let from_settings = || if is_outermost { self.settings_rules.policy(request) } else { None };
        own.or_else(from_settings).unwrap_or(self.policy)
    }

    /// The subject on whose behalf a request runs.
    pub(super) fn principal(&self, request: &ServiceRequest) -> Principal {
        if let Some(principal) = request.extensions().get::<Principal>() {
            return principal.clone();
        }
        let found = self.principal.as_ref().and_then(|principal| principal(request));
        found.unwrap_or_else(|| Principal::of_credentials(request.headers(), &self.settings.credential_headers))
    }

    /// Whether handlers read bodies as they arrive.
    pub(super) const fn streams(&self) -> bool {
        self.streamed.is_some()
    }

    pub(super) const fn body_limits(&self) -> BodyLimits {
        BodyLimits { bytes: self.settings.max_request_body, time: self.settings.limits.body_timeout }
    }

    /// Tells clients not to send a request again whose response is stored, if `should_retry_headers` asks for it.
    pub(super) fn add_should_retry(&self, headers: &mut HeaderMap) {
        for name in &self.settings.should_retry_headers {
            headers.insert(name.clone(), HeaderValue::from_static("false"));
        }
    }

    /// How long the record of a response with these extensions is kept.
    pub(super) fn keep_of(&self, extensions: &Extensions) -> Duration {
        let storage = &self.settings.storage;
        let most = || at_most_a_century(storage.max_ttl.unwrap_or(Duration::MAX));
        let kept = extensions.get::<KeepFor>();
        kept.map_or(storage.ttl, |kept| kept.0.clamp(Duration::from_millis(1), most()))
    }

    /// Adds the date until which a stored response is kept, if `expires_header` asks for it.
    pub(super) fn add_expiry(&self, headers: &mut HeaderMap, remaining: Duration) {
        if let Some(name) = &self.settings.expires_header
            // The format has years of four digits.
            && let Some(expires) = SystemTime::now().checked_add(at_most_a_century(remaining))
            && let Ok(value) = HttpDate::from(expires).try_into_value()
        {
            headers.insert(name.clone(), value);
        }
    }

    /// The id of the record of a key, for an encoder that uses the key alone.
    pub(super) fn id_of_key(&self, principal: &Principal, key: &Key) -> RecordId {
        self.stored_ids.index.id(self.record_ids.of(principal, key.as_str(), None))
    }

    /// The request for a claim, and the id that the record has with `mode = enforce`.
    pub(super) fn claim_request(
        &self,
        head: &HeadRef<'_>,
        key: &Key,
        principal: Principal,
        body: ComparedBody<'_>,
        if_completed: IfCompleted,
    ) -> (RecordId, ClaimRequest) {
        let query = self.comparison.query(head.uri.query().unwrap_or_default());
        let request = KeyRequest {
            key,
            principal: &principal,
            method: head.method,
            path: head.uri.path(),
            query: &query,
            headers: head.headers,
            body: if let ComparedBody::Read(pieces) = body { pieces } else { &[] },
            comparison: &self.comparison,
        };
        let endpoint = (self.settings.scope == Scope::Endpoint).then_some((request.method.as_str(), request.path));
        let encoded = self.encoder.encode(&request);
        let id = self.record_ids.of(&principal, &encoded, endpoint);
        let target = Fingerprint::target_of(head.method.as_str(), request.path);
        let authority = head.uri.authority().map(Authority::as_str);
        let (scheme, digest) = match body {
            ComparedBody::Read(_) => (self.scheme, self.encoder.fingerprint(&request)),
            ComparedBody::Streamed(StreamedHead { digest, .. }) => {
                let [by_head, by_digest] = self.streamed.unwrap_or_default();
                let scheme = if digest.is_some() { by_digest } else { by_head };
                (scheme, streamed_fingerprint(&request, digest.as_ref()))
            }
        };
        let stored = self.stored_ids.of(id);
        if let ComparedBody::Streamed(StreamedHead { fingerprint, .. }) = body {
            let [by_head, _] = self.streamed.unwrap_or_default();
            let digest = self.comparison.with_headers(streamed_fingerprint(&request, None), &request, authority);
            fingerprint.set(self.stored_ids.index.fingerprint(&stored, Fingerprint::new(by_head, target, digest)));
        }
        let digest = self.comparison.with_headers(digest, &request, authority);
        let fingerprint = Fingerprint::new(scheme, target, digest);
        #[cfg(feature = "encryption")]
        let sealing = self.claims.handle.seals().and_then(|seals| seals.operation(key, &principal));
        // Observed requests are neither delayed nor recorded there.
        let ledger = self.ledger.clone().filter(|_| !self.settings.is_observed());
        #[cfg(feature = "encryption")]
        let ledger = ledger.map(|ledger| ledger.of_operation(sealing.clone()));
        let claim_request = ClaimRequest {
            id: stored,
            fingerprint: self.stored_ids.index.fingerprint(&stored, fingerprint),
            principal: self.stored_ids.index.principal(principal),
            if_completed,
            ledger,
            #[cfg(feature = "encryption")]
            sealing,
        };
        (id, claim_request)
    }
}
