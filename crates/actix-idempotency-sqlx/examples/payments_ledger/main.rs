//! A small payments API whose rows and answers are committed together, in PostgreSQL or SQLite.
//!
//! Run it with `cargo run -p actix-idempotency-sqlx --features postgres,sqlite --example payments_ledger`, and then the curl
//! commands that it prints. `DATABASE_URL` (`sqlite://payments.db`, or `postgres://…`) and `ADDR` (127.0.0.1:8080) are its
//! variables. `postgres.rs` and `sqlite.rs` have the same handlers: copy the one for your database.

mod postgres;
mod sqlite;

use std::{env, error::Error};

use actix_idempotency::{Idempotency, IdempotencyKey, ledger::Ledger};
use actix_web::{App, HttpServer, web::ServiceConfig};
use serde::{Deserialize, Serialize};

/// The body of `POST /payments`.
#[derive(Deserialize)]
struct Order {
    account: String,
    amount: u32,
}

/// A row of the table `payments`.
#[derive(Serialize)]
struct Payment {
    id: i64,
    account: String,
    amount: i64,
}

/// Serves these routes under a wrap with this ledger.
async fn serve(
    ledger: impl Ledger,
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    ledger.check().await?; // the server does not start without the ledger's table
    let idempotency = Idempotency::load().await?; // claims are in memory, which will do for several processes too
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new().configure(&routes).wrap(IdempotencyKey::default().using(&idempotency).ledger(&ledger))
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    greet(&server.addrs().first().map_or_else(String::new, ToString::to_string));
    server.run().await?;
    Ok(())
}

fn greet(address: &str) {
    let post = format!("curl -si http://{address}/payments -H 'Content-Type: application/json'");
    println!("listening on {address}\n");
    println!("# A payment. Run this command twice: the second answer is a replay, with the same payment.");
    println!(r#"{post} -H 'Idempotency-Key: order-17' -d '{{"account":"alice","amount":100}}'"#);
    println!("# Another payload under the same key is refused.");
    println!(r#"{post} -H 'Idempotency-Key: order-17' -d '{{"account":"alice","amount":999}}'"#);
    println!("# More than there is: 402, and no row is written.");
    println!(r#"{post} -H 'Idempotency-Key: order-18' -d '{{"account":"alice","amount":5000}}'"#);
    println!("# All payments: there is one, however often the request was sent.");
    println!("curl -s http://{address}/payments");
    println!("# Stop this server, even by `kill -9`, and start it again: the first command still gets a replay.");
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://payments.db".into());
    if url.starts_with("postgres") {
        let (ledger, pool) = postgres::open(&url).await?;
        serve(ledger, move |config| postgres::routes(config, &pool)).await
    } else {
        let (ledger, pool) = sqlite::open(&url).await?;
        serve(ledger, move |config| sqlite::routes(config, &pool)).await
    }
}
