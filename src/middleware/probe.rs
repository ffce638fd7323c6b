//! Asks by a copy of a request who governs it, so that the request itself is at hand for an answer: layers outside find in
//! it what they have put there.
//!
//! An answer is given only after a copy was routed, its future dropped unpolled, and nobody inside spoke. Nothing runs
//! before the request itself was routed, too; where somebody inside speaks only then, the claim is released and the
//! instance steps aside. So a copy that errs can cause a wrong refusal or replay, and never an unprotected run.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};

use super::{config::WrapConfig, plan::ShowFn, request::accept_encoding, response::AnswerBody, service::Governed};
use crate::{
    handler::{IdempotencyInfo, Stage},
    policy::Policy,
};

/// How many places are remembered. Methods are free text, so there may be more.
const MOST_PLACES: usize = 1024;

/// The experience of an instance with others inside: whether copies of requests tell which instance governs.
pub(super) struct Probe {
    show: Option<ShowFn>,
    /// Copies don't find what requests find, so requests are routed before anything is decided.
    is_misled: Cell<bool>,
    /// Methods and routes, as hashes, at which requests without a key were refused after they had been routed themselves.
    refused: RefCell<HashSet<u64>>,
    hasher: RandomState,
}

/// The answer of the request itself, after its copy has said that this instance governs.
pub(super) enum Confirmed {
    /// This instance governs.
    Ours,
    /// An inner instance governs, or nobody.
    Theirs,
    /// This instance governs by another policy than the one by which it has decided.
    Unclear,
}

impl Probe {
    pub(super) fn new(show: Option<ShowFn>) -> Self {
        Self { show, is_misled: Cell::new(false), refused: RefCell::default(), hasher: RandomState::new() }
    }

    /// Asks by a copy. `Some`: this instance governs, by this policy, and may have to answer itself.
    pub(super) fn ask<S: Service<ServiceRequest>>(
        &self,
        service: &S,
        config: &WrapConfig,
        request: &ServiceRequest,
        base: Policy,
        has_key: bool,
    ) -> Option<Policy> {
        if self.is_misled.get() {
            return None;
        }
        // A wrong refusal would stay: without a key, the request itself is asked first, once for each route.
        if !has_key && self.place_of(request).is_none_or(|place| !self.refused.borrow().contains(&place)) {
            return None;
        }
        let mut copy = config.synthetic.copy(request)?;
        let info = IdempotencyInfo::asking();
        info.set_stage(Stage::Probing);
        copy.extensions_mut().insert(info.clone());
        if let Some(show) = &self.show {
            show(request, &mut copy);
        }
        // actix-web starts nothing before a future is first polled.
        if catch_unwind(AssertUnwindSafe(|| drop(service.call(copy)))).is_err() {
            self.misled("a guard or a layer inside panicked at a copy of a request");
            return None;
        }
        said(&info, base).filter(|policy| *policy != Policy::Exempt)
    }

    /// The method and the route of a request, as a hash.
    pub(super) fn place_of(&self, request: &ServiceRequest) -> Option<u64> {
        let route = request.match_pattern()?;
        Some(self.hasher.hash_one((request.method(), route)))
    }

    /// Learns from a request without a key that was routed itself.
    pub(super) fn learn(&self, place: Option<u64>, info: &IdempotencyInfo, base: Policy) {
        let Some(place) = place else { return };
        let mut refused = self.refused.borrow_mut();
        if said(info, base).is_some_and(|policy| policy != Policy::Exempt) {
            if refused.len() < MOST_PLACES {
                refused.insert(place);
            }
        } else {
            refused.remove(&place);
        }
    }

    fn misled(&self, why: &str) {
        if !self.is_misled.replace(true) {
            tracing::warn!(
                "{why}; from now on requests are routed before anything is decided, and layers outside miss what they put \
                 into requests that are refused or replayed. `.showing(…)` can show copies what guards inside look at"
            );
        }
    }
}

/// Who governs, as guards and instances inside have said. `None`: an inner instance.
fn said(info: &IdempotencyInfo, base: Policy) -> Option<Policy> {
    (info.stage() != Stage::GovernedByInner).then(|| info.declared().unwrap_or(base))
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Routes the request of which a copy was routed.
    pub(super) fn confirm(&mut self) -> Confirmed {
        if !self.pending.is_asked() {
            return Confirmed::Ours;
        }
        let (info, is_observed) = (self.info.clone(), self.config.settings.is_observed());
        info.forget_declared();
        info.set_stage(Stage::Confirming);
        self.pending.confirm(&*self.service, |request| {
            if !is_observed {
                accept_encoding::take(request, &info);
            }
        });
        let said = said(&info, self.base);
        if info.stage() == Stage::Confirming {
            info.set_stage(Stage::Governing);
        }
        if said == Some(self.policy) {
            return Confirmed::Ours;
        }
        self.probe.misled("a guard or a layer inside looks at more than the head and the path of a request");
        match said {
            None | Some(Policy::Exempt) => Confirmed::Theirs,
            // The request was claimed for a handler that may run again.
            Some(policy) if info.exists() && !policy.is_manual() => Confirmed::Unclear,
            Some(_) => Confirmed::Ours,
        }
    }

    /// Frees the key, and lets the inner instance govern that no copy has found.
    pub(super) async fn step_aside(&mut self) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        if let Some(held) = self.operation.held.take() {
            held.release().await;
        }
        if let Some(run) = self.operation.ledger.take() {
            run.close();
        }
        self.operation.in_flight = None;
        self.operation.recorder.keep_silent();
        if self.info.stage() != Stage::GovernedByInner {
            self.info.set_stage(Stage::Passed);
        }
        let payload = self.body.take_payload();
        let response = self.pending.take().pass(&*self.service, payload).await?;
        Ok(response.map_body(|_, body| AnswerBody::through(body)))
    }
}
