//! Policies by scope: only `/orders` and the paths under `/payments` need a key, and uploads have their own cache and
//! settings.
//!
//! Run it with `cargo run --example scopes`.

use std::{env, time::Duration};

use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, guard};
use actix_web::{App, HttpResponse, HttpServer, web};

async fn create() -> HttpResponse {
    HttpResponse::Created().body("created\n")
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let idempotency = Idempotency::builder().cache("uploads", |cache| cache.max_response_body = 1 << 10).build()?;
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(ExemptIdempotencyKey::default().using(&idempotency))
            .route("/notes", web::post().to(create))
            // A guard is the shortest form for a single route.
            .route("/orders", web::post().guard(guard::required()).to(create))
            .service(
                web::scope("/payments")
                    .wrap(IdempotencyKey::default().using(&idempotency))
                    .route("", web::post().to(create))
                    // The innermost wrap governs, with its own cache and settings.
                    .service(
                        web::resource("/uploads")
                            .wrap(
                                IdempotencyKey::default()
                                    .using(&idempotency)
                                    .cache_name("uploads")
                                    .ttl(Duration::from_secs(60 * 60))
                                    .configure(|settings| settings.max_request_body = 16 << 20),
                            )
                            .route(web::post().to(create)),
                    ),
            )
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    println!("listening on {}", server.addrs()[0]);
    server.run().await?;
    Ok(())
}
