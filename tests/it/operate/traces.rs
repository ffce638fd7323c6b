//! Traces: a request has a span with fields and one event, and the key is in none of them.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, Mutex, Once},
};

use actix_idempotency::{Idempotency, IdempotencyKey};
use actix_web::{App, HttpResponse, dev::Service as _, rt, test::init_service, web};
use futures_util::FutureExt as _;
use tracing::{
    Event, Instrument as _, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, registry::LookupSpan};

use crate::common::in_process::{alone, post, send};

/// Records everything as text: spans with their fields, and events with the spans around them.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut notes = self.0.lock().unwrap();
        let _ = write!(notes, "span {}", attributes.metadata().name());
        attributes.record(&mut Fields(&mut notes));
        notes.push('\n');
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut notes = self.0.lock().unwrap();
        let _ = write!(notes, "record {}", context.span(id).unwrap().name());
        values.record(&mut Fields(&mut notes));
        notes.push('\n');
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut notes = self.0.lock().unwrap();
        let spans = context.event_scope(event).into_iter().flatten().map(|span| span.name());
        let _ = write!(notes, "event in {:?}", spans.collect::<Vec<_>>());
        event.record(&mut Fields(&mut notes));
        notes.push('\n');
    }
}

impl Notes {
    /// Records the spans and events of this thread from now on.
    pub(crate) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        // If the thread of another test reaches a call site before any subscriber exists, tracing caches the call site
        // as disabled for all threads. A global subscriber that takes everything prevents that.
        static EVERYTHING: Once = Once::new();
        EVERYTHING.call_once(|| {
            let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        });
        tracing::subscriber::set_default(tracing_subscriber::registry().with(self.clone()))
    }

    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[track_caller]
fn has(notes: &str, parts: &[&str]) {
    let found = notes.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "no line has {parts:?}:\n{notes}");
}

#[test]
fn a_request_is_a_span_with_its_outcome_and_without_its_key() {
    alone(|| async {
        let notes = Notes::default();
        let _default = notes.listen();
        let app = init_service(
            App::new()
                .app_data(web::Data::new(Idempotency::in_memory()))
                .wrap(IdempotencyKey::default())
                .route("/pay/{id}", web::post().to(HttpResponse::Created)),
        )
        .await;
        send(&app, post("/pay/17", Some("a-secret-key"))).await;
        let first = notes.take();
        has(&first, &["span idempotency", r#"route="/pay/{id}""#, r#"policy="required""#]);
        has(&first, &["record idempotency", r#"outcome="stored""#]);
        has(&first, &["record idempotency", "record=RecordId("]);
        has(&first, &["record idempotency", "attempt=1"]);
        has(&first, &[r#"event in ["idempotency"]"#, r#"outcome="stored""#, "stored_bytes="]);
        send(&app, post("/pay/17", Some("a-secret-key"))).await;
        let second = notes.take();
        has(&second, &["event in", r#"outcome="replayed""#]);
        assert!(!format!("{first}{second}").contains("secret"), "{first}{second}");
    });
}

/// Events of an operation whose client has left still belong to the span of its request.
#[test]
fn the_span_of_the_request_is_the_parent_of_a_run_that_outlives_it() {
    alone(|| async {
        let notes = Notes::default();
        let _default = notes.listen();
        let gate = Arc::new(tokio::sync::Notify::new());
        let (inside, done) = (gate.clone(), Arc::new(tokio::sync::Notify::new()));
        let ended = done.clone();
        let handler = move || {
            let (gate, done) = (inside.clone(), ended.clone());
            async move {
                gate.notified().await;
                tracing::info!("the money moves");
                done.notify_one();
                HttpResponse::Created().finish()
            }
        };
        let app = init_service(
            App::new()
                .app_data(web::Data::new(Idempotency::in_memory()))
                .wrap(IdempotencyKey::default())
                .route("/pay", web::post().to(handler)),
        )
        .await;
        let mut call =
            Box::pin(app.call(post("/pay", Some("k")).to_request()).instrument(tracing::info_span!("request")));
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        gate.notify_one();
        done.notified().await;
        rt::task::yield_now().await;
        let notes = notes.take();
        has(&notes, &[r#"event in ["idempotency", "request"]"#, "the money moves"]);
        has(&notes, &[r#"event in ["idempotency", "request"]"#, r#"outcome="stored""#]);
    });
}
