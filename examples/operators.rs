//! A service with metrics for Prometheus, pages for its operators, and a listener.
//!
//! Run it with `cargo run --features metrics --example operators`. The environment variable `ADDR` sets the address
//! (127.0.0.1:8080), and `OPERATOR` the password of the pages (`secret`). With `IDEMPOTENCY_KEY__MODE=observe` every
//! request runs, and the outcome that enforcing would have had is only reported.

use std::env;

use actix_idempotency::{
    Idempotency, IdempotencyKey, Principal, Settings,
    observe::{Outcome, Report},
};
use actix_web::{
    App, Error, HttpMessage as _, HttpResponse, HttpServer, dev::ServiceRequest, http::header::HeaderName, web,
};
use actix_web_httpauth::{
    extractors::{
        AuthenticationError,
        basic::{self, BasicAuth},
    },
    headers::www_authenticate::basic::Basic,
    middleware::HttpAuthentication,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// The password of the operators. A real service has accounts.
struct Password(String);

async fn operators_only(
    request: ServiceRequest,
    credentials: BasicAuth,
) -> Result<ServiceRequest, (Error, ServiceRequest)> {
    let password = request.app_data::<web::Data<Password>>().map(|password| password.0.as_str());
    if credentials.user_id() != "operator" || credentials.password() != password {
        return Err((AuthenticationError::new(Basic::with_realm("operators")).into(), request));
    }
    // The log names this principal when it forgets a record.
    request.extensions_mut().insert(Principal::new("operator"));
    Ok(request)
}

async fn metrics(prometheus: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(prometheus.render())
}

/// Reacts to the outcomes of requests: here, to clients that reuse a key for another operation.
fn listen(report: &Report<'_>) {
    if report.outcome == Outcome::KeyReused {
        eprintln!("a client of {} used a key for two operations", report.route.unwrap_or("an unknown route"));
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // The recorder is installed before the `Idempotency` is made, which describes its metrics to the recorder.
    let seconds = [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0];
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &[256.0, 4096.0, 65_536.0, 1_048_576.0])?
        .install_recorder()?;
    let prometheus = web::Data::new(prometheus);

    let mut settings = Settings::load()?;
    settings.observe_header.get_or_insert(HeaderName::from_static("idempotency-observed"));
    let idempotency = Idempotency::builder().settings(settings).listener(listen).build()?;
    idempotency.check().await?;
    let signal = idempotency.shutdown_signal();

    let password = env::var("OPERATOR").unwrap_or_else(|_| "secret".into());
    let operator = web::Data::new(Password(password.clone()));
    let server = HttpServer::new(move || {
        let pages = web::scope("/ops/idempotency")
            .service(idempotency.admin_scope())
            .wrap(HttpAuthentication::basic(operators_only));
        App::new()
            .app_data(prometheus.clone())
            .app_data(operator.clone())
            .app_data(basic::Config::default().realm("operators"))
            .route("/metrics", web::get().to(metrics))
            .service(pages)
            .service(
                web::scope("/api")
                    .wrap(IdempotencyKey::default().using(&idempotency))
                    .route("/payments", web::post().to(|| async { HttpResponse::Created().body("paid") })),
            )
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    let address = server.addrs().first().map_or_else(String::new, ToString::to_string);
    println!("listening on {address}");
    println!();
    println!("curl -si -X POST http://{address}/api/payments -H 'Idempotency-Key: order-17'");
    println!("curl -s http://{address}/metrics");
    println!("curl -s -u operator:{password} http://{address}/ops/idempotency/records");
    println!("# The operators' pages, for a browser (user name: operator): http://{address}/ops/idempotency");
    server.run().await?;
    Ok(())
}
