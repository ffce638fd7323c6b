//! axum-idempotent as in its README: the key comes from the header, and answers are stored in a session of ruts in
//! memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{get, post},
};
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use ruts::{
    CookieOptions, Session, SessionLayer,
    store::{Ttl, moka::MokaStore},
};
use tower_cookies::CookieManagerLayer;

static RUNS: AtomicU64 = AtomicU64::new(0);

async fn pay(_payment: Json<serde_json::Value>) -> impl IntoResponse {
    RUNS.fetch_add(1, Ordering::SeqCst);
    (StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], include_str!("../../answer.json"))
}

async fn pay_slowly(payment: Json<serde_json::Value>) -> impl IntoResponse {
    tokio::time::sleep(Duration::from_millis(50)).await;
    pay(payment).await
}

async fn log_in(session: Session<MokaStore>) {
    session.set("user", &"somebody".to_owned(), Ttl::new(1800).unwrap(), None).await.unwrap();
}

#[tokio::main]
async fn main() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let mode = std::env::var("MODE").unwrap();
    let mut app = Router::new().route("/payments", post(pay)).route("/slow/payments", post(pay_slowly));
    if mode == "with" {
        let options =
            IdempotentOptions::default().use_idempotency_key_header(Some("Idempotency-Key"), true).expire_after(60 * 5);
        app = app.layer(IdempotentLayer::<MokaStore>::new(options));
    }
    if mode != "bare" {
        app = app
            .route("/login", post(log_in))
            .layer(
                SessionLayer::new(Arc::new(MokaStore::builder().build()))
                    .with_cookie_options(CookieOptions::build().name("session")),
            )
            .layer(CookieManagerLayer::new());
    }
    let app = app.route("/runs", get(|| async { RUNS.load(Ordering::SeqCst).to_string() }));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
