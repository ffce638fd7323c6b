//! A handler that decides itself: it resumes a transfer whose first owner was lost, and tells clients what it did.
//!
//! `cargo run --example manual`

use std::env;

use actix_idempotency::{Idempotency, IdempotencyInfo, IdempotencyKey, StoreResponse};
use actix_web::{App, HttpResponse, HttpServer, web};

async fn transfer(info: web::ReqData<IdempotencyInfo>, body: web::Bytes) -> HttpResponse {
    if let Some(first) = info.response() {
        // Done before. Any answer will do; the first one is the surest.
        return first.to_response();
    }
    if info.taken_over() {
        // Somebody began this and was lost. What they did must be looked into before doing it again.
        return HttpResponse::Ok().body(format!("resumed at attempt {}\n", info.attempt()));
    }
    if body.is_empty() {
        // A refusal that the client can mend under the same key: not stored.
        let mut response = HttpResponse::Ok().body("nothing to transfer\n");
        StoreResponse::Never.set(&mut response);
        return response;
    }
    HttpResponse::Ok().body(format!("transferred under fence {}\n", info.fence()))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let idempotency = Idempotency::in_memory();
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(idempotency.clone()))
            .wrap(IdempotencyKey::default().manual())
            .route("/transfers", web::post().to(transfer))
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    println!("listening on {}", server.addrs()[0]);
    server.run().await?;
    Ok(())
}
