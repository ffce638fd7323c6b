//! A manual handler: it always runs, and decides itself what a retry gets. It resumes a transfer whose previous owner
//! was lost.
//!
//! Run it with `cargo run --example manual`.

use std::env;

use actix_idempotency::{Idempotency, IdempotencyInfo, IdempotencyKey, ResponseExt as _};
use actix_web::{App, HttpResponse, HttpServer, web};

async fn transfer(info: IdempotencyInfo, body: web::Bytes) -> HttpResponse {
    if let Some(first) = info.response() {
        // The transfer is done. A manual handler may send any answer to a retry; the first answer is the safest.
        return first.to_response();
    }
    if info.taken_over() {
        // A previous owner began the transfer and was lost. A real service checks what that owner did before it goes
        // on.
        return HttpResponse::Ok().body(format!("resumed at attempt {}\n", info.attempt()));
    }
    if body.is_empty() {
        // The answer is not stored, so the client can correct the request and send it with the same key.
        return HttpResponse::Ok().body("nothing to transfer\n").do_not_store();
    }
    HttpResponse::Ok().body(format!("transferred under fence {}\n", info.fence()))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let idempotency = Idempotency::in_memory();
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(IdempotencyKey::default().manual().using(&idempotency))
            .route("/transfers", web::post().to(transfer))
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    println!("listening on {}", server.addrs()[0]);
    server.run().await?;
    Ok(())
}
