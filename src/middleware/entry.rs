//! The way inside: the request itself, kept until it is known what to do, or, where others may be inside, a request that
//! has been routed already and whose handler waits for its payload.

use std::{
    cell::RefCell,
    mem,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_service::Service;
use actix_web::{
    HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{Payload, RequestHead, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{
        Method, Uri, Version,
        header::{self, HeaderValue},
    },
    test::TestRequest,
};
use bytes::Bytes;
use futures_util::Stream;

use super::AnswerBody;
use crate::IdempotencyInfo;

pub(super) enum Entry<S: Service<ServiceRequest>> {
    /// Nothing is inside: the request has not been routed.
    Kept(ServiceRequest),
    /// Routed synchronously, which runs nothing: actix starts a handler when its future is first polled.
    Routed { inside: S::Future, head: Box<RequestHead>, payload: Payload, gate: Gate },
}

impl<S, B> Entry<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
    B: MessageBody + 'static,
{
    /// Asks the router: calls `service` with a payload that gives nothing yet.
    pub(super) fn route(service: &S, mut request: ServiceRequest) -> Self {
        let head = Box::new(request.head().clone());
        let gate = Gate::default();
        let payload = request.take_payload();
        request.set_payload(Payload::Stream { payload: Box::pin(gate.clone()) });
        Self::Routed { inside: service.call(request), head, payload, gate }
    }

    pub(super) fn head(&self) -> &RequestHead {
        match self {
            Self::Kept(request) => request.head(),
            Self::Routed { head, .. } => head,
        }
    }

    pub(super) fn take_payload(&mut self) -> Payload {
        match self {
            Self::Kept(request) => request.take_payload(),
            Self::Routed { payload, .. } => mem::replace(payload, Payload::None),
        }
    }

    /// Lets the handler see `payload`, and goes inside.
    pub(super) fn enter(self, service: &S, payload: Payload) -> S::Future {
        match self {
            Self::Kept(request) => Way::Kept(request).enter(service, payload),
            Self::Routed { inside, gate, .. } => Way::Routed { inside, gate }.enter(service, payload),
        }
    }

    /// The way inside, and what an answer needs of a request that the handler takes with it.
    pub(super) fn outlined(self) -> (Way<S>, Outline) {
        match self {
            Self::Kept(request) => {
                let outline = Outline::of(request.head());
                (Way::Kept(request), outline)
            }
            Self::Routed { inside, gate, head, .. } => (Way::Routed { inside, gate }, Outline::Head(head)),
        }
    }

    /// Goes inside with the request as it came.
    pub(super) fn pass(mut self, service: &S) -> S::Future {
        let payload = self.take_payload();
        self.enter(service, payload)
    }

    /// Answers instead of the handler. A routed request is lost inside: a stand-in with the same head takes its place.
    pub(super) fn answer(self, response: HttpResponse<AnswerBody<B>>) -> ServiceResponse<AnswerBody<B>> {
        match self {
            Self::Kept(request) => request.into_response(response),
            Self::Routed { head, .. } => stand_in(*head).into_response(response),
        }
    }
}

/// The way inside alone.
pub(super) enum Way<S: Service<ServiceRequest>> {
    Kept(ServiceRequest),
    Routed { inside: S::Future, gate: Gate },
}

impl<S: Service<ServiceRequest>> Way<S> {
    pub(super) fn enter(self, service: &S, payload: Payload) -> S::Future {
        match self {
            Self::Kept(mut request) => {
                request.set_payload(payload);
                service.call(request)
            }
            Self::Routed { inside, gate } => {
                gate.open(payload);
                inside
            }
        }
    }
}

/// Protected requests go inside without `Accept-Encoding`, so that what is stored is identity. Where an instance further
/// inside may exempt the request, the header can be given back.
pub(super) fn take_accept_encoding(request: &mut ServiceRequest, info: &IdempotencyInfo) {
    // Only where there is something to take: `headers_mut` must not be called while anybody holds the request.
    if request.headers().contains_key(header::ACCEPT_ENCODING) {
        let taken = request.headers_mut().remove(header::ACCEPT_ENCODING);
        info.keep_accept_encoding(taken);
    }
}

/// Undoes [`take_accept_encoding`] of the instance outside.
pub(super) fn give_accept_encoding_back(request: &mut ServiceRequest, outer: &IdempotencyInfo) {
    for taken in outer.take_accept_encoding() {
        request.headers_mut().append(header::ACCEPT_ENCODING, taken);
    }
}

/// What layers outside look at when a panicked handler's answer passes them.
pub(super) enum Outline {
    Head(Box<RequestHead>),
    /// Cheaper than all of it.
    Little {
        method: Method,
        uri: Uri,
        version: Version,
        peer: Option<SocketAddr>,
        origin: Option<HeaderValue>,
    },
}

impl Outline {
    fn of(head: &RequestHead) -> Self {
        Self::Little {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            peer: head.peer_addr,
            origin: head.headers.get(header::ORIGIN).cloned(),
        }
    }

    pub(super) fn answer<B: MessageBody + 'static>(
        self,
        response: HttpResponse<AnswerBody<B>>,
    ) -> ServiceResponse<AnswerBody<B>> {
        let head = match self {
            Self::Head(head) => *head,
            Self::Little { method, uri, version, peer, origin } => {
                let mut head = RequestHead::default();
                (head.method, head.uri, head.version, head.peer_addr) = (method, uri, version, peer);
                if let Some(origin) = origin {
                    head.headers.insert(header::ORIGIN, origin);
                }
                head
            }
        };
        stand_in(head).into_response(response)
    }
}

/// A request with this head, and nothing else.
fn stand_in(head: RequestHead) -> ServiceRequest {
    let mut request = TestRequest::default().to_srv_request();
    request.match_info_mut().get_mut().update(&head.uri);
    *request.head_mut() = head;
    request
}

/// A payload that gives nothing until it is opened with the real one. Nobody polls it before: the handler has not
/// started.
#[derive(Clone, Default)]
pub(super) struct Gate(Rc<RefCell<Option<Payload>>>);

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
