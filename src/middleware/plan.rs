//! The plan that code gives to a wrap, and what can't be planned together.

use std::sync::Arc;

use actix_web::dev::ServiceRequest;

use super::{reconcile::ReconcileFn, run::Carry};
use crate::{
    app::{Idempotency, PrincipalFn},
    claim::StoreHandle,
    key::KeyEncoder,
    ledger::AnyLedger,
    policy::{MatchedPath, PatternError, Policy, Rules},
    settings::{BodyMode, ConfigError, OnDisconnect, Settings},
    store::Store,
};

/// Prepares the rest of an operation for going on without its client.
pub(super) type CarryFn = Arc<dyn Fn() -> Carry + Send + Sync>;

/// Shows to a copy of a request what guards inside look at.
pub(super) type ShowFn = Arc<dyn Fn(&ServiceRequest, &mut ServiceRequest) + Send + Sync>;

/// The plan that code gives to a wrap. Becomes a [`WrapConfig`] once the `Idempotency` is known.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word that code says at the wrap, or does not say")]
pub(super) struct WrapPlan {
    pub(super) policy: Policy,
    pub(super) rules: Vec<(String, Policy)>,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) cache_name: Option<String>,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) encoder: Option<Arc<dyn KeyEncoder>>,
    pub(super) principal: Option<PrincipalFn>,
    pub(super) carry: Option<CarryFn>,
    pub(super) show: Option<ShowFn>,
    pub(super) ledger: Option<AnyLedger>,
    /// Whether claims are completed as well, for processes that don't know the ledger yet.
    pub(super) is_in_transition: bool,
    /// Whether a store that can't save steps is a mistake.
    pub(super) needs_steps: bool,
    /// Asked about lost runs.
    pub(super) reconcile: Option<ReconcileFn>,
    /// Whether clients may get a 202 while an operation goes on.
    pub(super) responds_async: bool,
    /// Whether this is the wrap of an operators' scope.
    pub(super) is_operators: bool,
    pub(super) changes: Vec<SettingsChange>,
}

/// Changes settings for one instance.
pub(super) type SettingsChange = Arc<dyn Fn(&mut Settings) + Send + Sync>;

impl WrapPlan {
    pub(super) const fn new(policy: Policy) -> Self {
        Self {
            policy,
            rules: Vec::new(),
            idempotency: None,
            cache_name: None,
            store: None,
            encoder: None,
            principal: None,
            carry: None,
            show: None,
            ledger: None,
            is_in_transition: false,
            needs_steps: false,
            reconcile: None,
            responds_async: false,
            is_operators: false,
            changes: Vec::new(),
        }
    }

    /// Refuses what can't be together, with the settings of the wrap and the store of its cache.
    pub(super) fn check(&self, settings: &Settings, handle: &StoreHandle) -> Result<(), ConfigError> {
        if self.ledger.is_some() {
            check_ledger(self)?;
        }
        if self.needs_steps {
            check_steps(settings, handle)?;
        }
        if settings.body == BodyMode::Stream {
            check_streamed(self)?;
        }
        if self.responds_async {
            check_async(self, settings)?;
        }
        Ok(())
    }

    /// Whether a policy of the wrap is manual.
    fn has_manual(&self) -> bool {
        self.policy.is_manual() || self.rules.iter().any(|(_, policy)| policy.is_manual())
    }

    pub(super) fn rules(&self) -> Result<Rules, PatternError> {
        Rules::new(self.rules.iter().map(|(pattern, policy)| (pattern.as_str(), *policy)), MatchedPath::Rest)
    }
}

/// A wrap whose answers are final.
fn check_ledger(plan: &WrapPlan) -> Result<(), ConfigError> {
    if plan.has_manual() {
        return Err(ConfigError::Combination(
            "a manual handler decides itself what becomes of a retry, and the answers in a ledger are final: a wrap with \
             `.ledger` can't be `.manual`"
                .into(),
        ));
    }
    Ok(())
}

