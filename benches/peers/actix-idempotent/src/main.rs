//! actix-idempotent as in its README: answers are stored in a session of actix-session in Redis.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use actix_idempotent::{IdempotentFactory, IdempotentOptions};
use actix_session::{
    Session, SessionMiddleware,
    config::{BrowserSession, TtlExtensionPolicy},
    storage::RedisSessionStore,
};
use actix_web::{
    App, HttpResponse, HttpServer,
    cookie::{Key, SameSite},
    middleware::Condition,
    rt::time::sleep,
    web,
};
use deadpool_redis::{Config, Runtime};

static RUNS: AtomicU64 = AtomicU64::new(0);

async fn pay(_payment: web::Json<serde_json::Value>) -> HttpResponse {
    RUNS.fetch_add(1, Ordering::SeqCst);
    HttpResponse::Created().content_type("application/json").body(include_str!("../../answer.json"))
}

async fn pay_slowly(payment: web::Json<serde_json::Value>) -> HttpResponse {
    sleep(Duration::from_millis(50)).await;
    pay(payment).await
}

async fn log_in(session: Session) -> HttpResponse {
    session.insert("user", "somebody").unwrap();
    HttpResponse::Ok().finish()
}

async fn runs() -> String {
    RUNS.load(Ordering::SeqCst).to_string()
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap().parse().unwrap();
    let mode = std::env::var("MODE").unwrap();
    let pool = Config::from_url(std::env::var("REDIS").unwrap()).create_pool(Some(Runtime::Tokio1)).unwrap();
    let store = RedisSessionStore::new_pooled(pool).await.unwrap();
    let secret = Key::generate();
    HttpServer::new(move || {
        let sessions = SessionMiddleware::builder(store.clone(), secret.clone())
            .cookie_name("session".to_owned())
            .session_lifecycle(
                BrowserSession::default()
                    .state_ttl_extension_policy(TtlExtensionPolicy::OnEveryRequest)
                    // The sessions in the README last two seconds, which is less than a round of the measurement.
                    .state_ttl(actix_web::cookie::time::Duration::minutes(30)),
            )
            .cookie_http_only(false)
            .cookie_same_site(SameSite::Strict)
            .build();
        let idempotent = || Condition::new(mode == "with", IdempotentFactory::new(IdempotentOptions::default()));
        App::new()
            .wrap(Condition::new(mode != "bare", sessions))
            .route("/payments", web::post().to(pay).wrap(idempotent()))
            .route("/slow/payments", web::post().to(pay_slowly).wrap(idempotent()))
            .route("/login", web::post().to(log_in))
            .route("/runs", web::get().to(runs))
    })
    .bind(("127.0.0.1", port))?
    .run()
    .await
}
