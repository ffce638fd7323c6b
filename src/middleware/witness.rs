//! Follows one request to its outcome, and tells it when it is dropped: however a request ends, it is told once.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::http::Method;
use tracing::{Span, field::Empty};

use super::config::Config;
use crate::{
    key::RecordId,
    observe::{Outcome, Report},
    policy::Policy,
    record::Record,
    store::Claim,
};

/// `None`: nobody watches.
#[derive(Default)]
pub(super) struct Witness(Option<Box<Account>>);

struct Account {
    config: Rc<Config>,
    method: Method,
    route: Option<String>,
    policy: Policy,
    record: Option<RecordId>,
    attempt: u32,
    taken_over: bool,
    waited: Duration,
    arrived: Instant,
    stored_bytes: Option<usize>,
    /// What it is, unless another is told.
    outcome: Outcome,
    span: Span,
}

impl Witness {
    /// `route`: the pattern of its route, when somebody watches.
    pub(super) fn new(config: &Rc<Config>, method: &Method, route: Option<String>, policy: Policy) -> Self {
        if !config.watch.is_watched() {
            return Self(None);
        }
        Self(Some(Box::new(Account {
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
            outcome: Outcome::Abandoned,
            span: Span::none(),
        })))
    }

    /// The span that the request runs in.
    pub(super) fn begins(&mut self) -> Span {
        let Some(account) = &mut self.0 else { return Span::none() };
        account.span = tracing::info_span!(
            "idempotency",
            outcome = Empty,
            route = account.route.as_deref(),
            policy = account.policy.name(),
            record = Empty,
            attempt = Empty,
            waited = Empty,
            stored_bytes = Empty,
        );
        account.span.clone()
    }

    pub(super) fn asks_for(&mut self, record: RecordId) {
        if let Some(account) = &mut self.0 {
            account.record = Some(record);
            account.span.record("record", tracing::field::debug(record));
        }
    }

    pub(super) fn waited(&mut self, waited: Duration) {
        if let Some(account) = &mut self.0 {
            account.waited = waited;
        }
    }

    pub(super) fn claims(&mut self, claim: Option<&Claim>) {
        if let (Some(account), Some(claim)) = (&mut self.0, claim) {
            account.attempt = claim.attempt;
            account.taken_over = claim.taken_over;
            account.span.record("attempt", claim.attempt);
        }
    }

    /// A record is on its way to the store, and arrives there whatever happens to the request.
    pub(super) fn writes(&mut self, record: &Record) {
        if let Some(account) = &mut self.0 {
            account.stored_bytes = Some(record.as_bytes().len());
            account.outcome = Outcome::WrittenBehind;
        }
    }

    pub(super) fn sees(&mut self, outcome: Outcome) {
        if let Some(account) = &mut self.0 {
            account.outcome = outcome;
            if !matches!(outcome, Outcome::Stored | Outcome::WrittenBehind) {
                account.stored_bytes = None;
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.outcome == Outcome::Abandoned && std::thread::panicking() {
            self.outcome = Outcome::Panicked;
        }
        let _in = self.span.enter();
        self.span.record("outcome", self.outcome.name());
        self.span.record("waited", tracing::field::debug(self.waited));
        if let Some(bytes) = self.stored_bytes {
            self.span.record("stored_bytes", bytes);
        }
        self.config.watch.tell(&Report {
            outcome: self.outcome,
            enforced: !self.config.settings.is_observed(),
            method: &self.method,
            route: self.route.as_deref(),
            policy: self.policy,
            cache: &self.config.claims.cache.name,
            record: self.record,
            attempt: self.attempt,
            taken_over: self.taken_over,
            waited: self.waited,
            took: self.arrived.elapsed(),
            stored_bytes: self.stored_bytes,
        });
    }
}
