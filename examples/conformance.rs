//! A server for HTTP tests in any language. It counts how often each handler runs (`GET /runs`).
//!
//! Run it with `cargo run --release --example conformance`. Settings come from `idempotency.toml` and the environment.
//! The server has variables of its own: `ADDR` (127.0.0.1:8080), `WORKERS` (2), `MIDDLEWARE` (`required` or `exempt`,
//! the policy of the wrap around the App) and `RUN_LOG` (a file to which each run appends a `start` and an `end` line).
//! The operators' pages are under `/admin`. Each step appends a `step` line, with the key that it got and its result.

#[path = "conformance/ask.rs"]
mod ask;
#[path = "conformance/steps.rs"]
mod steps;
#[path = "conformance/uploads.rs"]
mod uploads;

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    future::{Future, ready},
    io::{self, Write as _},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_idempotency::{
    ExemptIdempotencyKey, Idempotency, IdempotencyInfo, IdempotencyKey, Principal, Settings, guard, settings::Scope,
};
use actix_web::{
    App, Error, HttpMessage as _, HttpRequest, HttpResponse, HttpServer,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error, guard as actix_guard,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    middleware::{Next, from_fn},
    web::{self, Bytes},
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

type Outcome = Result<HttpResponse, Error>;

/// Counts and logs the runs of this process.
struct Runs {
    count: Mutex<BTreeMap<String, u64>>,
    log: Option<File>,
}

/// A handler that has started.
struct Run {
    runs: Arc<Runs>,
    line: String,
    n: u64,
}

impl Runs {
    fn count(&self, what: &str) -> u64 {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let n = count.entry(what.to_owned()).or_default();
        *n += 1;
        *n
    }

    fn log(&self, what: &str, rest: &str) {
        if let Some(mut log) = self.log.as_ref() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            // The line is written in one call, so that lines of several processes don't mix.
            let _ = log.write_all(format!("{what} {now} {rest}\n").as_bytes());
        }
    }

    fn start(self: &Arc<Self>, request: &HttpRequest) -> Run {
        let n = self.count(request.path());
        let key = request.headers().get("idempotency-key").map(HeaderValue::as_bytes);
        let key = key.map_or("-".into(), |key| String::from_utf8_lossy(key).replace(' ', "%20").replace('\t', "%09"));
        let line = format!("{} {} {} {key}", std::process::id(), request.method(), request.path());
        self.log("start", &line);
        Run { runs: self.clone(), line, n }
    }
}

impl Run {
    fn end(self) -> u64 {
        self.runs.log("end", &self.line);
        self.n
    }
}

/// Runs a handler, with a line in the log before and after it.
async fn logged<F>(runs: &web::Data<Runs>, request: &HttpRequest, handler: impl FnOnce(u64) -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let run = runs.start(request);
    let outcome = handler(run.n).await;
    run.end();
    outcome
}

fn report(request: &HttpRequest, n: u64) -> serde_json::Value {
    serde_json::json!({ "n": n, "method": request.method().as_str(), "path": request.path() })
}

fn item_of(request: &HttpRequest, n: u64, body: &serde_json::Value) -> HttpResponse {
    let status = if request.method() == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
    HttpResponse::build(status)
        .insert_header((header::LOCATION, format!("/items/{n}")))
        .insert_header((header::ETAG, format!("\"v{n}\"")))
        .json(body)
}

async fn item(request: HttpRequest, runs: web::Data<Runs>) -> Outcome {
    logged(&runs, &request, |n| ready(Ok(item_of(&request, n, &report(&request, n))))).await
}

async fn manual(request: HttpRequest, runs: web::Data<Runs>, info: web::ReqData<IdempotencyInfo>) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        let mut body = report(&inner, n);
        let stored = info.response();
        body["exists"] = info.exists().into();
        body["stored_status"] = stored.map(|stored| stored.status().as_u16()).into();
        body["stored_body"] =
            stored.and_then(|stored| stored.body()).map(|body| String::from_utf8_lossy(body).into_owned()).into();
        Ok(item_of(&inner, n, &body))
    })
    .await
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(request: HttpRequest, runs: web::Data<Runs>, query: web::Query<Slow>) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        actix_web::rt::time::sleep(Duration::from_millis(query.ms)).await;
        Ok(HttpResponse::Ok().json(report(&inner, n)))
    })
    .await
}

