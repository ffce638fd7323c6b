//! A server whose handlers' rows and answers are committed together.
//!
//! Run it with `cargo run -p actix-idempotency-sqlx --features postgres,sqlite --example ledger`. Settings come from
//! `idempotency.toml` and the environment. The server has variables of its own: `DATABASE_URL` (`sqlite://ledger.db`, or
//! `postgres://…`), `POOL` (10, the size of its pool), `ADDR` (127.0.0.1:8080), `WORKERS` (2) and `RUN_LOG` (a file to which
//! each run appends a `start` and an `end` line).
//!
//! | request | answer |
//! |---|---|
//! | `POST /tx?rows=R&ms=N&status=S&fail=F` | takes a `Tx`, inserts R rows, waits N ms, answers with status S; F: `error`, `panic`, `abort`, `stream` |
//! | `POST /transactions?…` | the same by `Transactions`, serializable |
//! | `POST /twice` | asks for two `Tx`, which is an error |
//! | `POST /items`, `POST /slow?ms=N` | handlers without a transaction |
//! | `GET /effects`, `GET /runs` | rows of each key, runs of each path |

mod database;
mod runs;

use std::{env, io, pin::pin, time::Duration};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Principal, Settings,
    ledger::{Transactions, Tx},
};
use actix_idempotency_sqlx::{Error, SqlxPostgres, SqlxSqlite};
use actix_web::{
    App, HttpMessage as _, HttpRequest, HttpResponse, HttpServer,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::{Method, StatusCode, header},
    middleware::{Next, from_fn},
    rt::time::{sleep, timeout},
    web::{self, Bytes},
};
use futures_util::{FutureExt as _, stream};
use serde::Deserialize;

use self::{
    database::Database,
    runs::{Run, Runs, counted},
};

type Outcome = Result<HttpResponse, actix_web::Error>;

/// The query of a request: the work that it asks its handler for.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default = "one")]
    rows: u32,
    #[serde(default)]
    ms: u64,
    #[serde(default = "created")]
    status: u16,
    #[serde(default)]
    fail: String,
}

const fn one() -> u32 {
    1
}

const fn created() -> u16 {
    201
}

async fn tx<D: Database>(
    request: HttpRequest,
    mut tx: Tx<D>,
    runs: web::Data<Runs>,
    wanted: web::Query<Wanted>,
) -> Outcome {
    let run = Run::start(&runs, &request);
    let answer = work::<D>(&mut tx, &run, request.path(), &wanted).await;
    run.end();
    answer
}

async fn transactions<D: Database>(
    request: HttpRequest,
    db: Transactions<D>,
    runs: web::Data<Runs>,
    wanted: web::Query<Wanted>,
) -> Outcome {
    let run = Run::start(&runs, &request);
    let answer = db.with(D::STRICT).run(async |tx| work::<D>(tx, &run, request.path(), &wanted).await).await;
    run.end();
    answer
}

async fn work<D: Database>(tx: &mut D::Tx, run: &Run, path: &str, wanted: &Wanted) -> Outcome {
    for _ in 0..wanted.rows {
        D::add(tx, &run.key, path).await.map_err(Error::from)?;
    }
    sleep(Duration::from_millis(wanted.ms)).await;
    match wanted.fail.as_str() {
        "error" => return Err(ErrorInternalServerError("the handler failed, as it was asked to")),
        "panic" => panic!("the handler panicked, as it was asked to"),
        "abort" => std::process::abort(),
        _ => {}
    }
    let status = StatusCode::from_u16(wanted.status).unwrap_or(StatusCode::BAD_REQUEST);
    let body = serde_json::json!({
        "n": run.n,
        "rows": wanted.rows,
        "run": format!("{}-{}", std::process::id(), run.n),
    });
    let mut response = HttpResponse::build(status);
    if wanted.fail != "stream" {
        return Ok(response.json(body));
    }
    let whole = Bytes::from(body.to_string());
    let third = whole.len() / 3;
    let pieces = [whole.slice(..third), whole.slice(third..2 * third), whole.slice(2 * third..)];
    response.content_type("application/json");
    Ok(response.streaming(stream::iter(pieces.map(Ok::<_, io::Error>))))
}

