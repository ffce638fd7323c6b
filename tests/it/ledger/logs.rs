//! What operators learn from the log of a transaction that was misused.

use std::sync::{Arc, Mutex};

use actix_idempotency::ledger::Tx;
use actix_web::web;

use super::common::{Counts, Faulty, World, ask, serve};
use crate::common::in_process::alone;

/// What is logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_misuse_is_logged_wherever_it_is_met() {
    alone(|| async {
        // Without a global subscriber, call sites that other threads have met first stay disabled.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _listening = tracing::subscriber::set_default(subscriber);
        let world = World::new();
        let two =
            |mut tx: Tx<Faulty>, _other: Tx<Faulty>, counts: web::Data<Counts>| async move { counts.pay(&mut tx) };
        let app = serve!(world, world.wrap().exempt("/exempt"), "/two" => two, "/exempt" => two);
        let plain = serve!(world, world.wrap_without_ledger(), "/plain" => two);
        ask(&*app, "/two", "k").await.is_problem(500, "transaction-misused");
        ask(&*app, "/exempt", "k").await.is_problem(500, "transaction-misused");
        ask(&*plain, "/plain", "k").await.is_problem(500, "transaction-misused");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        for path in ["/two", "/exempt", "/plain"] {
            assert!(text.lines().any(|line| line.contains("ERROR") && line.contains(path)), "{path}: {text}");
        }
    });
}
