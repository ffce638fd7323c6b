//! What a handler can know about the key of its request, and where the layers of one request leave word for each other.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    rc::Rc,
};

use actix_web::http::header::HeaderValue;

use crate::{
    key::{Key, RecordId, fingerprint::Digest},
    policy::Policy,
    record::StoredResponse,
    settings::Enforcement,
    store::Claim,
};

/// The request's place in idempotency: `web::ReqData<IdempotencyInfo>` in every handler under an
/// [`IdempotencyKey`](crate::middleware::IdempotencyKey) or [`ExemptIdempotencyKey`](crate::middleware::ExemptIdempotencyKey).
///
/// Where no claim protects the request (safe methods, exempt routes, optional ones without a key) there is no key, it does
/// not exist, and `attempt` is 0. With `mode = observe` a request that would have been replayed, or refused for another
/// reason than its key or its payload, has its key and no claim.
///
/// ```
/// use actix_idempotency::IdempotencyInfo;
/// use actix_web::{HttpResponse, web};
///
/// // Under `wrap(IdempotencyKey::default().manual())`.
/// async fn charge(info: web::ReqData<IdempotencyInfo>) -> HttpResponse {
///     match info.response() {
///         Some(first) => first.to_response(),
///         None => HttpResponse::Created().body("charged"),
///     }
/// }
/// ```
#[derive(Clone, Default)]
pub struct IdempotencyInfo(
    /// `None`: the request passes this instance, and there is nothing to know.
    Option<Rc<Inner>>,
);

#[derive(Default)]
struct Inner {
    stage: Cell<Stage>,
    /// The policy that a route guard declared.
    guard: Cell<Option<Policy>>,
    /// What was found last after the decision was exempt.
    late_exempt: Cell<bool>,
    /// `Accept-Encoding`, taken away for the case that the request becomes protected.
    accept_encoding: RefCell<Vec<HeaderValue>>,
    granted: OnceCell<Granted>,
}

/// How far an instance is with a request. Instances further in read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The instance has asked the router who governs.
    #[default]
    Asking,
    /// An instance further in declared itself: it governs.
    TakenInside,
    /// This instance let the request pass; one further in may still govern.
    Passed,
    /// This instance only watches; one further in that enforces still governs.
    Observing,
    /// This instance governs; nothing has run.
    Governing,
    /// The handler has started, and is to finish whatever happens to the connection.
    Running,
}

impl Stage {
    /// Whether an instance in this stage leaves nothing to decide to one further in. One that only watches leaves
    /// everything to one that enforces; of two that watch, one is enough.
    pub(crate) fn governs(self, inner: Enforcement) -> bool {
        match self {
            Self::Governing | Self::Running => true,
            Self::Observing => inner == Enforcement::Observe,
            Self::Asking | Self::TakenInside | Self::Passed => false,
        }
    }
}

/// What a claim gives a handler to know.
struct Granted {
    key: Key,
    /// As it is while requests are enforced.
    id: RecordId,
    mode: Enforcement,
    turn: Option<Turn>,
    previous: Option<StoredResponse>,
}

/// What of a claim a handler can use.
#[derive(Clone, Copy)]
struct Turn {
    attempt: u32,
    taken_over: bool,
    fence: u64,
}

