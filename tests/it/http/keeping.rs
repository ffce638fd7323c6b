//! How long a response is kept, when its handler says so.

use std::{fmt, time::Duration};

use actix_idempotency::{
    ConfigError, Idempotency, IdempotencyKey, ResponseExt as _, Settings,
    ledger::MemoryLedger,
    store::{Clock, MemoryLimits, MemoryStore},
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{
    App, HttpRequest, HttpResponse, ResponseError,
    dev::AppConfig,
    http::header::{HeaderMap, HttpDate},
    test::init_service,
    web,
};
use futures_util::stream;

use crate::common::in_process::{MARKER, alone, post, send};

const HOUR: Duration = Duration::from_secs(3600);
const EXPIRES: &str = "idempotency-expires";

fn seconds_of(request: &HttpRequest) -> Duration {
    Duration::from_secs(request.query_string().parse().unwrap())
}

async fn pay(request: HttpRequest) -> HttpResponse {
    HttpResponse::Created().body("paid").keep_for(seconds_of(&request))
}

async fn report(request: HttpRequest) -> HttpResponse {
    let body = stream::iter([Ok::<_, actix_web::Error>(web::Bytes::from_static(b"report"))]);
    HttpResponse::Ok().streaming(body).keep_for(seconds_of(&request))
}

#[derive(Debug)]
struct Declined(Duration);

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("declined")
    }
}

impl ResponseError for Declined {
    fn error_response(&self) -> HttpResponse {
        HttpResponse::PaymentRequired().body("declined").keep_for(self.0)
    }
}

async fn decline(request: HttpRequest) -> Result<HttpResponse, Declined> {
    Err(Declined(seconds_of(&request)))
}

fn settings() -> Settings {
    let mut settings = Settings::ietf();
    settings.storage.class = "own".into();
    settings.storage.ttl = HOUR;
    settings.storage.max_ttl = Some(2 * HOUR);
    settings.expires_header = Some(EXPIRES.parse().unwrap());
    settings
}

fn idempotency(clock: &Clock) -> Idempotency {
    let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
    Idempotency::builder().settings(settings()).store("own", store).build().unwrap()
}

fn seconds_left(headers: &HeaderMap) -> u64 {
    let until: HttpDate = headers.get(EXPIRES).expect("an expiry").to_str().unwrap().parse().unwrap();
    let left = std::time::SystemTime::from(until).duration_since(std::time::SystemTime::now());
    // The date has whole seconds.
    left.unwrap_or_default().as_secs() + 1
}

#[test]
fn a_response_is_kept_for_the_time_that_its_handler_says() {
    for (ledger, path) in [(false, "/pay"), (false, "/report"), (false, "/decline"), (true, "/pay"), (true, "/decline")]
    {
        alone(move || async move {
            let clock = Clock::steered();
            let mut wrap = IdempotencyKey::default().using(&idempotency(&clock));
            if ledger {
                wrap = wrap.ledger(&MemoryLedger::with_clock(clock.clone()));
            }
            let app = App::new()
                .route("/pay", web::post().to(pay))
                .route("/report", web::post().to(report))
                .route("/decline", web::post().to(decline));
            let app = init_service(app.wrap(wrap)).await;
            // `storage.max_ttl` cuts the last one.
            for (asked, kept) in [("60", 60), ("5400", 5400), ("99999", 7200)] {
                let uri = format!("{path}?{asked}");
                let ask = async || send(&app, post(&uri, Some(asked))).await.1;
                let first = ask().await;
                assert!(!first.contains_key(MARKER) && seconds_left(&first).abs_diff(kept) <= 2, "{uri} {first:?}");
                clock.advance(Duration::from_secs(kept - 5));
                let again = ask().await;
                assert!(again.contains_key(MARKER) && seconds_left(&again).abs_diff(5) <= 2, "{uri} {again:?}");
                clock.advance(Duration::from_secs(6));
                assert!(!ask().await.contains_key(MARKER), "{uri} is forgotten");
            }
        });
    }
}

#[test]
fn a_time_of_zero_stores_nothing() {
    alone(|| async {
        let wrap = IdempotencyKey::default().using(&idempotency(&Clock::steered()));
        let app = init_service(App::new().route("/pay", web::post().to(pay)).wrap(wrap)).await;
        for _ in 0..2 {
            let (status, headers, _) = send(&app, post("/pay?0", Some("k"))).await;
            assert_eq!(
                (status.as_u16(), headers.contains_key(MARKER), headers.contains_key(EXPIRES)),
                (201, false, false)
            );
        }
    });
}

#[test]
fn a_ttl_beyond_the_longest_one_is_an_error_at_start() {
    let refused = |settings: Settings| match Idempotency::builder().settings(settings).build() {
        Err(ConfigError::Combination(why)) => assert!(why.contains("max_ttl"), "{why}"),
        other => panic!("{other:?}"),
    };
    let mut settings = Settings::default();
    settings.storage.max_ttl = Some(HOUR);
    refused(settings);
    alone(|| async {
        let wrap = IdempotencyKey::default().using(&idempotency(&Clock::steered()));
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().route("/pay", web::post().to(pay)).wrap(wrap);
            app.into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        assert!(!starts(wrap.clone().ttl(3 * HOUR)).await);
        assert!(starts(wrap.ttl(2 * HOUR)).await);
    });
}
