//! Requests that only an App can make: copies, by which an instance asks who governs, and stand-ins for requests that
//! have gone inside, since a response needs a request, which the layers outside look at.

use std::{
    cell::{OnceCell, RefCell},
    future::{Future as _, pending},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use actix_http::Request;
use actix_service::{
    IntoServiceFactory as _, Service as _, ServiceFactory as _,
    boxed::{self, RcService},
    fn_service,
};
use actix_web::{
    App, Error, HttpRequest,
    dev::{AppConfig, Payload, ServiceRequest, ServiceResponse},
};

use super::head::RequestHead;

/// Makes requests: by an App without routes. It pools them, as every App does.
#[derive(Default)]
pub(in crate::middleware) struct SyntheticRequests {
    /// `None` within: the App did not start.
    app: OnceCell<Option<RcService<Request, ServiceResponse, Error>>>,
    made: Rc<RefCell<Option<ServiceRequest>>>,
}

impl SyntheticRequests {
    /// A stand-in: a request with this head and nothing else.
    pub(in crate::middleware) fn stand_in(&self, copy: RequestHead) -> Option<HttpRequest> {
        let mut request = Request::new();
        let head = request.head_mut();
        (head.method, head.uri) = (copy.method, copy.uri);
        (head.version, head.peer_addr) = (copy.version, copy.peer);
        if let Some(connection) = copy.connection {
            head.set_connection_type(connection);
        }
        head.headers.reserve(copy.headers.len());
        for (name, value) in copy.headers {
            head.headers.append(name, value);
        }
        self.make(request, AppConfig::default).map(|request| request.into_parts().0)
    }

    /// A copy that guards take for `original`, as far as they look at its head and its path.
    pub(in crate::middleware) fn copy(&self, original: &ServiceRequest) -> Option<ServiceRequest> {
        let mut request = Request::new();
        let (from, head) = (original.head(), request.head_mut());
        (head.method, head.uri) = (from.method.clone(), from.uri.clone());
        (head.version, head.peer_addr) = (from.version, from.peer_addr);
        head.set_connection_type(from.connection_type());
        head.headers.reserve(from.headers.len_keys());
        for (name, value) in &from.headers {
            head.headers.append(name.clone(), value.clone());
        }
        let mut copy = self.make(request, || original.app_config().clone())?;
        // A handler that a layer starts all the same does not get far, where it wants a body.
        copy.set_payload(Payload::Stream { payload: Box::pin(futures_util::stream::pending()) });
        // The part of the path that the router has taken so far.
        if original.match_info().unprocessed().len() != original.match_info().as_str().len() {
            *copy.match_info_mut() = original.match_info().clone();
        }
        Some(copy)
    }

    fn make(&self, request: Request, config: impl FnOnce() -> AppConfig) -> Option<ServiceRequest> {
        let app = self.app.get_or_init(|| {
            let made = self.made.clone();
            // This service never answers: it only keeps the request that the App has made.
            let keep = move |request: ServiceRequest| {
                *made.borrow_mut() = Some(request);
                pending::<Result<ServiceResponse, Error>>()
            };
            let app = App::new().default_service(fn_service(keep)).into_factory().new_service(config());
            // Nothing in it waits.
            match pin!(app).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(app)) => Some(boxed::rc_service(app)),
                _ => None,
            }
        });
        drop(app.as_ref()?.call(request));
        self.made.borrow_mut().take()
    }
}
