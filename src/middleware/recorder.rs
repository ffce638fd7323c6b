//! Follows one request to its outcome, and reports the outcome when it is dropped: exactly one report, however the
//! request ends.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::http::Method;
use tracing::{Span, field::Empty};

use super::config::WrapConfig;
use crate::{
    key::RecordId,
    observe::{Outcome, Report},
    policy::Policy,
    record::Record,
    store::Claim,
};

/// Reports the outcome of one request. Empty when there are no observers.
#[derive(Default)]
pub(super) struct OutcomeRecorder(Option<Box<Draft>>);

/// The report so far.
struct Draft {
    config: Rc<WrapConfig>,
    method: Method,
    route: Option<String>,
    policy: Policy,
    record: Option<RecordId>,
    attempt: u32,
    taken_over: bool,
    waited: Duration,
    arrived: Instant,
    stored_bytes: Option<usize>,
    outcome: Outcome,
    /// Another instance governs, and reports.
    is_silent: bool,
    span: Span,
}

impl OutcomeRecorder {
    /// `route`: the pattern of the request's route, if anybody receives reports.
    pub(super) fn new(config: &Rc<WrapConfig>, method: &Method, route: Option<String>, policy: Policy) -> Self {
        if !config.observers.any() {
            return Self(None);
        }
        Self(Some(Box::new(Draft {
            config: config.clone(),
            method: method.clone(),
            route,
            policy,
            record: None,
            attempt: 0,
            taken_over: false,
            waited: Duration::ZERO,
            arrived: Instant::now(),
            stored_bytes: None,
            // The outcome of a request that is dropped before another outcome is known.
            outcome: Outcome::Abandoned,
            is_silent: false,
            span: Span::none(),
        })))
    }

    /// Opens the span that the request runs in.
    pub(super) fn open_span(&mut self) -> Span {
        let Some(draft) = &mut self.0 else { return Span::none() };
        draft.span = tracing::info_span!(
            "idempotency",
            outcome = Empty,
            route = draft.route.as_deref(),
            policy = draft.policy.name(),
            record = Empty,
            attempt = Empty,
            waited = Empty,
            stored_bytes = Empty,
        );
        draft.span.clone()
    }

    pub(super) fn asks_for(&mut self, record: RecordId) {
        if let Some(draft) = &mut self.0 {
            draft.record = Some(record);
            draft.span.record("record", tracing::field::debug(record));
        }
    }

    pub(super) fn waited(&mut self, waited: Duration) {
        if let Some(draft) = &mut self.0 {
            draft.waited = waited;
        }
    }

    pub(super) fn claims(&mut self, claim: Option<&Claim>) {
        if let (Some(draft), Some(claim)) = (&mut self.0, claim) {
            draft.attempt = claim.attempt;
            draft.taken_over = claim.taken_over;
            draft.span.record("attempt", claim.attempt);
        }
    }

    /// A record is on its way to the store, and arrives there whatever happens to the request.
    pub(super) fn writes(&mut self, record: &Record) {
        if let Some(draft) = &mut self.0 {
            draft.stored_bytes = Some(record.len());
            draft.outcome = Outcome::WrittenBehind;
        }
    }

    /// Sets the outcome. The last one that is set is reported.
    pub(super) fn outcome(&mut self, outcome: Outcome) {
        if let Some(draft) = &mut self.0 {
            draft.outcome = outcome;
            if !matches!(outcome, Outcome::Stored | Outcome::WrittenBehind) {
                draft.stored_bytes = None;
            }
        }
    }

    /// Reports nothing: another instance governs.
    pub(super) fn keep_silent(&mut self) {
        if let Some(draft) = &mut self.0 {
            draft.is_silent = true;
        }
    }

    /// Reports now.
    pub(super) fn finish(&mut self) {
        self.0 = None;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_silent {
            return;
        }
        if self.outcome == Outcome::Abandoned && std::thread::panicking() {
            self.outcome = Outcome::Panicked;
        }
        let _in = self.span.enter();
        self.span.record("outcome", self.outcome.name());
        self.span.record("waited", tracing::field::debug(self.waited));
        if let Some(bytes) = self.stored_bytes {
            self.span.record("stored_bytes", bytes);
        }
        self.config.observers.report(&Report {
            outcome: self.outcome,
            enforced: !self.config.settings.is_observed(),
            method: &self.method,
            route: self.route.as_deref(),
            policy: self.policy,
            cache: &self.config.claims.handle.name,
            record: self.record,
            attempt: self.attempt,
            taken_over: self.taken_over,
            waited: self.waited,
            took: self.arrived.elapsed(),
            stored_bytes: self.stored_bytes,
        });
    }
}
