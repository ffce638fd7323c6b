//! A small payments API, protected by the middleware.
//!
//! Run it with `cargo run --example payments`. Then open the page that it serves, or run the curl commands that it
//! prints. The environment variable `ADDR` sets the address (127.0.0.1:8080). Settings come from `idempotency.toml` and
//! the environment, so the example can use other stores without a change of its code. With
//! `IDEMPOTENCY_KEY__STORAGE__CLASS=sqlite cargo run --features sqlite --example payments` the records are in the file
//! `idempotency.db`, and a retry after a restart is still a replay.

use std::{
    env,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyInfo, IdempotencyKey, steps::StepError};
use actix_web::{
    App, Error, HttpResponse, HttpServer, error::ErrorServiceUnavailable, http::header::ContentType, rt::time::sleep,
    web,
};
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

/// Stands in for a bank: each charge here costs somebody money.
#[derive(Default)]
struct Ledger(Mutex<Vec<Charge>>);

impl Ledger {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Charge>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long the bank takes to answer.
const BANK: Duration = Duration::from_millis(300);

/// Charges once per key. The handler itself contains no code for that: the middleware runs it once.
async fn charge(ledger: web::Data<Ledger>, order: web::Json<Order>) -> HttpResponse {
    let Order { amount, currency } = order.into_inner();
    let charge = ledger.with(|charges| {
        let charge = Charge { id: charges.len() + 1, amount, currency, refunded: false };
        charges.push(charge.clone());
        charge
    });
    // The bank has charged and the answer is not sent yet. Now clients lose patience and connections break, and retries
    // arrive.
    sleep(BANK).await;
    HttpResponse::Created().insert_header(("location", format!("/charges/{}", charge.id))).json(charge)
}

async fn charges(ledger: web::Data<Ledger>) -> HttpResponse {
    HttpResponse::Ok().json(ledger.with(|charges| charges.clone()))
}

/// Policy manual: the handler runs for every request, one at a time per key, and decides itself what a retry gets.
async fn refund(ledger: web::Data<Ledger>, id: web::Path<usize>, info: IdempotencyInfo) -> HttpResponse {
    if let Some(first) = info.response() {
        // The refund is done: send the same answer, and do not refund again.
        return first.to_response();
    }
    let refunded = ledger.with(|charges| {
        let charge = charges.iter_mut().find(|charge| charge.id == *id)?;
        charge.refunded = true;
        Some(charge.clone())
    });
    refunded.map_or_else(|| HttpResponse::NotFound().finish(), |charge| HttpResponse::Ok().json(charge))
}

/// Policy optional: the request is protected if the client sends a key.
async fn quote(order: web::Json<Order>) -> HttpResponse {
    let Order { amount, currency } = order.into_inner();
    HttpResponse::Ok().json(serde_json::json!({ "amount": amount, "currency": currency, "fee": amount / 50 }))
}

/// The work of one step of an order, and its attempt.
#[derive(Serialize, Deserialize)]
struct Done {
    step: String,
    attempt: u32,
}

#[derive(Deserialize)]
struct Mood {
    /// Whether the mail server is down at the first attempt.
    #[serde(default)]
    fail: bool,
}

/// An order in three steps. The result of each is saved, so a retry goes on where the last attempt stopped: the card is
/// charged once, although this handler runs twice.
async fn order(
    ledger: web::Data<Ledger>,
    info: IdempotencyInfo,
    mood: web::Query<Mood>,
    order: web::Json<Order>,
) -> Result<HttpResponse, Error> {
    let mut done = Vec::new();
    for step in ["charge", "ship", "mail"] {
        if step == "mail" && mood.fail && info.attempt() == 1 {
            return Err(ErrorServiceUnavailable("the mail server is down"));
        }
        let result = info.step(step, async |_key| {
            if step == "charge" {
                let Order { amount, currency } = &*order;
                ledger.with(|charges| {
                    let (id, currency) = (charges.len() + 1, currency.clone());
                    charges.push(Charge { id, amount: *amount, currency, refunded: false });
                });
            }
            // A call to another service would send `_key` along.
            sleep(BANK).await;
            Ok::<_, StepError>(Done { step: step.to_owned(), attempt: info.attempt() })
        });
        done.push(result.await?);
    }
    Ok(HttpResponse::Created().json(done))
}

/// Policy exempt: the bank sends no keys.
async fn webhook() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// A page that sends the same payment several times, with or without a key.
async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::html()).body(include_str!("page.html"))
}

fn routes(config: &mut web::ServiceConfig, idempotency: &Idempotency) {
    let wrap = || IdempotencyKey::default().using(idempotency);
    // The page pays with and without a key. Duplicates wait until the bank has answered the first request.
    let checkout = wrap().optional().configure(|settings| {
        settings.lock.timeout = Duration::from_secs(2);
    });
    config
        .route("/", web::get().to(page))
        .route("/charges", web::get().to(charges))
        .route("/charges", web::post().to(charge))
        .route("/webhooks/bank", web::post().to(webhook))
        .service(web::resource("/orders").wrap(wrap().steps()).route(web::post().to(order)))
        .service(web::resource("/checkout").wrap(checkout).route(web::post().to(charge)))
        .service(web::resource("/quotes").wrap(wrap().optional()).route(web::post().to(quote)))
        .service(web::resource("/charges/{id}/refund").wrap(wrap().manual()).route(web::post().to(refund)));
}

