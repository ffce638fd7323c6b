//! This crate with default settings and records in memory. Only the bounds of the store are raised, so that the load
//! does not reach them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyKey, Settings};
use actix_web::{App, HttpResponse, HttpServer, middleware::Condition, rt::time::sleep, web};

static RUNS: AtomicU64 = AtomicU64::new(0);

async fn pay(_payment: web::Json<serde_json::Value>) -> HttpResponse {
    RUNS.fetch_add(1, Ordering::SeqCst);
    HttpResponse::Created().content_type("application/json").body(include_str!("../../answer.json"))
}

async fn pay_slowly(payment: web::Json<serde_json::Value>) -> HttpResponse {
    sleep(Duration::from_millis(50)).await;
    pay(payment).await
}

async fn runs() -> String {
    RUNS.load(Ordering::SeqCst).to_string()
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap().parse().unwrap();
    let mode = std::env::var("MODE").unwrap();
    let mut settings = Settings::default();
    // With default bounds, the store would be full within seconds, and refuse requests whose record it can't keep for a
    // minute.
    settings.storage.max_entries = 40_000_000;
    settings.storage.max_bytes = 16 << 30;
    let idempotency = Idempotency::builder().settings(settings).build().unwrap();
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(idempotency.clone()))
            .wrap(Condition::new(mode == "with", IdempotencyKey::default()))
            .route("/payments", web::post().to(pay))
            .route("/slow/payments", web::post().to(pay_slowly))
            .route("/runs", web::get().to(runs))
    })
    .bind(("127.0.0.1", port))?
    .run()
    .await
}