async fn status(request: HttpRequest, runs: web::Data<Runs>, code: web::Path<u16>) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        let status = StatusCode::from_u16(*code).map_err(error::ErrorBadRequest)?;
        let bodiless = status.is_informational() || matches!(*code, 204 | 205 | 304);
        let mut response = HttpResponse::build(status);
        if matches!(*code, 202 | 303) {
            response.insert_header((header::RETRY_AFTER, "7"));
        }
        Ok(if bodiless { response.finish() } else { response.json(report(&inner, n)) })
    })
    .await
}

async fn failure(request: HttpRequest, runs: web::Data<Runs>, code: web::Path<u16>) -> Outcome {
    logged(&runs, &request, |_| async move {
        let status = StatusCode::from_u16(*code).map_err(error::ErrorBadRequest)?;
        Err(error::InternalError::new("the handler failed", status).into())
    })
    .await
}

async fn panics(request: HttpRequest, runs: web::Data<Runs>) -> HttpResponse {
    let _run = runs.into_inner().start(&request);
    panic!("the handler panicked, as it was asked to")
}

async fn echo(request: HttpRequest, runs: web::Data<Runs>, mut payload: web::Payload) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        let (mut length, mut hash) = (0, Sha256::new());
        while let Some(piece) = payload.next().await {
            let piece = piece?;
            length += piece.len();
            hash.update(&piece);
        }
        let sha256 = hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let kind = inner.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        Ok(HttpResponse::Ok()
            .json(serde_json::json!({ "n": n, "len": length, "sha256": sha256, "content_type": kind })))
    })
    .await
}

#[derive(Deserialize)]
struct Size {
    size: usize,
}

async fn bytes(request: HttpRequest, runs: web::Data<Runs>, query: web::Query<Size>) -> Outcome {
    logged(&runs, &request, |_| async move {
        let body: Vec<u8> = (0..=u8::MAX).cycle().take(query.size).collect();
        Ok(HttpResponse::Ok().content_type("application/octet-stream").body(body))
    })
    .await
}

#[derive(Deserialize)]
struct Stream {
    chunks: usize,
    size: usize,
    #[serde(default)]
    delay_ms: u64,
    fail_at: Option<usize>,
}

async fn streamed(request: HttpRequest, runs: web::Data<Runs>, query: web::Query<Stream>) -> Outcome {
    logged(&runs, &request, |_| async move {
        let Stream { chunks, size, delay_ms, fail_at } = query.into_inner();
        let chunks = stream::iter(0..chunks).then(move |chunk| async move {
            if chunk > 0 && delay_ms > 0 {
                actix_web::rt::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            if fail_at == Some(chunk) {
                return Err(io::Error::other("the stream failed, as it was asked to"));
            }
            Ok(Bytes::from(vec![b"abcdefghijklmnopqrstuvwxyz"[chunk % 26]; size]))
        });
        Ok(HttpResponse::Ok().content_type("application/octet-stream").streaming(chunks))
    })
    .await
}

async fn headers(request: HttpRequest, runs: web::Data<Runs>) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        Ok(HttpResponse::Created()
            .append_header((header::SET_COOKIE, "a=1"))
            .append_header((header::SET_COOKIE, "b=2"))
            .append_header((header::LINK, "</first>; rel=\"first\""))
            .append_header((header::LINK, "</second>; rel=\"second\""))
            .insert_header((header::VARY, "Accept-Language"))
            .insert_header(("x-app", "1"))
            .insert_header((header::DATE, "Tue, 15 Nov 1994 08:12:31 GMT"))
            .insert_header((header::CONNECTION, "X-Hop"))
            .insert_header(("x-hop", "1"))
            .insert_header(("keep-alive", "timeout=5"))
            .insert_header(("x-request-id", n.to_string()))
            .json(report(&inner, n)))
    })
    .await
}

