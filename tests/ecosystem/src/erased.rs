//! Middleware without its type, so that one table holds all layers.

use std::rc::Rc;

use actix_service::{
    Service, ServiceExt as _, Transform,
    boxed::{self, RcService},
};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use futures_util::future::LocalBoxFuture;

type Boxed = RcService<ServiceRequest, ServiceResponse, Error>;
type Making<S> = LocalBoxFuture<'static, Result<S, ()>>;

/// A middleware without its type. It calls on as the middleware itself does: boxes add no awaiting.
#[derive(Clone)]
pub struct Erased(Rc<dyn Fn(Boxed) -> Making<Boxed>>);

impl Erased {
    /// The middleware that changes nothing.
    pub fn nothing() -> Self {
        Self(Rc::new(|service| Box::pin(async { Ok(service) })))
    }

    pub fn new<T, B>(layer: T) -> Self
    where
        T: Transform<Boxed, ServiceRequest, Response = ServiceResponse<B>, Error = Error, InitError = ()> + 'static,
        B: MessageBody + 'static,
    {
        Self(Rc::new(move |service| {
            let making = layer.new_transform(service);
            Box::pin(async { Ok(without_type(making.await?)) })
        }))
    }

    /// Puts `outer` around this middleware.
    #[must_use]
    pub fn and(self, outer: Self) -> Self {
        Self(Rc::new(move |service| {
            let (inner, outer) = (self.0.clone(), outer.0.clone());
            Box::pin(async move { outer(inner(service).await?).await })
        }))
    }
}

impl<S, B> Transform<S, ServiceRequest> for Erased
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse;
    type Error = Error;
    type Transform = Boxed;
    type InitError = ();
    type Future = Making<Boxed>;

    fn new_transform(&self, service: S) -> Self::Future {
        (self.0)(without_type(service))
    }
}

fn without_type<S, B>(service: S) -> Boxed
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    boxed::rc_service(service.map(|response: ServiceResponse<B>| response.map_into_boxed_body()))
}
