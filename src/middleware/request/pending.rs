//! The way inside: the request itself, kept until it is known what to do, or, where others may be inside, a request that
//! has been routed already and whose handler waits for its payload.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_service::Service;
use actix_web::{
    HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{Method, Uri, header},
};
use bytes::Bytes;
use futures_util::{
    Stream,
    future::{Either, ready},
};

use super::synthetic::{Outline, StandIns};
use crate::middleware::{response::body::AnswerBody, wrap::Answering};
use crate::{handler::IdempotencyInfo, key::encoder::RequestHeaders};

pub(in crate::middleware) enum Entry<S: Service<ServiceRequest>> {
    /// Nothing is inside: the request has not been routed.
    Kept(ServiceRequest),
    /// Routed synchronously, which runs nothing: actix starts a handler when its future is first polled.
    Routed { inside: S::Future, gate: Gate, outline: Outline },
    /// The handler has it.
    Inside(Outline),
}

impl<S, B> Entry<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
    B: MessageBody + 'static,
{
    pub(in crate::middleware) fn kept(mut request: ServiceRequest) -> (Self, Payload) {
        let payload = request.take_payload();
        (Self::Kept(request), payload)
    }

    /// Asks the router: calls `service` with a payload that gives nothing yet.
    pub(in crate::middleware) fn route(service: &S, mut request: ServiceRequest) -> (Self, Payload) {
        let outline = Outline::whole(request.head());
        let gate = Gate::default();
        let payload = request.take_payload();
        request.set_payload(Payload::Stream { payload: Box::pin(gate.clone()) });
        (Self::Routed { inside: service.call(request), gate, outline }, payload)
    }

    pub(in crate::middleware) fn head(&self) -> Head<'_> {
        match self {
            Self::Kept(request) => {
                let head = request.head();
                Head { method: &head.method, uri: &head.uri, headers: RequestHeaders::from(&head.headers) }
            }
            Self::Routed { outline, .. } | Self::Inside(outline) => {
                Head { method: &outline.method, uri: &outline.uri, headers: RequestHeaders::from(&outline.headers[..]) }
            }
        }
    }

    /// Lets the handler see `payload`, and goes inside; if that panics, another answer can still be given. Once.
    pub(in crate::middleware) fn enter(&mut self, service: &S, payload: Payload) -> S::Future {
        let outline = match self {
            Self::Kept(request) => Outline::little(request.head()),
            Self::Routed { outline, .. } | Self::Inside(outline) => mem::take(outline),
        };
        mem::replace(self, Self::Inside(outline)).pass(service, payload)
    }

    /// For the one thing that can become of it.
    pub(in crate::middleware) fn take(&mut self) -> Self {
        mem::replace(self, Self::Inside(Outline::default()))
    }

    /// Goes inside; no answer but the handler's will be given. Once.
    pub(in crate::middleware) fn pass(self, service: &S, payload: Payload) -> S::Future {
        match self {
            Self::Kept(mut request) => {
                request.set_payload(payload);
                service.call(request)
            }
            Self::Routed { inside, gate, .. } => {
                gate.open(payload);
                inside
            }
            Self::Inside(_) => unreachable!("a request goes inside once"),
        }
    }

    /// Answers instead of the handler. A request that is lost inside is replaced by a stand-in.
    pub(in crate::middleware) fn answer<'a>(
        &mut self,
        response: HttpResponse<AnswerBody<B>>,
        stand_ins: &'a StandIns,
    ) -> Answering<'a, B> {
        match self.take() {
            Self::Kept(request) => Either::Left(ready(Ok(request.into_response(response)))),
            Self::Routed { outline, .. } | Self::Inside(outline) => Either::Right(Box::pin(async move {
                let request = stand_ins.request(outline).await?;
                Ok(ServiceResponse::new(request, response))
            })),
        }
    }
}

/// What is asked of a request's head.
pub(in crate::middleware) struct Head<'a> {
    pub(in crate::middleware) method: &'a Method,
    pub(in crate::middleware) uri: &'a Uri,
    pub(in crate::middleware) headers: RequestHeaders<'a>,
}

/// Protected requests go inside without `Accept-Encoding`, so that what is stored is identity. Where an instance further
/// inside may exempt the request, the header can be given back.
pub(in crate::middleware) fn take_accept_encoding(request: &mut ServiceRequest, info: &IdempotencyInfo) {
    // Only where there is something to take: `headers_mut` must not be called while anybody holds the request.
    if request.headers().contains_key(header::ACCEPT_ENCODING) {
        let taken = request.headers_mut().remove(header::ACCEPT_ENCODING);
        info.keep_accept_encoding(taken);
    }
}

/// Undoes [`take_accept_encoding`] of the instance outside.
pub(in crate::middleware) fn give_accept_encoding_back(request: &mut ServiceRequest, outer: &IdempotencyInfo) {
    for taken in outer.take_accept_encoding() {
        request.headers_mut().append(header::ACCEPT_ENCODING, taken);
    }
}

/// A payload that gives nothing until it is opened with the real one. Nobody polls it before: the handler has not
/// started.
#[derive(Clone, Default)]
pub(in crate::middleware) struct Gate(Rc<RefCell<Option<Payload>>>);

impl Gate {
    fn open(&self, payload: Payload) {
        *self.0.borrow_mut() = Some(payload);
    }
}

impl Stream for Gate {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self.0.borrow_mut() {
            Some(payload) => Pin::new(payload).poll_next(cx),
            None => Poll::Pending,
        }
    }
}