impl IdempotencyInfo {
    /// The key of a protected request.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.granted().map(|granted| &granted.key)
    }

    /// Whether the key was completed before. Only manual handlers run then.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.response().is_some()
    }

    /// The response that is stored for the key. Only manual handlers find one.
    #[must_use]
    pub fn response(&self) -> Option<&StoredResponse> {
        self.granted()?.previous.as_ref()
    }

    /// How often this key was claimed, from 1: more than 1 after a lost owner, and in manual handlers that run again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.turn().map_or(0, |turn| turn.attempt)
    }

    /// Whether the owner before was lost while it ran: it may have had effects.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.turn().is_some_and(|turn| turn.taken_over)
    }

    /// A number that grows with every claim of the key: another system can refuse a writer with a lower one. 0 without a
    /// claim.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.turn().map_or(0, |turn| turn.fence)
    }

    /// The record of a protected request; operators find it by this.
    #[must_use]
    pub fn record(&self) -> Option<RecordId> {
        self.granted().map(|granted| granted.id.in_mode(granted.mode))
    }

    /// A key for a call to another service: the same on every attempt at this operation (also of those that are only
    /// observed), another for every `service` and `call`. It tells nothing of the client's key. `None` where no key protects the request.
    ///
    /// ```
    /// use actix_idempotency::IdempotencyInfo;
    /// use actix_web::{HttpResponse, web};
    ///
    /// async fn pay(info: web::ReqData<IdempotencyInfo>) -> HttpResponse {
    ///     if let Some(key) = info.derive("stripe", "charge") {
    ///         // client.post(…).header("Idempotency-Key", key.as_str())
    ///         assert_eq!(key.as_str().len(), 64);
    ///     }
    ///     HttpResponse::Created().finish()
    /// }
    /// ```
    #[must_use]
    pub fn derive(&self, service: &str, call: &str) -> Option<Key> {
        let digest = Digest::new(b"derived").part(self.granted()?.id.as_bytes());
        Some(Key::derived(digest.part(service.as_bytes()).part(call.as_bytes()).finish()))
    }

    fn turn(&self) -> Option<Turn> {
        self.granted()?.turn
    }

    fn granted(&self) -> Option<&Granted> {
        self.0.as_ref()?.granted.get()
    }

    /// Of a request about which the router is asked, or that this instance governs.
    pub(crate) fn asking() -> Self {
        Self(Some(Rc::default()))
    }

    /// Fills in what the decision gave. Once per request.
    pub(crate) fn grant(
        &self,
        key: Key,
        id: RecordId,
        mode: Enforcement,
        claim: Option<&Claim>,
        previous: Option<StoredResponse>,
    ) {
        if let Some(inner) = &self.0 {
            let turn =
                claim.map(|claim| Turn { attempt: claim.attempt, taken_over: claim.taken_over, fence: claim.fence });
            let granted = inner.granted.set(Granted { key, id, mode, turn, previous });
            debug_assert!(granted.is_ok(), "a request is granted once");
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.0.as_ref().map_or(Stage::Passed, |inner| inner.stage.get())
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        if let Some(inner) = &self.0 {
            inner.stage.set(stage);
        }
    }

    /// A route guard speaks. The one reached last, which is the innermost, counts.
    pub(crate) fn declare(&self, policy: Policy) {
        if let Some(inner) = &self.0 {
            inner.guard.set(Some(policy));
        }
        self.declare_late(policy);
    }

    /// An instance or a guard was reached after the decision: the most that it can do is keep the answer out of the store.
    pub(crate) fn declare_late(&self, policy: Policy) {
        if let Some(inner) = &self.0
            && matches!(inner.stage.get(), Stage::Observing | Stage::Governing | Stage::Running)
        {
            inner.late_exempt.set(policy == Policy::Exempt);
        }
    }

    pub(crate) fn declared(&self) -> Option<Policy> {
        self.0.as_ref()?.guard.get()
    }

    pub(crate) fn is_late_exempt(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.late_exempt.get())
    }

    /// Keeps `Accept-Encoding` lines for an instance further inside.
    pub(crate) fn keep_accept_encoding(&self, lines: impl Iterator<Item = HeaderValue>) {
        if let Some(inner) = &self.0 {
            inner.accept_encoding.borrow_mut().extend(lines);
        }
    }

    /// The `Accept-Encoding` lines that the instance outside took away.
    pub(crate) fn take_accept_encoding(&self) -> Vec<HeaderValue> {
        self.0.as_ref().map(|inner| inner.accept_encoding.take()).unwrap_or_default()
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