fn greet(address: &str) {
    let post = format!("curl -si http://{address}/charges -H 'Content-Type: application/json'");
    let pay = format!(r#"{post} -H 'Idempotency-Key: order-17' -d '{{"amount":100,"currency":"EUR"}}'"#);
    println!("listening on {address}");
    println!();
    println!("# A page that shows retries, for a browser: http://{address}/");
    println!("# A charge. Run this command twice: the second answer is a replay, with the same charge.");
    println!("{pay}");
    println!("# Another payload under the same key is refused.");
    println!(r#"{post} -H 'Idempotency-Key: order-17' -d '{{"amount":999,"currency":"EUR"}}'"#);
    println!("# Without a key nothing is charged.");
    println!(r#"{post} -d '{{"amount":100,"currency":"EUR"}}'"#);
    println!("# All charges: there is one, however often the request was sent.");
    println!("curl -s http://{address}/charges");
    println!(
        "# An order in three steps, whose first attempt fails. Run this command twice: the retry does not charge again."
    );
    println!(
        r#"curl -si 'http://{address}/orders?fail=true' -H 'Content-Type: application/json' -H 'Idempotency-Key: order-18' -d '{{"amount":100,"currency":"EUR"}}'"#
    );
    println!("# A manual, an exempt and an optional route.");
    println!("curl -si -X POST http://{address}/charges/1/refund -H 'Idempotency-Key: refund-17'");
    println!("curl -si -X POST http://{address}/webhooks/bank");
    println!(
        r#"curl -si http://{address}/quotes -H 'Content-Type: application/json' -d '{{"amount":100,"currency":"EUR"}}'"#
    );
    println!("# A restart, with records in a file. Stop this server with Ctrl-C, start it by the next line, and pay.");
    println!("IDEMPOTENCY_KEY__STORAGE__CLASS=sqlite cargo run --features sqlite --example payments");
    println!("{pay}");
    println!("# Stop it, start it again, and pay again: the answer is a replay. The new server has charged nothing.");
    println!("{pay}");
    println!("curl -s http://{address}/charges");
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let idempotency = Idempotency::load().await?;
    let signal = idempotency.shutdown_signal();
    let ledger = web::Data::new(Ledger::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(ledger.clone())
            .wrap(IdempotencyKey::default().exempt("/webhooks/{tail}*").using(&idempotency))
            .configure(|config| routes(config, &idempotency))
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    greet(&server.addrs().first().map_or_else(String::new, ToString::to_string));
    server.run().await?;
    Ok(())
}

/// Tests as a service of yours could have them. Run them with `cargo test --example payments --features testing`.
#[cfg(all(test, feature = "testing"))]
mod tests {
    use actix_idempotency::{
        Settings,
        store::MemoryStore,
        testing::{Call, Fault, FaultyStore, storm},
    };
    use actix_web::test::{TestRequest, call_service, init_service, read_body_json};

    use super::*;

    fn order() -> TestRequest {
        let order = serde_json::json!({ "amount": 100, "currency": "EUR" });
        TestRequest::post().uri("/charges").insert_header(("idempotency-key", "order-17")).set_json(order)
    }

    async fn charged_after_a_storm(idempotency: Idempotency) -> usize {
        let ledger = web::Data::new(Ledger::default());
        let app = App::new()
            .app_data(ledger.clone())
            .wrap(IdempotencyKey::default().using(&idempotency))
            .configure(|config| routes(config, &idempotency));
        let answers = storm(&init_service(app).await, 20, order).await;
        assert_eq!(answers.iter().filter(|answer| answer.ran()).count(), 1);
        ledger.with(|charges| charges.len())
    }

    #[actix_web::test]
    async fn twenty_retries_at_once_charge_once() {
        assert_eq!(charged_after_a_storm(Idempotency::in_memory()).await, 1);
    }

    #[actix_web::test]
    async fn the_retry_of_an_order_that_failed_goes_on() {
        let (ledger, idempotency) = (web::Data::new(Ledger::default()), Idempotency::in_memory());
        let app = App::new().app_data(ledger.clone()).configure(|config| routes(config, &idempotency));
        let app = init_service(app).await;
        let send = || call_service(&app, order().uri("/orders?fail=true").to_request());
        assert_eq!(send().await.status(), 503);
        let done: Vec<Done> = read_body_json(send().await).await;
        let attempts: Vec<u32> = done.iter().map(|done| done.attempt).collect();
        assert_eq!((attempts, ledger.with(|charges| charges.len())), (vec![1, 1, 2], 1));
    }

    #[actix_web::test]
    async fn twenty_retries_charge_once_when_the_store_loses_its_answers() {
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
