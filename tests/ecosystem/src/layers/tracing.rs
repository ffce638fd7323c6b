//! tracing-actix-web.

use std::{fmt, sync::Once};

use actix_web::{Error, HttpRequest};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_actix_web::TracingLogger;
use tracing_subscriber::{Layer as Collector, layer::Context, prelude::*, registry::LookupSpan};

use super::{Layer, Log, log_of_worker};
use crate::erased::Erased;

pub(super) struct Spans(Log);

impl Default for Spans {
    fn default() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| tracing_subscriber::registry().with(Collect).init());
        Self(Log::default())
    }
}

impl Layer for Spans {
    fn wrap(&self) -> Erased {
        Erased::new(TracingLogger::default())
    }

    fn touch(&self, _request: &HttpRequest) -> Result<(), Error> {
        tracing::info!(target: "handler", "paid");
        Ok(())
    }

    fn seen(&self) -> Vec<String> {
        self.0.take()
    }

    fn log(&self) -> Option<Log> {
        Some(self.0.clone())
    }
}

/// Logs the spans of requests when they close, and the events of handlers with the spans in which they happen.
struct Collect;

/// A span under way.
struct Open {
    log: Log,
    fields: Fields,
}

/// The fields of a span that are the same in every run.
#[derive(Default)]
struct Fields(Vec<String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if ["http.route", "http.method", "http.status_code", "otel.status_code"].contains(&field.name()) {
            self.0.push(format!("{} {value:?}", field.name()));
        }
    }
}

const OF_REQUESTS: &str = "HTTP request";

impl<S: Subscriber + for<'a> LookupSpan<'a>> Collector<S> for Collect {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let (Some(log), OF_REQUESTS) = (log_of_worker(), attributes.metadata().name()) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).expect("a new span").extensions_mut().insert(Open { log, fields });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("a living span");
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut open.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (Some(log), "handler") = (log_of_worker(), event.metadata().target()) else { return };
        let spans: Vec<_> = context.event_scope(event).into_iter().flatten().map(|span| span.name()).collect();
        let inside = if spans.contains(&OF_REQUESTS) { "in" } else { "outside of" };
        log.push(format!("an event {inside} the span of a request"));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("a closing span");
        if let Some(open) = span.extensions().get::<Open>() {
            open.log.push(format!("closed: {}", open.fields.0.join(", ")));
        }
    }
}
