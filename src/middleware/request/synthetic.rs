//! Requests in place of those that are lost inside: an answer needs one, for the layers outside to look at.

use std::{cell::OnceCell, future::ready, net::SocketAddr};

use actix_http::{ConnectionType, Request};
use actix_service::{
    IntoServiceFactory as _, Service as _, ServiceFactory as _,
    boxed::{self, RcService},
    fn_service,
};
use actix_web::{
    App, Error, HttpRequest, HttpResponse,
    dev::{AppConfig, RequestHead, ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::{
        Method, Uri, Version,
        header::{self, HeaderName, HeaderValue},
    },
};

/// A copy of a request's head: for what is still to be asked of it, and for a stand-in. Headers are a list, since a map
/// takes several times as long to copy.
#[derive(Default)]
pub(in crate::middleware) struct Outline {
    pub(in crate::middleware) method: Method,
    pub(in crate::middleware) uri: Uri,
    pub(in crate::middleware) headers: Vec<(HeaderName, HeaderValue)>,
    version: Version,
    peer: Option<SocketAddr>,
    connection: Option<ConnectionType>,
}

impl Outline {
    pub(in crate::middleware) fn whole(head: &RequestHead) -> Self {
        let mut headers = Vec::with_capacity(head.headers.len_keys());
        for (name, value) in &head.headers {
            headers.push((name.clone(), value.clone()));
        }
        Self { headers, ..Self::bare(head) }
    }

    /// As much as layers outside look at when the answer is a panicked handler's.
    pub(in crate::middleware) fn little(head: &RequestHead) -> Self {
        let origin = head.headers.get(header::ORIGIN).map(|origin| (header::ORIGIN, origin.clone()));
        Self { headers: origin.into_iter().collect(), ..Self::bare(head) }
    }

    fn bare(head: &RequestHead) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            headers: Vec::new(),
            version: head.version,
            peer: head.peer_addr,
            connection: Some(head.connection_type()),
        }
    }
}

/// Makes stand-ins: by an App without routes, since only an App makes requests. It keeps them for reuse, as all do.
#[derive(Default)]
pub(in crate::middleware) struct StandIns(OnceCell<RcService<Request, ServiceResponse, Error>>);

impl StandIns {
    /// A request with this head, and nothing else.
    pub(in crate::middleware) async fn request(&self, outline: Outline) -> Result<HttpRequest, Error> {
        let mut request = Request::new();
        let head = request.head_mut();
        (head.method, head.uri) = (outline.method, outline.uri);
        (head.version, head.peer_addr) = (outline.version, outline.peer);
        if let Some(connection) = outline.connection {
            head.set_connection_type(connection);
        }
        head.headers.reserve(outline.headers.len());
        for (name, value) in outline.headers {
            head.headers.append(name, value);
        }
        let (request, _) = self.app().await?.call(request).await?.into_parts();
        Ok(request)
    }

    async fn app(&self) -> Result<RcService<Request, ServiceResponse, Error>, Error> {
        if let Some(app) = self.0.get() {
            return Ok(app.clone());
        }
        let answer =
            |request: ServiceRequest| ready(Ok::<_, Error>(request.into_response(HttpResponse::Ok().finish())));
        let app = App::new().default_service(fn_service(answer)).into_factory();
        let app = app.new_service(AppConfig::default()).await;
        let app = boxed::rc_service(app.map_err(|()| ErrorInternalServerError("an App without routes did not start"))?);
        Ok(self.0.get_or_init(|| app).clone())
    }
}
