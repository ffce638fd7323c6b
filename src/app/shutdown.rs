//! Shutdown waits for protected operations, also for operations whose client has left and which actix-web does not
//! know.

use std::future::Future;

use super::Idempotency;
use crate::claim::InFlight;

impl Idempotency {
    /// A signal for [`HttpServer::shutdown_signal`](actix_web::HttpServer::shutdown_signal).
    ///
    /// Waits for SIGTERM or SIGINT; then refuses new protected requests with `503 shutting-down`, and waits for the
    /// operations in flight for at most `limits.drain_timeout`, or until a second signal. Then actix-web stops.
    ///
    /// An operation that goes on after its client has left is a task that actix-web's own graceful shutdown does not
    /// wait for.
    pub fn shutdown_signal(&self) -> impl Future<Output = ()> + Send + 'static {
        let in_flight = self.shared().in_flight.clone();
        let limit = self.settings().limits.drain_timeout;
        async move {
            termination().await;
            in_flight.close();
            let running = in_flight.running();
            tracing::info!(running, "shutting down: waiting for protected operations");
            tokio::select! {
                is_idle = in_flight.idle(limit) => warn_unless(is_idle, &in_flight),
                () = termination() => warn_unless(false, &in_flight),
            }
        }
    }

    /// Drains this process, for an application that handles signals itself.
    ///
    /// From its first poll on, new protected requests are refused. Resolves when no operation is in flight any more, at
    /// the latest after `limits.drain_timeout`. Stop the server afterwards.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + 'static {
        let in_flight = self.shared().in_flight.clone();
        let limit = self.settings().limits.drain_timeout;
        async move {
            in_flight.close();
            let is_idle = in_flight.idle(limit).await;
            warn_unless(is_idle, &in_flight);
        }
    }

    /// How many protected operations are in flight, write-behinds included.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared().in_flight.running()
    }
}

fn warn_unless(is_idle: bool, in_flight: &InFlight) {
    if !is_idle {
        tracing::warn!(running = in_flight.running(), "shutdown does not wait any longer: operations are cut off");
    }
}

/// Resolves at SIGTERM or SIGINT.
async fn termination() {
    #[cfg(unix)]
    {
        use actix_web::rt::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = actix_web::rt::signal::ctrl_c() => return,
            }
        }
    }
    if actix_web::rt::signal::ctrl_c().await.is_err() {
        tracing::error!("no signals here: shut down by `drain()` instead");
        std::future::pending::<()>().await;
    }
}
