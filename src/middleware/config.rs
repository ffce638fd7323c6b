//! The settings of one instance, ready for use: the process's, changed by what the instance says.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_web::{
    HttpMessage as _,
    dev::ServiceRequest,
    http::header::{HeaderMap, HttpDate, TryIntoHeaderValue as _},
};
use bytes::Bytes;

use super::{
    request::{pending::Head, synthetic::StandIns},
    wrap::Plan,
};
use crate::{
    app::{Idempotency, builder::rules_of, idempotency::PrincipalFn},
    claim::{Claims, Question, century, in_flight::Operations},
    client::problem::ProblemStyle,
    key::{Key, KeyEncoder, KeyRequest, Principal, RecordId, fingerprint::RecordIds},
    observe::report::Watch,
    policy::{Policy, Rules},
    settings::{ConfigError, Scope, Settings, StorageSettings},
    store::Mode,
};

pub(super) struct Config {
    pub(super) settings: Settings,
    pub(super) claims: Arc<Claims>,
    pub(super) style: ProblemStyle,
    pub(super) operations: Arc<Operations>,
    pub(super) watch: Arc<Watch>,
    record_ids: RecordIds,
    policy: Policy,
    own_rules: Rules,
    /// Rules from settings belong to the outermost instance on a request's way.
    settings_rules: Rules,
    encoder: Arc<dyn KeyEncoder>,
    principal: Option<PrincipalFn>,
    pub(super) stand_ins: StandIns,
}

impl Config {
    pub(super) fn new(plan: &Plan, idempotency: &Idempotency) -> Result<Self, ConfigError> {
        let shared = idempotency.shared();
        let mut settings = shared.settings.clone();
        let cache_name = plan.cache_name.clone().unwrap_or_else(|| settings.storage.cache_name.clone());
        let declared = idempotency.cache(&cache_name)?;
        if let Some(storage) = settings.cache(&cache_name) {
            settings.storage = storage.clone();
        }
        let namespace = settings.storage.namespace.clone();
        settings.storage.cache_name = cache_name;
        let before = (settings.storage.clone(), settings.limits.max_in_flight);
        for change in &plan.changes {
            change(&mut settings);
        }
        settings.check()?;
        if let Some(setting) = fixed_by_now(&before, &settings) {
            return Err(ConfigError::Combination(format!(
                "`{setting}` shapes what all wraps share, and can't be changed at one of them; declare a cache for it"
            )));
        }
        let cache = match &plan.store {
            Some(store) => idempotency.cache_of(&declared.name, store),
            None => declared.clone(),
        };
        Ok(Self {
            style: ProblemStyle::of(&settings),
            operations: shared.operations.clone(),
            watch: shared.watch.clone(),
            record_ids: RecordIds::new(&namespace, &cache.name),
            policy: plan.policy,
            own_rules: plan.rules()?,
            settings_rules: rules_of(&settings)?,
            encoder: plan.encoder.clone().unwrap_or_else(|| shared.encoder.clone()),
            principal: plan.principal.clone().or_else(|| shared.principal.clone()),
            stand_ins: StandIns::default(),
            claims: Claims::new(cache, &settings),
            settings,
        })
    }

    /// The policy of this instance for a request, as far as it is known before routing.
    pub(super) fn policy(&self, request: &ServiceRequest, outermost: bool) -> Policy {
        let own = (!self.own_rules.is_empty()).then(|| self.own_rules.policy(request)).flatten();
        let from_settings =
            || (outermost && !self.settings_rules.is_empty()).then(|| self.settings_rules.policy(request)).flatten();
        own.or_else(from_settings).unwrap_or(self.policy)
    }

    /// On whose behalf a request runs.
    pub(super) fn principal(&self, request: &ServiceRequest) -> Principal {
        if let Some(principal) = request.extensions().get::<Principal>() {
            return principal.clone();
        }
        let asked = self.principal.as_ref().and_then(|principal| principal(request));
        asked.unwrap_or_else(|| Principal::of_credentials(request.headers()))
    }

    /// Tells until when a stored answer is kept.
    pub(super) fn tell_expiry(&self, headers: &mut HeaderMap, remaining: Duration) {
        if let Some(name) = &self.settings.expires_header
            // The format has years of four digits.
            && let Some(expires) = SystemTime::now().checked_add(century(remaining))
            && let Ok(value) = HttpDate::from(expires).try_into_value()
        {
            headers.insert(name.clone(), value);
        }
    }

    /// What the store is asked about a request, and the id that its record has while requests are enforced.
    pub(super) fn question(
        &self,
        head: &Head<'_>,
        key: &Key,
        principal: &Principal,
        body: &[Bytes],
        mode: Mode,
    ) -> (RecordId, Question) {
        let request = KeyRequest {
            key,
            principal,
            method: head.method,
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            headers: head.headers,
            body,
        };
        let endpoint = (self.settings.scope == Scope::Endpoint).then_some((request.method.as_str(), request.path));
        let encoded = self.encoder.encode(&request);
        let id = self.record_ids.of(principal, &encoded, endpoint);
        let fingerprint = self.encoder.fingerprint(&request);
        (id, Question { id: id.in_mode(self.settings.mode), fingerprint, mode })
    }
}

/// A setting that was changed at a wrap although the store, or the count of operations, is made already.
fn fixed_by_now((storage, most): &(StorageSettings, usize), now: &Settings) -> Option<&'static str> {
    let (before, after) = (storage, &now.storage);
    let changed = [
        ("storage.class", before.class != after.class),
        ("storage.namespace", before.namespace != after.namespace),
        ("storage.location", before.location != after.location),
        ("storage.min_retention", before.min_retention != after.min_retention),
        ("storage.max_entries", before.max_entries != after.max_entries),
        ("storage.max_bytes", before.max_bytes != after.max_bytes),
        ("storage.on_full", before.on_full != after.on_full),
        ("limits.max_in_flight", *most != now.limits.max_in_flight),
    ];
    changed.into_iter().find(|(_, changed)| *changed).map(|(setting, _)| setting)
}
