//! Counters, gauges and histograms through the `metrics` facade. Without the feature every function here is empty.
//!
//! The functions take plain values, so that nothing below this folder is needed to count.

use std::time::Duration;

#[cfg(feature = "metrics")]
pub(crate) use self::facade::*;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::nothing::*;

/// The part of a record that a full memory store gave up: the body of a completed record, all of it, or a record without
/// a response.
#[derive(Clone, Copy)]
pub(crate) enum Evicted {
    Body,
    Record,
    Unfinished,
}

/// One write-behind under way: of a response, or of the release of a claim.
pub(crate) struct WriteBehind(());

/// A transaction of a handler, from its BEGIN until it is committed or rolled back.
#[derive(Debug)]
pub(crate) struct OpenTransaction(#[cfg(feature = "metrics")] std::time::Instant);

/// A governed request whose outcome is known.
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "only the facade reads it"))]
pub(crate) struct Request<'a> {
    pub(crate) outcome: &'static str,
    pub(crate) route: Option<&'a str>,
    pub(crate) enforced: bool,
    pub(crate) waited: Duration,
    pub(crate) stored_bytes: Option<usize>,
    pub(crate) taken_over: bool,
}

#[cfg(feature = "metrics")]
mod facade {
    use std::time::Instant;

    use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

    use super::{Evicted, OpenTransaction, Request, WriteBehind};

    pub(crate) const ENABLED: bool = true;

    const REQUESTS: &str = "idempotency_requests_total";
    const IN_FLIGHT: &str = "idempotency_in_flight";
    const WAITED: &str = "idempotency_wait_seconds";
    const STORE_CALLS: &str = "idempotency_store_seconds";
    const STORE_ERRORS: &str = "idempotency_store_errors_total";
    const STORED_BYTES: &str = "idempotency_stored_bytes";
    const EVICTIONS: &str = "idempotency_evictions_total";
    const LEASES_LOST: &str = "idempotency_leases_lost_total";
    const CLAIMS_RESTORED: &str = "idempotency_claims_restored_total";
    const UNFINISHED: &str = "idempotency_unfinished_total";
    const RESUMED: &str = "idempotency_resumed_total";
    const OTHER_SCHEMES: &str = "idempotency_other_schemes_total";
    const TAKE_OVERS: &str = "idempotency_take_overs_total";
    const WRITES_BEHIND: &str = "idempotency_writes_behind";
    const WRITES_LOST: &str = "idempotency_writes_lost_total";
    const TRANSACTIONS: &str = "idempotency_transactions";
    const TRANSACTION_SECONDS: &str = "idempotency_transaction_seconds";
    const SUPERSEDED: &str = "idempotency_transactions_superseded_total";
    const SETTLED: &str = "idempotency_commits_settled_total";
    const UNSETTLED: &str = "idempotency_commits_unknown_total";

    /// Describes every metric to the recorder, which must be installed before.
    pub(crate) fn describe() {
        describe_counter!(REQUESTS, "Requests under a wrap that named an outcome, by outcome");
        describe_gauge!(IN_FLIGHT, "Protected operations from before their body is read, writes behind included");
        describe_histogram!(WAITED, Unit::Seconds, "How long duplicates waited for the first request");
        describe_histogram!(STORE_CALLS, Unit::Seconds, "How long a call to the store took");
        describe_counter!(STORE_ERRORS, "Calls to the store that failed or were not answered in time");
        describe_histogram!(STORED_BYTES, Unit::Bytes, "The size of records that were written");
        describe_counter!(EVICTIONS, "What a full memory store gave up: bodies, completed records, or unfinished ones");
        describe_counter!(LEASES_LOST, "Leases that another owner had taken when they were to be renewed");
        describe_counter!(CLAIMS_RESTORED, "Claims of running operations that the store lost and took back");
        describe_counter!(
            OTHER_SCHEMES,
            "Keys that were compared by method and path only, since settings have changed"
        );
        describe_counter!(UNFINISHED, "Runs that ended without a stored response and left steps for the next one");
        describe_counter!(RESUMED, "Runs that found steps of an earlier one");
        describe_counter!(TAKE_OVERS, "Operations that ran because an earlier owner was lost");
        describe_gauge!(WRITES_BEHIND, "Writes that the store could not take in time and that are tried again");
        describe_counter!(WRITES_LOST, "Responses of finished operations that could not be stored at all");
        describe_gauge!(TRANSACTIONS, "Open transactions of handlers, each of which holds a connection");
        describe_histogram!(TRANSACTION_SECONDS, Unit::Seconds, "How long a transaction of a handler was open");
        describe_counter!(SUPERSEDED, "Transactions that were rolled back because another run was committed first");
        describe_counter!(SETTLED, "COMMITs whose lost answer was found out");
        describe_counter!(UNSETTLED, "COMMITs whose lost answer could not be found out while the client waited");
    }

