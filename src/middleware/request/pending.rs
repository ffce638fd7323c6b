//! A request that has not been handed to the inner service for good. It is kept as it is; or, where inner instances may
//! exist, a copy of it has been routed, or it has been routed itself, and its handler waits for the payload.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::{ErrorInternalServerError, PayloadError},
};
use bytes::Bytes;
use futures_util::Stream;

use super::{
    accept_encoding,
    head::{HeadRef, RequestHead},
    synthetic::SyntheticRequests,
};
use crate::{handler::IdempotencyInfo, key::RequestHeaders};

pub(in crate::middleware) enum PendingRequest<S: Service<ServiceRequest>> {
    /// There are no inner instances: the request has not been routed.
    Kept(ServiceRequest),
    /// A copy of the request has been routed, and said that this instance governs. The request itself is routed before
    /// anything runs.
    Asked(ServiceRequest),
    /// The request has been routed. Routing is synchronous and runs nothing: actix-web starts a handler when its future
    /// is first polled.
    Routed { inside: S::Future, payload: DeferredPayload, head: RequestHead },
    /// The handler has the request.
    Inside(RequestHead),
}

impl<S, B> PendingRequest<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
{
    /// Keeps the request, and takes its payload.
    pub(in crate::middleware) fn keep(mut request: ServiceRequest) -> (Self, Payload) {
        let payload = request.take_payload();
        (Self::Kept(request), payload)
    }

    /// Keeps the request, a copy of which was routed, and takes its payload.
    pub(in crate::middleware) fn asked(mut request: ServiceRequest) -> (Self, Payload) {
        let payload = request.take_payload();
        (Self::Asked(request), payload)
    }

    /// Routes the request of which a copy was routed. `prepare` is called before.
    pub(in crate::middleware) fn confirm(&mut self, service: &S, prepare: impl FnOnce(&mut ServiceRequest)) -> bool {
        let Self::Asked(mut request) = self.take() else { return false };
        prepare(&mut request);
        let head = RequestHead::for_a_panic(request.head());
        let payload = DeferredPayload::default();
        request.set_payload(Payload::Stream { payload: Box::pin(payload.clone()) });
        *self = Self::Routed { inside: service.call(request), payload, head };
        true
    }

    /// Restores what was taken away for an operation that is not protected after all.
    pub(in crate::middleware) fn restore_accept_encoding(&mut self, info: &IdempotencyInfo) {
        if let Self::Kept(request) = self {
            accept_encoding::restore(request, info);
        }
    }

    pub(in crate::middleware) const fn is_asked(&self) -> bool {
        matches!(self, Self::Asked(_))
    }

    /// Asks the router: calls `service` with a payload that yields nothing yet. Returns the real payload.
    pub(in crate::middleware) fn route(service: &S, mut request: ServiceRequest) -> (Self, Payload) {
        let head = RequestHead::of(request.head());
        let deferred = DeferredPayload::default();
        let payload = request.take_payload();
        request.set_payload(Payload::Stream { payload: Box::pin(deferred.clone()) });
        (Self::Routed { inside: service.call(request), payload: deferred, head }, payload)
    }

    pub(in crate::middleware) fn head(&self) -> HeadRef<'_> {
        match self {
            Self::Kept(request) | Self::Asked(request) => {
                let head = request.head();
                HeadRef { method: &head.method, uri: &head.uri, headers: RequestHeaders::from(&head.headers) }
            }
            Self::Routed { head, .. } | Self::Inside(head) => head.as_ref(),
        }
    }

    /// Hands the request to the inner service. If the handler panics, [`answer`](Self::answer) can still be called.
    /// Call once.
    pub(in crate::middleware) fn enter(&mut self, service: &S, payload: Payload) -> S::Future {
        let head = match self {
            Self::Kept(request) | Self::Asked(request) => RequestHead::for_a_panic(request.head()),
            Self::Routed { head, .. } | Self::Inside(head) => mem::take(head),
        };
        mem::replace(self, Self::Inside(head)).pass(service, payload)
    }

    /// Takes the request. Call once.
    pub(in crate::middleware) fn take(&mut self) -> Self {
        mem::replace(self, Self::Inside(RequestHead::default()))
    }

    /// Hands the request to the inner service for good: its response is the only one. Call once.
    pub(in crate::middleware) fn pass(self, service: &S, payload: Payload) -> S::Future {
        match self {
            Self::Kept(mut request) | Self::Asked(mut request) => {
                request.set_payload(payload);
                service.call(request)
            }
            Self::Routed { inside, payload: deferred, .. } => {
                deferred.open(payload);
                inside
            }
            Self::Inside(_) => unreachable!("a request is handed on once"),
        }
    }

    /// Answers instead of the handler. A request that has gone inside is replaced by a synthetic one.
    pub(in crate::middleware) fn answer<T: 'static>(
        &mut self,
        response: HttpResponse<T>,
        synthetic: &SyntheticRequests,
    ) -> Result<ServiceResponse<T>, Error> {
        match self.take() {
            Self::Kept(request) | Self::Asked(request) => Ok(request.into_response(response)),
            Self::Routed { head, .. } | Self::Inside(head) => match synthetic.stand_in(head) {
                Some(request) => Ok(ServiceResponse::new(request, response)),
                None => Err(ErrorInternalServerError("an App without routes did not start")),
            },
        }
    }
}

/// A payload that yields nothing until it is opened with the real one. Nobody polls it before that, because the handler
/// has not started.
#[derive(Clone, Default)]
pub(in crate::middleware) struct DeferredPayload(Rc<RefCell<Option<Payload>>>);

impl DeferredPayload {
    fn open(&self, payload: Payload) {
        *self.0.borrow_mut() = Some(payload);
    }
}

impl Stream for DeferredPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self.0.borrow_mut() {
            Some(payload) => Pin::new(payload).poll_next(cx),
            None => Poll::Pending,
        }
    }
}
