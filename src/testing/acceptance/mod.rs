//! The acceptance suite: the rules that every store must follow.
#![allow(clippy::needless_pass_by_value, clippy::unchecked_time_subtraction, reason = "short checks of constants")]

mod atomic;
mod every_store;
mod lost_owners;

use std::{fmt::Debug, time::Duration};

use actix_web::http::StatusCode;

use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, IfCompleted, Inspection, OwnerToken, ReleaseAs,
        Renewal, Store,
    },
};

const LEASE: Duration = Duration::from_secs(1_000);
const TTL: Duration = Duration::from_secs(10_000);
/// Real clocks may go on by this much during a test.
const SLACK: Duration = Duration::from_secs(100);

/// A store under test, and the function that makes time pass for it.
struct Subject<S, A> {
    store: S,
    advance: A,
}

/// Runs the acceptance suite on a store.
///
/// `make` returns an empty store and a function that makes time pass for it; it is called once per rule. Time passes in
/// steps of minutes to hours, so the suite needs a store whose clock can be steered.
///
/// # Panics
/// With the first rule that the store breaks.
///
/// ```
/// use actix_idempotency::{store::{Clock, MemoryLimits, MemoryStore}, testing::accept_store};
///
/// # actix_web::rt::System::new().block_on(async {
/// accept_store(async || {
///     let clock = Clock::steered();
///     let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
///     (store, move |by| clock.advance(by))
/// })
/// .await;
/// # });
/// ```
pub async fn accept_store<S: Store, A: Fn(Duration)>(make: impl AsyncFn() -> (S, A)) {
    accept_composed_store(&make).await;
    subject(&make).await.compares_fingerprints_in_every_state().await;
    subject(&make).await.counts_attempts_and_tells_of_lost_owners().await;
    subject(&make).await.bars_a_key_whose_owner_was_lost().await;
    subject(&make).await.lets_an_owner_complete_a_record_that_is_gone().await;
    subject(&make).await.compares_only_the_target_with_another_scheme().await;
    subject(&make).await.lists_in_pages().await;
    subject(&make).await.tells_how_long_a_record_remains_and_how_it_was_used().await;
    subject(&make).await.leaves_a_record_to_others_when_a_manual_owner_is_lost().await;
    subject(&make).await.fences_grow().await;
    subject(&make).await.waits_for_an_owner_whose_lease_is_over().await;
    subject(&make).await.takes_over_after_the_grace().await;
    subject(&make).await.starts_the_grace_when_an_operator_forgets().await;
    subject(&make).await.remembers_a_lost_owner_until_a_response_is_stored().await;
    subject(&make).await.takes_a_late_response_where_nobody_holds_the_key().await;
    subject(&make).await.remembers_a_response_that_was_not_stored().await;
    subject(&make).await.restores_a_claim_that_the_store_lost().await;
    subject(&make).await.refuses_a_restoration_that_comes_late().await;
    subject(&make).await.keeps_saved_steps_for_the_next_attempt().await;
    subject(&make).await.lets_a_step_without_an_effect_start_again().await;
    subject(&make).await.bounds_the_steps_of_a_record().await;
    subject(&make).await.says_that_it_saves_steps();
}

/// As [`accept_store`], without the rules that a [`ComposedStore`](crate::store::ComposedStore) can't follow.
///
/// # Panics
/// With the first rule that the store breaks.
pub async fn accept_composed_store<S: Store, A: Fn(Duration)>(make: impl AsyncFn() -> (S, A)) {
    subject(&make).await.claims_before_run().await;
    subject(&make).await.answers_with_what_was_completed().await;
    subject(&make).await.may_be_asked_again_with_the_same_token().await;
    subject(&make).await.frees_what_is_released().await;
    subject(&make).await.ends_leases_and_extends_them().await;
    subject(&make).await.refuses_stale_writers().await;
    subject(&make).await.accepts_an_owner_whom_nobody_replaced().await;
    subject(&make).await.expires_records_from_completion().await;
    subject(&make).await.keeps_a_record_beneath_a_manual_claim().await;
    subject(&make).await.forgets_records_and_not_claims().await;
    subject(&make).await.gives_a_response_to_its_own_operation_only().await;
    subject(&make).await.keeps_keys_apart().await;
}

async fn subject<S: Store, A: Fn(Duration)>(make: &impl AsyncFn() -> (S, A)) -> Subject<S, A> {
    let (store, advance) = make().await;
    Subject { store, advance }
}

const fn operation(payload: u8) -> Fingerprint {
    let mut bytes = [1; Fingerprint::LENGTH];
    bytes[Fingerprint::LENGTH - 1] = payload;
    Fingerprint::from_bytes(bytes)
}

fn asking(key: u8, fingerprint: Fingerprint) -> BeginRequest {
    let request = BeginRequest::new(RecordId::from_bytes([key; 32]), fingerprint, OwnerToken::random());
    request.lease(LEASE).keep(TTL)
}

fn ask(key: u8) -> BeginRequest {
    asking(key, operation(1))
}

fn other_payload(key: u8) -> BeginRequest {
    asking(key, operation(2))
}

fn again(key: u8) -> BeginRequest {
    ask(key).if_completed(IfCompleted::Rerun)
}

fn record(n: u8) -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[n]))
}

#[track_caller]
fn same<T: PartialEq + Debug>(rule: &str, got: T, expected: T) {
    assert_eq!(got, expected, "{rule}; the store's answer is the left");
}

impl<S: Store, A: Fn(Duration)> Subject<S, A> {
    async fn begin(&self, request: &BeginRequest) -> Begin {
        self.store.begin(request).await.expect("begin answers")
    }

    async fn acquire(&self, rule: &str, request: &BeginRequest) -> Acquired {
        match self.begin(request).await {
            Begin::Acquired(acquired) => acquired,
            other => panic!("{rule}: expected a claim, got {other:?}"),
        }
    }

    async fn claim(&self, rule: &str, request: &BeginRequest) -> (Claim, Option<Record>) {
        let acquired = self.acquire(rule, request).await;
        (acquired.claim, acquired.previous)
    }

    async fn seen(&self, key: u8) -> Option<Inspection> {
        self.store.inspect(&ask(key).id).await.expect("inspect answers")
    }

    async fn in_flight(&self, rule: &str, request: &BeginRequest) {
        let answer = self.begin(request).await;
        assert!(matches!(answer, Begin::InFlight(_)), "{rule}: expected in flight, got {answer:?}");
    }

    async fn completed(&self, rule: &str, request: &BeginRequest, expected: u8) {
        match self.begin(request).await {
            Begin::Completed(found) => same(rule, found.record, record(expected)),
            other => panic!("{rule}: expected a completed record, got {other:?}"),
        }
    }

    async fn mismatch(&self, rule: &str, request: &BeginRequest) {
        let answer = self.begin(request).await;
        assert!(matches!(answer, Begin::Mismatch), "{rule}: expected a mismatch, got {answer:?}");
    }

    async fn complete(&self, claim: &Claim, n: u8) -> Completion {
        self.store.complete(claim, &record(n), TTL).await.expect("complete answers")
    }

    async fn renew(&self, claim: &Claim) -> Renewal {
        self.store.renew(claim, LEASE).await.expect("renew answers")
    }

    async fn release(&self, claim: &Claim, release_as: ReleaseAs) {
        self.store.release(claim, release_as).await.expect("release answers");
    }

    async fn forget(&self, key: u8) -> Forgotten {
        self.store.forget(&ask(key).id).await.expect("forget answers")
    }

    fn passes(&self, time: Duration) {
        (self.advance)(time);
    }
}