    pub(crate) fn request(request: &Request<'_>) {
        let route = request.route.unwrap_or("unmatched").to_owned();
        let mode = if request.enforced { "enforce" } else { "observe" };
        counter!(REQUESTS, "outcome" => request.outcome, "route" => route, "mode" => mode).increment(1);
        if !request.waited.is_zero() {
            histogram!(WAITED).record(request.waited);
        }
        if let Some(bytes) = request.stored_bytes {
            // Exact up to 2^53.
            #[expect(clippy::cast_precision_loss, reason = "no record is so large")]
            histogram!(STORED_BYTES).record(bytes as f64);
        }
        if request.taken_over {
            counter!(TAKE_OVERS).increment(1);
        }
    }

    pub(crate) fn operation_starts() {
        gauge!(IN_FLIGHT).increment(1);
    }

    pub(crate) fn operation_ends() {
        gauge!(IN_FLIGHT).decrement(1);
    }

    pub(crate) fn evicted(what: Evicted) {
        let what = match what {
            Evicted::Body => "body",
            Evicted::Record => "record",
            Evicted::Unfinished => "unfinished",
        };
        counter!(EVICTIONS, "what" => what).increment(1);
    }

    pub(crate) fn lease_lost() {
        counter!(LEASES_LOST).increment(1);
    }

    pub(crate) fn claim_restored() {
        counter!(CLAIMS_RESTORED).increment(1);
    }

    pub(crate) fn unfinished() {
        counter!(UNFINISHED).increment(1);
    }

    pub(crate) fn resumed() {
        counter!(RESUMED).increment(1);
    }

    pub(crate) fn other_scheme() {
        counter!(OTHER_SCHEMES).increment(1);
    }

    pub(crate) fn write_lost() {
        counter!(WRITES_LOST).increment(1);
    }

    pub(crate) fn superseded() {
        counter!(SUPERSEDED).increment(1);
    }

    pub(crate) fn settled() {
        counter!(SETTLED).increment(1);
    }

    pub(crate) fn unsettled() {
        counter!(UNSETTLED).increment(1);
    }

    impl OpenTransaction {
        pub(crate) fn begins() -> Self {
            gauge!(TRANSACTIONS).increment(1);
            Self(Instant::now())
        }
    }

    impl Drop for OpenTransaction {
        fn drop(&mut self) {
            gauge!(TRANSACTIONS).decrement(1);
            histogram!(TRANSACTION_SECONDS).record(self.0.elapsed());
        }
    }

    impl WriteBehind {
        pub(crate) fn starts() -> Self {
            gauge!(WRITES_BEHIND).increment(1);
            Self(())
        }
    }

    impl Drop for WriteBehind {
        fn drop(&mut self) {
            gauge!(WRITES_BEHIND).decrement(1);
        }
    }

    /// Times one store call until it is answered.
    pub(crate) struct CallTimer<'a> {
        cache: &'a str,
        call: &'static str,
        started: Instant,
    }

    impl<'a> CallTimer<'a> {
        pub(crate) fn starts(cache: &'a str, call: &'static str) -> Self {
            Self { cache, call, started: Instant::now() }
        }

        pub(crate) fn ends<T, E>(self, answer: &Result<T, E>) {
            histogram!(STORE_CALLS, "cache" => self.cache.to_owned(), "call" => self.call)
                .record(self.started.elapsed());
            if answer.is_err() {
                counter!(STORE_ERRORS, "cache" => self.cache.to_owned(), "call" => self.call).increment(1);
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod nothing {
    use std::marker::PhantomData;

    use super::{Evicted, OpenTransaction, Request, WriteBehind};

    pub(crate) const ENABLED: bool = false;

    pub(crate) const fn describe() {}
    pub(crate) const fn request(_: &Request<'_>) {}
    pub(crate) const fn operation_starts() {}
    pub(crate) const fn operation_ends() {}
    pub(crate) const fn evicted(_: Evicted) {}
    pub(crate) const fn lease_lost() {}
    pub(crate) const fn claim_restored() {}
    pub(crate) const fn unfinished() {}
    pub(crate) const fn resumed() {}
    pub(crate) const fn other_scheme() {}
    pub(crate) const fn write_lost() {}
    pub(crate) const fn superseded() {}
    pub(crate) const fn settled() {}
    pub(crate) const fn unsettled() {}

    impl OpenTransaction {
        pub(crate) const fn begins() -> Self {
            Self()
        }
    }

    impl WriteBehind {
        pub(crate) const fn starts() -> Self {
            Self(())
        }
    }

    pub(crate) struct CallTimer<'a>(PhantomData<&'a str>);

    impl<'a> CallTimer<'a> {
        pub(crate) const fn starts(_: &'a str, _: &'static str) -> Self {
            Self(PhantomData)
        }

        #[expect(clippy::unused_self, reason = "as with the feature")]
        pub(crate) const fn ends<T, E>(self, _: &Result<T, E>) {}
    }
}
