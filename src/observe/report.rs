//! One report per governed request, and who receives it: the log, metrics, and the application's listeners.

use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use actix_web::http::Method;

use super::{Outcome, metrics};
use crate::{key::RecordId, policy::Policy};

/// Everything that is known of a request when its outcome is known. It holds no key.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Report<'a> {
    /// The outcome.
    pub outcome: Outcome,
    /// `false` with `mode = observe`: the request ran, and the outcome is what would have become of it.
    pub enforced: bool,
    /// The method.
    pub method: &'a Method,
    /// The pattern of its route. `None`: the request matches no resource.
    pub route: Option<&'a str>,
    /// The policy that governed the request.
    pub policy: Policy,
    /// The cache that keeps its record.
    pub cache: &'a str,
    /// The id of its record. `None`: the request was refused before its id was known.
    pub record: Option<RecordId>,
    /// How often its key was claimed, this time included. 0: no claim.
    pub attempt: u32,
    /// Whether the request took over from a lost owner.
    pub taken_over: bool,
    /// How long the request waited for another one of its key.
    pub waited: Duration,
    /// The time from its arrival to this report.
    pub took: Duration,
    /// The size of the record that was written for it.
    pub stored_bytes: Option<usize>,
}

/// Receives one report for every governed request, when its outcome is known. Registered with
/// [`Builder::listener`](crate::Builder::listener); closures are listeners.
///
/// A listener is called on the request's worker, so it should be quick: hand on what takes time.
///
/// ```
/// use actix_idempotency::{Idempotency, observe::{Outcome, Report}};
///
/// let idempotency = Idempotency::builder()
///     .listener(|report: &Report<'_>| {
///         if report.outcome == Outcome::KeyReused {
///             println!("a client reuses keys on {:?}", report.route);
///         }
///     })
///     .build()?;
/// # let _ = idempotency;
/// # Ok::<(), actix_idempotency::ConfigError>(())
/// ```
pub trait Listener: Send + Sync + 'static {
    /// Called once per governed request, when its outcome is known.
    fn on_outcome(&self, report: &Report<'_>);
}

impl<F: Fn(&Report<'_>) + Send + Sync + 'static> Listener for F {
    fn on_outcome(&self, report: &Report<'_>) {
        self(report);
    }
}

/// Everybody who receives the reports of one `Idempotency`.
#[derive(Default)]
pub(crate) struct Observers {
    listeners: Vec<Box<dyn Listener>>,
}

impl Observers {
    pub(crate) fn add(&mut self, listener: Box<dyn Listener>) {
        self.listeners.push(listener);
    }

    /// Whether anybody would receive a report. Making one costs something.
    pub(crate) fn any(&self) -> bool {
        !self.listeners.is_empty() || metrics::ENABLED || tracing::enabled!(tracing::Level::INFO)
    }

    pub(crate) fn report(&self, report: &Report<'_>) {
        tracing::debug!(
            outcome = report.outcome.name(),
            enforced = report.enforced,
            method = %report.method,
            route = report.route,
            policy = report.policy.name(),
            cache = report.cache,
            record = report.record.map(tracing::field::debug),
            attempt = report.attempt,
            waited = ?report.waited,
            took = ?report.took,
            stored_bytes = report.stored_bytes,
            "governed"
        );
        metrics::request(&metrics::Request {
            outcome: report.outcome.name(),
            route: report.route,
            enforced: report.enforced,
            waited: report.waited,
            stored_bytes: report.stored_bytes,
            taken_over: report.taken_over,
        });
        for listener in &self.listeners {
            // The report may come from a destructor, and a request's answer must not depend on a listener.
            if std::panic::catch_unwind(AssertUnwindSafe(|| listener.on_outcome(report))).is_err() {
                tracing::error!("a listener panicked");
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({} listeners)", self.listeners.len())
    }
}
