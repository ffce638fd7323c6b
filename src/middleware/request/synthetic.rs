//! Synthetic requests, in the place of requests that have gone inside: a response needs a request, which the layers
//! outside look at.

use std::{cell::OnceCell, future::ready};

use actix_http::Request;
use actix_service::{
    IntoServiceFactory as _, Service as _, ServiceFactory as _,
    boxed::{self, RcService},
    fn_service,
};
use actix_web::{
    App, Error, HttpRequest, HttpResponse,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
};

use super::head::RequestHead;

/// Makes synthetic requests: by an App without routes, because only an App makes requests. It pools them, as every App
/// does.
#[derive(Default)]
pub(in crate::middleware) struct SyntheticRequests(OnceCell<RcService<Request, ServiceResponse, Error>>);

impl SyntheticRequests {
    /// A request with this head and nothing else.
    pub(super) async fn request(&self, copy: RequestHead) -> Result<HttpRequest, Error> {
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
