//! What became of requests, for those who watch: the log, metrics, and listeners of one's own.

use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use actix_web::http::Method;

use super::metrics;
use crate::{key::RecordId, policy::Policy};

/// What became of a request; with `mode = observe`, what would have become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It ran, and its response is stored.
    Stored,
    /// It ran; its response is none that is stored, and the key is free. (With `lock.enable = false` also: the store could
    /// not be asked afterwards.)
    NotStored,
    /// It ran; the store could not take the response in time, and the write goes on behind.
    WrittenBehind,
    /// It ran too long, or without a lock: another owner's response stands.
    Superseded,
    /// Its handler panicked.
    Panicked,
    /// Its client left before anything ran, or while it ran and `on_disconnect = cancel`.
    Abandoned,
    /// It ran unprotected: the store could not answer, and `storage.on_error = run`.
    Unprotected,
    /// It ran unprotected, without a key, where the policy lets it.
    Keyless,
    /// It got the stored response.
    Replayed,
    /// Refused: `in-flight`.
    InFlight,
    /// Refused: `key-reused`.
    KeyReused,
    /// Refused: `missing-key`.
    MissingKey,
    /// Refused: `invalid-key`.
    InvalidKey,
    /// Refused: `body-too-large`.
    BodyTooLarge,
    /// Refused: its body could not be read to its end.
    UnreadableBody,
    /// Refused: `store-unavailable`.
    StoreUnavailable,
    /// Refused as `store-unavailable`: more operations run than `limits.max_in_flight`.
    Overloaded,
    /// Refused: `outcome-unknown`.
    OutcomeUnknown,
    /// Refused: `shutting-down`.
    ShuttingDown,
}

impl Outcome {
    /// As it stands in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::NotStored => "not-stored",
            Self::WrittenBehind => "written-behind",
            Self::Superseded => "superseded",
            Self::Panicked => "panicked",
            Self::Abandoned => "abandoned",
            Self::Unprotected => "unprotected",
            Self::Keyless => "keyless",
            Self::Replayed => "replayed",
            Self::InFlight => "in-flight",
            Self::KeyReused => "key-reused",
            Self::MissingKey => "missing-key",
            Self::InvalidKey => "invalid-key",
            Self::BodyTooLarge => "body-too-large",
            Self::UnreadableBody => "unreadable-body",
            Self::StoreUnavailable => "store-unavailable",
            Self::Overloaded => "overloaded",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::ShuttingDown => "shutting-down",
        }
    }
}

/// What is known of a request when its outcome is. Holds no key.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Report<'a> {
    /// What became of it.
    pub outcome: Outcome,
    /// `false` with `mode = observe`: it ran, and the outcome is what would have been.
    pub enforced: bool,
    /// The method.
    pub method: &'a Method,
    /// The pattern of its route. `None`: it matches no resource.
    pub route: Option<&'a str>,
    /// The policy that governed it.
    pub policy: Policy,
    /// The cache of its record.
    pub cache: &'a str,
    /// Its record, when it got so far.
    pub record: Option<RecordId>,
    /// How often its key was claimed, with this time. 0: no claim.
    pub attempt: u32,
    /// Whether it took over from a lost owner.
    pub taken_over: bool,
    /// How long it waited for another request of its key.
    pub waited: Duration,
    /// From its arrival to this moment.
    pub took: Duration,
    /// The size of the record that was written for it.
    pub stored_bytes: Option<usize>,
}

/// Hears of every request that an instance governed, once, when its outcome is known. Registered with
/// [`Builder::listener`](crate::app::Builder::listener); closures are listeners.
///
/// It is called on the request's worker and is to be quick: hand on what takes time.
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
    /// A request's outcome is known.
    fn hear(&self, report: &Report<'_>);
}

impl<F: Fn(&Report<'_>) + Send + Sync + 'static> Listener for F {
    fn hear(&self, report: &Report<'_>) {
        self(report);
    }
}

/// Those who watch the requests of one `Idempotency`.
#[derive(Default)]
pub(crate) struct Watch {
    listeners: Vec<Box<dyn Listener>>,
}

impl Watch {
    pub(crate) fn add(&mut self, listener: Box<dyn Listener>) {
        self.listeners.push(listener);
    }

    /// Whether anybody would hear a report. Making one costs something.
    pub(crate) fn is_watched(&self) -> bool {
        !self.listeners.is_empty() || metrics::ENABLED || tracing::enabled!(tracing::Level::INFO)
    }

    pub(crate) fn tell(&self, report: &Report<'_>) {
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
        metrics::request(report);
        for listener in &self.listeners {
            // It may be told from a drop, and a request's answer is not to depend on it.
            if std::panic::catch_unwind(AssertUnwindSafe(|| listener.hear(report))).is_err() {
                tracing::error!("a listener panicked");
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({} listeners)", self.listeners.len())
    }
}
