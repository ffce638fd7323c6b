//! Routes whose handlers read bodies as they arrive, all of them or nothing.

use actix_idempotency::{IdempotencyKey, settings::BodyMode};
use actix_web::{
    HttpRequest, HttpResponse, Scope,
    dev::{HttpServiceFactory, ServiceFactory, ServiceRequest},
    web,
};

use crate::{Outcome, Runs, echo, item, logged};

pub(crate) fn scope() -> impl HttpServiceFactory {
    let wrap = IdempotencyKey::default().configure(|settings| settings.body = BodyMode::Stream);
    routes(web::scope("/uploads")).wrap(wrap)
}

fn routes<T>(scope: Scope<T>) -> Scope<T>
where
    T: ServiceFactory<ServiceRequest, Config = (), Error = actix_web::Error, InitError = ()>,
{
    scope
        .route("/echo", web::post().to(echo))
        .route("/early", web::post().to(item))
        .route("/relay", web::post().to(relay))
        .route("/careless", web::post().to(careless))
}

/// Sends the body back as it arrives.
async fn relay(request: HttpRequest, runs: web::Data<Runs>, payload: web::Payload) -> Outcome {
    logged(&runs, &request, |_| async { Ok(HttpResponse::Ok().streaming(payload)) }).await
}

/// Takes a body that broke off for one that has ended.
async fn careless(request: HttpRequest, runs: web::Data<Runs>, payload: web::Payload) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        let _ = payload.to_bytes_limited(usize::MAX).await;
        Ok(crate::item_of(&inner, n, &crate::report(&inner, n)))
    })
    .await
}
