//! Messages between the instances and guards on one request's way: who governs, and how far that one is.

use std::cell::{Cell, RefCell};

use actix_web::http::header::HeaderValue;

use super::IdempotencyInfo;
use crate::{policy::Policy, settings::Mode};

/// The private half of an [`IdempotencyInfo`].
#[derive(Default)]
pub(super) struct Governance {
    stage: Cell<Stage>,
    /// The policy that a route guard declared.
    declared: Cell<Option<Policy>>,
    /// Whether the innermost instance or guard that was reached after the decision is exempt.
    late_exempt: Cell<bool>,
    /// `Accept-Encoding`, taken away in case the request becomes protected.
    accept_encoding: RefCell<Vec<HeaderValue>>,
}

/// How far an instance is with a request. Inner instances read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The instance has asked the router who governs.
    #[default]
    Asking,
    /// As `Asking`, by a copy of the request that is never answered.
    Probing,
    /// The instance has decided to run, and asks by the request itself whether it governs.
    Confirming,
    /// An inner instance has declared itself: it governs.
    GovernedByInner,
    /// The instance let the request pass. An inner instance may still govern.
    Passed,
    /// The instance only observes. An inner instance that enforces still governs.
    Observing,
    /// The instance governs, and nothing has run yet.
    Governing,
    /// The handler has started, and finishes whatever happens to the connection.
    Running,
}

impl Stage {
    /// Whether an instance in this stage leaves nothing to decide to an inner one in mode `inner`. An instance that
    /// only observes leaves everything to one that enforces; of two that observe, the outer one is enough.
    pub(crate) fn governs(self, inner: Mode) -> bool {
        match self {
            Self::Governing | Self::Running => true,
            Self::Observing => inner == Mode::Observe,
            Self::Asking | Self::Probing | Self::Confirming | Self::GovernedByInner | Self::Passed => false,
        }
    }
}

impl IdempotencyInfo {
    pub(crate) fn stage(&self) -> Stage {
        self.governance().map_or(Stage::Passed, |governance| governance.stage.get())
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        if let Some(governance) = self.governance() {
            governance.stage.set(stage);
        }
    }

    /// Records the policy of a route guard. The guard that is reached last is the innermost one, and counts.
    pub(crate) fn declare(&self, policy: Policy) {
        if let Some(governance) = self.governance() {
            governance.declared.set(Some(policy));
        }
        self.declare_late(policy);
    }

    /// Records the policy of an instance or a guard that was reached after the decision. All that it can still do is
    /// keep the response out of the store.
    pub(crate) fn declare_late(&self, policy: Policy) {
        if let Some(governance) = self.governance()
            && matches!(governance.stage.get(), Stage::Observing | Stage::Governing | Stage::Running)
        {
            governance.late_exempt.set(policy == Policy::Exempt);
        }
    }

    /// The policy that a route guard declared before the decision.
    pub(crate) fn declared(&self) -> Option<Policy> {
        self.governance()?.declared.get()
    }

    /// Forgets what a route guard declared: the router is asked again.
    pub(crate) fn forget_declared(&self) {
        if let Some(governance) = self.governance() {
            governance.declared.set(None);
        }
    }

    pub(crate) fn is_late_exempt(&self) -> bool {
        self.governance().is_some_and(|governance| governance.late_exempt.get())
    }

    /// Keeps `Accept-Encoding` lines for an inner instance.
    pub(crate) fn keep_accept_encoding(&self, lines: impl Iterator<Item = HeaderValue>) {
        if let Some(governance) = self.governance() {
            governance.accept_encoding.borrow_mut().extend(lines);
        }
    }

    /// The `Accept-Encoding` lines that were taken away.
    pub(crate) fn kept_accept_encoding(&self) -> Vec<HeaderValue> {
        self.governance().map(|governance| governance.accept_encoding.borrow().clone()).unwrap_or_default()
    }

    /// The `Accept-Encoding` lines that the outer instance took away.
    pub(crate) fn take_accept_encoding(&self) -> Vec<HeaderValue> {
        self.governance().map(|governance| governance.accept_encoding.take()).unwrap_or_default()
    }
}
