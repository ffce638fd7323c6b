//! sentry-actix: a transaction for each request, and an event for each failure.

use std::sync::Arc;

use actix_web::{Error, HttpRequest};
use sentry::{
    Client, ClientOptions, Hub, Level, Scope,
    protocol::{Context, EnvelopeItem},
    test::TestTransport,
};

use super::Layer;
use crate::erased::Erased;

pub(super) struct Sentry {
    transport: Arc<TestTransport>,
    hub: Arc<Hub>,
}

impl Default for Sentry {
    fn default() -> Self {
        let transport = TestTransport::new();
        let options = ClientOptions::new().dsn("https://public@sentry.invalid/1").transport(transport.clone());
        let client = Client::from(options.traces_sample_rate(1.0));
        Self { transport, hub: Arc::new(Hub::new(Some(Arc::new(client)), Arc::new(Scope::default()))) }
    }
}

impl Layer for Sentry {
    fn wrap(&self) -> Erased {
        let builder = sentry_actix::Sentry::builder().with_hub(self.hub.clone()).start_transaction(true);
        Erased::new(builder.finish())
    }

    fn touch(&self, _request: &HttpRequest) -> Result<(), Error> {
        sentry::capture_message("paid", Level::Info);
        Ok(())
    }

    fn seen(&self) -> Vec<String> {
        let envelopes = self.transport.fetch_and_clear_envelopes();
        envelopes.iter().flat_map(|envelope| envelope.items()).map(line).collect()
    }
}

fn line(item: &EnvelopeItem) -> String {
    match item {
        EnvelopeItem::Event(event) => {
            let exceptions: Vec<_> =
                event.exception.iter().filter_map(|exception| exception.value.as_deref()).collect();
            let text = event.message.as_deref().unwrap_or_default();
            let method = event.request.as_ref().and_then(|request| request.method.as_deref());
            format!("event: {text}{} in {method:?}", exceptions.join(" "))
        }
        EnvelopeItem::Transaction(transaction) => {
            let status = match transaction.contexts.get("trace") {
                Some(Context::Trace(trace)) => format!("{:?}", trace.status),
                _ => "no trace".into(),
            };
            format!("transaction {} ended: {status}", transaction.name.as_deref().unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}
