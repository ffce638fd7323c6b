//! The view that a handler has of the key of its request.

use std::{
    cell::OnceCell,
    fmt,
    future::{Ready, ready},
    rc::Rc,
};

use actix_web::{
    Error, FromRequest, HttpMessage as _, HttpRequest, HttpResponse, dev::Payload, error::ErrorInternalServerError,
};

use super::{
    derive::{call_key, step_key},
    governance::{Governance, Stage},
    steps::Journal,
};
use crate::{
    key::{Key, RecordId},
    ledger::{LedgerEntry, LedgerRun, TransactionError},
    record::StoredResponse,
    settings::StoredIds,
    store::Claim,
};

/// Everything that a handler can know about the key of its request: an extractor in every handler under an
/// [`IdempotencyKey`](crate::IdempotencyKey) or [`ExemptIdempotencyKey`](crate::ExemptIdempotencyKey).
/// `web::ReqData<IdempotencyInfo>` gives the same.
///
/// Where no claim protects the request (safe methods, exempt routes, optional routes without a key) there is no key, no
/// stored response, and `attempt` is 0. With `mode = observe` a request that would have been replayed, or refused for
/// another reason than its key or its payload, has its key and no claim.
///
/// ```
/// use actix_idempotency::IdempotencyInfo;
/// use actix_web::HttpResponse;
///
/// // Under `wrap(IdempotencyKey::default().manual())`.
/// async fn charge(info: IdempotencyInfo) -> HttpResponse {
///     match info.response() {
///         Some(first) => first.to_response(),
///         None => HttpResponse::Created().body("charged"),
///     }
/// }
/// ```
#[derive(Clone, Default)]
pub struct IdempotencyInfo(
    /// `None`: the request passes the instance, and there is nothing to know.
    Option<Rc<Shared>>,
);

/// One per request and instance. Clones of an info share it.
#[derive(Default)]
struct Shared {
    governance: Governance,
    view: OnceCell<HandlerView>,
    ledger: OnceCell<Rc<LedgerRun>>,
}

/// The part of a decision that the handler can know.
struct HandlerView {
    key: Key,
    /// The id that the record has with `mode = enforce`.
    id: RecordId,
    ids: StoredIds,
    claim: Option<Claim>,
    previous: Option<StoredResponse>,
    /// Where the steps of the run are saved. `None`: they are not.
    journal: Option<Journal>,
}

