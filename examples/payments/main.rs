//! A small payments API: the main job of this crate.
//!
//! `cargo run --example payments`, then the page that it serves, or the curl lines that it prints. `ADDR` moves it from
//! 127.0.0.1:8080. Settings come from `idempotency.toml` and the environment, so it runs on Redis without a change of code.

use std::{
    env,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyInfo, IdempotencyKey};
use actix_web::{App, HttpResponse, HttpServer, http::header::ContentType, rt::time::sleep, web};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    amount: u64,
    currency: String,
}

#[derive(Clone, Serialize)]
struct Charge {
    id: usize,
    amount: u64,
    currency: String,
    refunded: bool,
}

/// Stands for a bank: what is in here has cost somebody money.
#[derive(Default)]
struct Ledger(Mutex<Vec<Charge>>);

impl Ledger {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Charge>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long the bank takes to answer.
const BANK: Duration = Duration::from_millis(300);

/// Nothing here knows of idempotency: the middleware sees to it that this runs once per key.
async fn charge(ledger: web::Data<Ledger>, order: web::Json<Order>) -> HttpResponse {
    let Order { amount, currency } = order.into_inner();
    let charge = ledger.with(|charges| {
        let charge = Charge { id: charges.len() + 1, amount, currency, refunded: false };
        charges.push(charge.clone());
        charge
    });
    // The money has moved, and nobody has been told yet: now clients lose patience, and connections break.
    sleep(BANK).await;
    HttpResponse::Created().insert_header(("location", format!("/charges/{}", charge.id))).json(charge)
}

async fn charges(ledger: web::Data<Ledger>) -> HttpResponse {
    HttpResponse::Ok().json(ledger.with(|charges| charges.clone()))
}

/// Manual: runs for every request, one at a time per key, and decides by what is known of the key.
async fn refund(ledger: web::Data<Ledger>, id: web::Path<usize>, info: web::ReqData<IdempotencyInfo>) -> HttpResponse {
    if let Some(first) = info.response() {
        // Refunded before: the same answer, and no second refund.
        return first.to_response();
    }
    let refunded = ledger.with(|charges| {
        let charge = charges.iter_mut().find(|charge| charge.id == *id)?;
        charge.refunded = true;
        Some(charge.clone())
    });
    refunded.map_or_else(|| HttpResponse::NotFound().finish(), |charge| HttpResponse::Ok().json(charge))
}

/// Optional: protected where the client sends a key.
async fn quote(order: web::Json<Order>) -> HttpResponse {
    let Order { amount, currency } = order.into_inner();
    HttpResponse::Ok().json(serde_json::json!({ "amount": amount, "currency": currency, "fee": amount / 50 }))
}

/// Exempt: the bank sends no keys.
async fn webhook() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// Shows what the keys are good for.
async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::html()).body(include_str!("page.html"))
}

fn routes(config: &mut web::ServiceConfig) {
    // For the page, which pays with and without a key. Duplicates wait until the bank has answered the first.
    let checkout = IdempotencyKey::default().optional().configure(|settings| {
        settings.lock.timeout = Duration::from_secs(2);
    });
    config
        .route("/", web::get().to(page))
        .route("/charges", web::get().to(charges))
        .route("/charges", web::post().to(charge))
        .route("/webhooks/bank", web::post().to(webhook))
        .service(web::resource("/checkout").wrap(checkout).route(web::post().to(charge)))
        .service(web::resource("/quotes").wrap(IdempotencyKey::default().optional()).route(web::post().to(quote)))
        .service(
            web::resource("/charges/{id}/refund")
                .wrap(IdempotencyKey::default().manual())
                .route(web::post().to(refund)),
        );
}

fn greet(address: &str) {
    let post = format!("curl -si http://{address}/charges -H 'Content-Type: application/json'");
    println!("listening on {address}");
    println!();
    println!("# To see it, in a browser: http://{address}/");
    println!("# A first answer. Run it twice: the second time is a replay, with the same charge.");
    println!(r#"{post} -H 'Idempotency-Key: order-17' -d '{{"amount":100,"currency":"EUR"}}'"#);
    println!("# Another payload under the same key is refused.");
    println!(r#"{post} -H 'Idempotency-Key: order-17' -d '{{"amount":999,"currency":"EUR"}}'"#);
    println!("# Without a key nothing is charged.");
    println!(r#"{post} -d '{{"amount":100,"currency":"EUR"}}'"#);
    println!("# However often it was sent, one charge was made.");
    println!("curl -s http://{address}/charges");
    println!("# A manual route, an exempt one, an optional one.");
    println!("curl -si -X POST http://{address}/charges/1/refund -H 'Idempotency-Key: refund-17'");
    println!("curl -si -X POST http://{address}/webhooks/bank");
    println!(
        r#"curl -si http://{address}/quotes -H 'Content-Type: application/json' -d '{{"amount":100,"currency":"EUR"}}'"#
    );
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let idempotency = Idempotency::load().await?;
    let signal = idempotency.shutdown_signal();
    let ledger = web::Data::new(Ledger::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(idempotency.clone()))
            .app_data(ledger.clone())
            .wrap(IdempotencyKey::default().exempt("/webhooks/{tail}*"))
            .configure(routes)
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    greet(&server.addrs().first().map_or_else(String::new, ToString::to_string));
    server.run().await?;
    Ok(())
}

/// How a service of yours can be tested: `cargo test --example payments --features testing`.
#[cfg(all(test, feature = "testing"))]
mod tests {
    use actix_idempotency::{
        Settings,
        store::MemoryStore,
        testing::{Call, Fault, FaultyStore, storm},
    };
    use actix_web::test::{TestRequest, init_service};

    use super::*;

    fn order() -> TestRequest {
        let order = serde_json::json!({ "amount": 100, "currency": "EUR" });
        TestRequest::post().uri("/charges").insert_header(("idempotency-key", "order-17")).set_json(order)
    }

    async fn charged_after_a_storm(idempotency: Idempotency) -> usize {
        let ledger = web::Data::new(Ledger::default());
        let app = App::new()
            .app_data(web::Data::new(idempotency))
            .app_data(ledger.clone())
            .wrap(IdempotencyKey::default())
            .configure(routes);
        let answers = storm(&init_service(app).await, 20, order).await;
        assert_eq!(answers.iter().filter(|answer| answer.ran()).count(), 1);
        ledger.with(|charges| charges.len())
    }

    #[actix_web::test]
    async fn twenty_retries_at_once_charge_once() {
        assert_eq!(charged_after_a_storm(Idempotency::in_memory()).await, 1);
    }

    #[actix_web::test]
    async fn nor_do_they_when_the_store_loses_its_answers() {
        let (store, faults) = FaultyStore::new(MemoryStore::default());
        faults.next(Call::Begin, Fault::LoseAnswer);
        faults.next(Call::Complete, Fault::LoseAnswer);
        let mut settings = Settings::default();
        settings.storage.class = "faulty".into();
        let idempotency =
            Idempotency::builder().settings(settings).store("faulty", store).build().expect("sound settings");
        assert_eq!(charged_after_a_storm(idempotency).await, 1);
    }
}