/// Handlers save steps under their claims, in a store that can.
fn check_steps(settings: &Settings, handle: &StoreHandle) -> Result<(), ConfigError> {
    if !handle.store.saves_steps() {
        return Err(ConfigError::Combination(format!(
            "the handlers of a wrap save steps (`.steps()`), and the store of its cache `{}` can't; there are: \
             memory, redis, sqlite",
            handle.name
        )));
    }
    if !settings.lock.enable {
        return Err(ConfigError::Combination(
            "the handlers of a wrap save steps (`.steps()`) under their claims, and `lock.enable = false` claims \
             nothing"
                .into(),
        ));
    }
    Ok(())
}

/// A wrap whose handlers read bodies as they arrive.
fn check_streamed(plan: &WrapPlan) -> Result<(), ConfigError> {
    let why = if plan.ledger.is_some() {
        "reads a body while its handler runs, and the row of a ledger is written before the body's end is known"
    } else if plan.has_manual() {
        "compares a body before its response is sent again, and a manual handler would run before that"
    } else if plan.responds_async {
        "needs the connection until the body has arrived, and `.respond_async()` answers before"
    } else {
        return Ok(());
    };
    Err(ConfigError::Combination(format!("`body = stream` {why}: it can't be at the same wrap")))
}

/// A wrap that answers 202 says where the answer will be, and lets the operation go on.
fn check_async(plan: &WrapPlan, settings: &Settings) -> Result<(), ConfigError> {
    let why = if settings.operations.path.is_none() {
        "names the place of the answer: set `operations.path` to where `operations_scope` is mounted"
    } else if settings.on_disconnect == OnDisconnect::Cancel {
        "lets the operation go on: `on_disconnect = cancel` would drop it"
    } else if plan.store.is_some() {
        "has its records where `operations_scope` finds them: in a cache of its `Idempotency`, not in a store of the wrap"
    } else {
        return Ok(());
    };
    Err(ConfigError::Combination(format!("a wrap with `.respond_async()` {why}")))
}

/// The setting that a wrap has changed although it shapes what all wraps share.
pub(super) fn fixed_setting(before: &Settings, after: &Settings) -> Option<&'static str> {
    let (storage, now) = (&before.storage, &after.storage);
    let (lock, now_lock) = (&before.lock, &after.lock);
    let (limits, now_limits) = (&before.limits, &after.limits);
    let changed = [
        ("profile", before.profile != after.profile),
        ("encoder", before.encoder != after.encoder),
        ("storage.class", storage.class != now.class),
        ("storage.cache_name", storage.cache_name != now.cache_name),
        ("storage.namespace", storage.namespace != now.namespace),
        ("storage.location", storage.location != now.location),
        ("storage.durability", storage.durability != now.durability),
        ("storage.min_retention", storage.min_retention != now.min_retention),
        ("storage.max_entries", storage.max_entries != now.max_entries),
        ("storage.max_bytes", storage.max_bytes != now.max_bytes),
        ("storage.on_full", storage.on_full != now.on_full),
        ("storage.on_evicting", storage.on_evicting != now.on_evicting),
        ("storage.on_unreachable", storage.on_unreachable != now.on_unreachable),
        ("lock.class", lock.class != now_lock.class),
        ("lock.location", lock.location != now_lock.location),
        ("lock.name", lock.name != now_lock.name),
        ("caches", !before.caches.keys().eq(after.caches.keys())),
        ("encryption", before.encryption != after.encryption),
        ("limits.max_in_flight", limits.max_in_flight != now_limits.max_in_flight),
        ("limits.max_buffered", limits.max_buffered != now_limits.max_buffered),
        ("limits.principal_share", limits.principal_share.to_bits() != now_limits.principal_share.to_bits()),
        ("limits.fresh_per_principal", limits.fresh_per_principal != now_limits.fresh_per_principal),
    ];
    changed.into_iter().find(|(_, changed)| *changed).map(|(setting, _)| setting)
}