async fn twice<D: Database>(request: HttpRequest, runs: web::Data<Runs>, _: Tx<D>, _: Tx<D>) -> HttpResponse {
    Run::start(&runs, &request).end();
    HttpResponse::Created().finish()
}

async fn item(request: HttpRequest, runs: web::Data<Runs>) -> HttpResponse {
    let run = Run::start(&runs, &request);
    run.end();
    let status = if request.method() == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
    HttpResponse::build(status)
        .insert_header((header::LOCATION, format!("/items/{}", run.n)))
        .insert_header((header::ETAG, format!("\"v{}\"", run.n)))
        .json(report(&request, &run))
}

/// As the conformance server reports a run.
fn report(request: &HttpRequest, run: &Run) -> serde_json::Value {
    serde_json::json!({ "n": run.n, "method": request.method().as_str(), "path": request.path() })
}

async fn slow(request: HttpRequest, runs: web::Data<Runs>, wanted: web::Query<Wanted>) -> HttpResponse {
    let run = Run::start(&runs, &request);
    sleep(Duration::from_millis(wanted.ms)).await;
    run.end();
    HttpResponse::Ok().json(report(&request, &run))
}

async fn effects<D: Database>(pool: web::Data<D::Pool>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(D::count(&pool).await?))
}

/// Stands in for the authentication of a real service, which runs outside of the idempotency middleware.
async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let credentials = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let principal = match credentials {
        None => None,
        Some(credentials) if credentials.starts_with("Bearer alice-") => Some("alice"),
        Some(credentials) if credentials.starts_with("Bearer bob-") => Some("bob"),
        Some(_) => return Ok(request.into_response(HttpResponse::Unauthorized().finish()).map_into_right_body()),
    };
    if let Some(principal) = principal {
        request.extensions_mut().insert(Principal::new(principal));
    }
    Ok(next.call(request).await?.map_into_left_body())
}

fn number(name: &str, default: u32) -> Result<u32, String> {
    let wrong = |text: &str| format!("{name} can't be `{text}`; accepted: a number of at least 1");
    let parse = |text: String| text.parse().ok().filter(|number| *number > 0).ok_or_else(|| wrong(&text));
    env::var(name).map_or(Ok(default), parse)
}

async fn serve<D: Database>(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let connecting = timeout(Duration::from_secs(5), D::connect(url, number("POOL", 10)?));
    let (ledger, pool) = connecting.await.map_err(|_| "the database does not answer")??;
    let idempotency = Idempotency::builder().settings(Settings::load()?).build()?;
    idempotency.check().await?;

    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let runs = web::Data::new(Runs::from_environment()?);
    let pool = web::Data::new(pool);
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(runs.clone())
            .app_data(pool.clone())
            .route("/tx", web::post().to(tx::<D>))
            .route("/transactions", web::post().to(transactions::<D>))
            .route("/twice", web::post().to(twice::<D>))
            .service(web::resource("/items").to(item))
            .route("/slow", web::post().to(slow))
            .route("/effects", web::get().to(effects::<D>))
            .route("/runs", web::get().to(counted))
            .route("/healthz", web::get().to(HttpResponse::Ok))
            .service(web::scope("/admin").service(idempotency.admin_scope()))
            .wrap(IdempotencyKey::default().using(&idempotency).ledger(&ledger))
            .wrap(from_fn(authenticate))
    })
    .workers(number("WORKERS", 2)? as usize)
    .shutdown_signal(signal)
    .bind(&address)?;
    let address = server.addrs().first().map_or(address, ToString::to_string);
    let mut server = pin!(server.run());
    // The first poll starts the workers, and ends the server if a wrap is not configured as it must be.
    if let Some(ended) = (&mut server).now_or_never() {
        return Ok(ended?);
    }
    println!("listening on {address}");
    Ok(server.await?)
}

#[actix_web::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://ledger.db".into());
    let served = match url.split(':').next() {
        Some("postgres" | "postgresql") => serve::<SqlxPostgres>(&url).await,
        Some("sqlite") => serve::<SqlxSqlite>(&url).await,
        _ => Err("DATABASE_URL begins with postgres: or sqlite:".into()),
    };
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