impl IdempotencyInfo {
    /// The key of a protected request.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.view().map(|view| &view.key)
    }

    /// Whether a response is stored for the key. Only manual handlers run then.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.response().is_some()
    }

    /// The response that is stored for the key. Only manual handlers find one.
    #[must_use]
    pub fn response(&self) -> Option<&StoredResponse> {
        self.view()?.previous.as_ref()
    }

    /// How often this key was claimed, from 1. More than 1 after a lost owner, and in manual handlers that run again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.claim().map_or(0, |claim| claim.attempt)
    }

    /// Whether an earlier owner was lost while it ran, and no response was stored since. It may have had effects.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.claim().is_some_and(|claim| claim.taken_over)
    }

    /// The fencing token: a number that grows with every claim of the key, so that another system can refuse a writer
    /// with a lower one. 0 without a claim.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.claim().map_or(0, |claim| claim.fence)
    }

    /// The id of a protected request's record. Operators find the record by it.
    #[must_use]
    pub fn record(&self) -> Option<RecordId> {
        self.view().map(|view| view.ids.of(view.id))
    }

    /// A key for a call to another service: 64 hexadecimal digits, the same on every attempt at this operation
    /// (observed ones too), and another one for each `service` and `call`. The client's key can't be read from it.
    /// `None` where no key protects the request.
    ///
    /// ```
    /// use actix_idempotency::IdempotencyInfo;
    /// use actix_web::HttpResponse;
    ///
    /// async fn pay(info: IdempotencyInfo) -> HttpResponse {
    ///     if let Some(key) = info.derive("stripe", "charge") {
    ///         // client.post(…).header("Idempotency-Key", key.as_str())
    ///         assert_eq!(key.as_str().len(), 64);
    ///     }
    ///     HttpResponse::Created().finish()
    /// }
    /// ```
    #[must_use]
    pub fn derive(&self, service: &str, call: &str) -> Option<Key> {
        Some(call_key(&self.view()?.id, service, call))
    }

    /// The key of a step. `None` where no key protects the request.
    pub(super) fn step_key(&self, name: &str) -> Option<Key> {
        Some(step_key(&self.view()?.id, self.claim().map_or(0, |claim| claim.completions), name))
    }

    /// The row of a ledger with this response, for a handler that inserts it in its own transaction as the last statement:
    /// for libraries that have no [`Ledger`](crate::ledger::Ledger). The response keeps its body. Where nothing is recorded
    /// (without a key, and with `mode = observe`) the entry [is empty](LedgerEntry::is_recorded).
    ///
    /// # Errors
    /// [`TransactionError::Misused`] where the request's wrap has no ledger, does not govern it, or the body is a stream.
    pub fn ledger_entry(&self, response: &mut HttpResponse) -> Result<LedgerEntry, TransactionError> {
        let run = self.0.as_ref().and_then(|shared| shared.ledger.get());
        run.ok_or(TransactionError::Misused("the wrap of this request has no ledger"))?.give_entry(response)
    }

    /// Remembers the request's work with a ledger. Called once per request.
    pub(crate) fn works_with(&self, run: &Rc<LedgerRun>) {
        if let Some(shared) = &self.0 {
            let _ = shared.ledger.set(run.clone());
        }
    }

    pub(super) fn claim(&self) -> Option<&Claim> {
        self.view()?.claim.as_ref()
    }

    /// Where the steps of the run are saved, and the claim under which they are.
    pub(super) fn journal(&self) -> Option<(&Journal, &Claim)> {
        let view = self.view()?;
        view.journal.as_ref().zip(view.claim.as_ref())
    }

    /// Whether a transaction of the request is open.
    pub(super) fn is_in_transaction(&self) -> bool {
        let run = self.0.as_ref().and_then(|shared| shared.ledger.get());
        run.is_some_and(|run| run.is_open())
    }

    /// The handler has returned: its claim may end, so no step begins any more. Whether steps are saved.
    #[inline]
    pub(crate) fn ends_steps(&self) -> bool {
        let view = self.0.as_ref().and_then(|shared| shared.view.get());
        view.and_then(|view| view.journal.as_ref()).is_some_and(Journal::end)
    }

    /// Whether a step has found that another owner has taken over.
    #[inline]
    pub(crate) fn is_superseded(&self) -> bool {
        let view = self.0.as_ref().and_then(|shared| shared.view.get());
        view.and_then(|view| view.journal.as_ref()).is_some_and(Journal::is_superseded)
    }

    fn view(&self) -> Option<&HandlerView> {
        // An instance that stepped aside after its decision has nothing to show.
        if matches!(self.stage(), Stage::Passed | Stage::GovernedByInner) {
            return None;
        }
        self.0.as_ref()?.view.get()
    }

    pub(super) fn governance(&self) -> Option<&Governance> {
        Some(&self.0.as_ref()?.governance)
    }

    /// The info of a request about which the router is asked, or that this instance governs.
    pub(crate) fn asking() -> Self {
        Self(Some(Rc::default()))
    }

    /// Fills in what the decision gives the handler to know. Called once per request.
    pub(crate) fn show(
        &self,
        key: Key,
        id: RecordId,
        ids: &StoredIds,
        claim: Option<&Claim>,
        previous: Option<StoredResponse>,
        journal: Option<Journal>,
    ) {
        if let Some(shared) = &self.0 {
            let (claim, ids) = (claim.cloned(), ids.clone());
            let shown = shared.view.set(HandlerView { key, id, ids, claim, previous, journal });
            debug_assert!(shown.is_ok(), "a decision is shown once");
        }
    }
}

/// The info that the wrap has left in the request's extensions.
///
/// # Errors
/// 500 when no wrap is around the handler: a handler that relies on a key would run unprotected.
impl FromRequest for IdempotencyInfo {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let info = request.extensions().get::<Self>().cloned();
        ready(info.ok_or_else(|| {
            tracing::error!(
                path = request.path(),
                "a handler takes IdempotencyInfo, and no idempotency wrap is around it"
            );
            ErrorInternalServerError("no idempotency wrap is around this handler")
        }))
    }
}

impl fmt::Debug for IdempotencyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyInfo")
            .field("key", &self.key())
            .field("exists", &self.exists())
            .field("attempt", &self.attempt())
            .field("taken_over", &self.taken_over())
            .field("fence", &self.fence())
            .finish_non_exhaustive()
    }
}