async fn counted(runs: web::Data<Runs>) -> HttpResponse {
    HttpResponse::Ok().json(&*runs.count.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A route for all methods to one handler.
macro_rules! any {
    ($handler:expr $(, $guard:expr)?) => {{
        let methods = actix_guard::Any(actix_guard::Get())
            .or(actix_guard::Post())
            .or(actix_guard::Put())
            .or(actix_guard::Patch())
            .or(actix_guard::Delete());
        web::route().guard(methods)$(.guard($guard))?.to($handler)
    }};
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(HttpResponse::Ok))
        .route("/runs", web::get().to(counted))
        .route("/items", any!(item))
        .service(web::scope("/required").wrap(IdempotencyKey::default()).route("", any!(item)))
        .service(web::scope("/optional").wrap(IdempotencyKey::default().optional()).route("", any!(item)))
        .service(web::scope("/exempt").wrap(ExemptIdempotencyKey::default()).route("", any!(item)))
        .service(web::scope("/manual").wrap(IdempotencyKey::default().manual()).route("", any!(manual)))
        .route("/guarded/required", any!(item, guard::required()))
        .route("/guarded/optional", any!(item, guard::optional()))
        .route("/guarded/exempt", any!(item, guard::exempt()))
        .route("/guarded/manual", any!(manual, guard::manual()))
        .route("/ruled/exempt", any!(item))
        .service(web::scope("/cache/a").wrap(IdempotencyKey::default().cache_name("a")).route("", any!(item)))
        .service(web::scope("/cache/b").wrap(IdempotencyKey::default().cache_name("b")).route("", any!(item)))
        .route("/slow", any!(slow))
        .service(web::scope("/async").wrap(IdempotencyKey::default().respond_async()).route("", web::post().to(slow)))
        .route("/status/{code}", any!(status))
        .route("/error/{code}", any!(failure))
        .route("/panic", any!(panics))
        .route("/echo", any!(echo))
        .route("/bytes", any!(bytes))
        .route("/stream", any!(streamed))
        .route("/headers", any!(headers))
        .service(
            web::scope("/ask")
                .wrap(IdempotencyKey::default().on_unknown(ask::verdict))
                .route("", web::post().to(ask::run)),
        )
        .service(uploads::scope())
        .route("/steps", web::post().to(steps::three))
        .route("/steps/once", web::post().to(steps::once));
}

/// Stands in for the authentication of a real service, which runs outside of the idempotency middleware.
async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
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

fn variable(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = Settings::load()?;
    let default = settings.caches.get("default").cloned().unwrap_or_default();
    for cache in ["a", "b"] {
        settings.caches.entry(cache.to_owned()).or_insert_with(|| default.clone());
    }
    settings.operations.path.get_or_insert_with(|| "/operations".to_owned());
    // With these settings a key does not name a record.
    let looks_up = settings.encoder != "django" && settings.scope == Scope::Principal;
    let most = settings.max_request_body;
    let idempotency = Idempotency::builder().settings(settings).build()?;
    idempotency.check().await?;

    let address = variable("ADDR", "127.0.0.1:8080");
    let workers: usize = variable("WORKERS", "2").parse().map_err(|_| "WORKERS is not a number")?;
    let required = match variable("MIDDLEWARE", "required").as_str() {
        "required" => true,
        "exempt" => false,
        other => return Err(format!("MIDDLEWARE can't be `{other}`; accepted: required or exempt").into()),
    };
    let log = env::var_os("RUN_LOG").map(|path| File::options().append(true).create(true).open(path)).transpose()?;
    let runs = web::Data::new(Runs { count: Mutex::default(), log });

    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        let app = App::new()
            .app_data(web::Data::new(idempotency.clone()))
            .app_data(runs.clone())
            .app_data(web::PayloadConfig::new(most));
        // The two wraps differ in type, so each has its own `Condition`. The last wrap runs first.
        let wrap = IdempotencyKey::default().using(&idempotency).exempt("/ruled/exempt");
        let exempt = ExemptIdempotencyKey::default().using(&idempotency);
        app.configure(routes)
            .service(web::scope("/admin").service(idempotency.admin_scope()))
            .configure(|config| {
                if looks_up {
                    config.service(web::scope("/operations").service(idempotency.operations_scope()));
                }
            })
            .wrap(actix_web::middleware::Condition::new(required, wrap))
            .wrap(actix_web::middleware::Condition::new(!required, exempt))
            .wrap(from_fn(authenticate))
    })
    .workers(workers)
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
    if let Err(error) = serve().await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
