//! The acceptance suite: the rules that every store must follow.
#![allow(clippy::needless_pass_by_value, clippy::unchecked_time_subtraction, reason = "short checks of constants")]

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;

use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Found, IfCompleted, OnUnknown, OwnerToken, RecordState,
        ReleaseAs, Renewal, Store,
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
    subject(&make).await.lets_an_owner_restore_a_lost_record().await;
    subject(&make).await.lists_in_pages().await;
    subject(&make).await.tells_how_long_a_record_remains_and_how_it_was_used().await;
    subject(&make).await.leaves_a_record_to_others_when_a_manual_owner_is_lost().await;
    subject(&make).await.fences_grow().await;
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
    subject(&make).await.keeps_keys_apart().await;
}

async fn subject<S: Store, A: Fn(Duration)>(make: &impl AsyncFn() -> (S, A)) -> Subject<S, A> {
    let (store, advance) = make().await;
    Subject { store, advance }
}

fn ask(key: u8) -> BeginRequest {
    let request =
        BeginRequest::new(RecordId::from_bytes([key; 32]), Fingerprint::from_bytes([1; 32]), OwnerToken::random());
    request.lease(LEASE).keep(TTL)
}

fn other_payload(key: u8) -> BeginRequest {
    BeginRequest::new(RecordId::from_bytes([key; 32]), Fingerprint::from_bytes([2; 32]), OwnerToken::random())
        .lease(LEASE)
        .keep(TTL)
}

fn again(key: u8) -> BeginRequest {
    ask(key).if_completed(IfCompleted::Rerun)
}

fn record(n: u8) -> Record {
    // The format of a record: version, status 201, no headers, a body of one byte.
    Record::from_bytes(Bytes::from(vec![1, 251, 201, 0, 0, 1, 1, n])).expect("a well-formed record")
}

#[track_caller]
fn same<T: PartialEq + Debug>(rule: &str, got: T, expected: T) {
    assert_eq!(got, expected, "{rule}; the store's answer is the left");
}

impl<S: Store, A: Fn(Duration)> Subject<S, A> {
    async fn begin(&self, request: &BeginRequest) -> Begin {
        self.store.begin(request).await.expect("begin answers")
    }

    async fn claim(&self, rule: &str, request: &BeginRequest) -> (Claim, Option<Record>) {
        match self.begin(request).await {
            Begin::Acquired(acquired) => (acquired.claim, acquired.previous),
            other => panic!("{rule}: expected a claim, got {other:?}"),
        }
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

    async fn claims_before_run(&self) {
        let rule = "while one runs, its duplicates are in flight";
        self.claim(rule, &ask(1)).await;
        for _ in 0..3 {
            self.in_flight(rule, &ask(1)).await;
        }
    }

    async fn answers_with_what_was_completed(&self) {
        let rule = "a completed record answers, and is not claimed";
        let (claim, previous) = self.claim(rule, &ask(1)).await;
        same(rule, previous, None);
        same(rule, self.complete(&claim, 7).await, Completion::Stored);
        self.completed(rule, &ask(1), 7).await;
        self.mismatch("another payload is a mismatch", &other_payload(1)).await;
        self.completed("and leaves the record as it was", &ask(1), 7).await;
        let Begin::Completed(Found { remaining, .. }) = self.begin(&ask(1)).await else { panic!("{rule}") };
        assert!(remaining <= TTL && remaining > TTL - SLACK, "it says how long it remains: {remaining:?}");
    }

    async fn may_be_asked_again_with_the_same_token(&self) {
        let rule = "begin and complete may be repeated with the same token";
        let request = ask(1);
        let (first, _) = self.claim(rule, &request).await;
        let (second, _) = self.claim(rule, &request).await;
        same(rule, second.token, first.token);
        same(rule, second.attempt, first.attempt);
        self.in_flight(rule, &ask(1)).await;
        same(rule, self.complete(&first, 1).await, Completion::Stored);
        same(rule, self.complete(&first, 1).await, Completion::Stored);
        self.completed(rule, &request, 1).await;
    }

    async fn frees_what_is_released(&self) {
        let rule = "a released key is free, whoever asks";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.release(&claim, ReleaseAs::Free).await;
        self.release(&claim, ReleaseAs::Free).await;
        self.claim(rule, &other_payload(1)).await;
    }

    async fn ends_leases_and_extends_them(&self) {
        let rule = "a claim lasts for its lease, and as long as it is renewed";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        for _ in 0..5 {
            self.passes(LEASE - SLACK);
            self.in_flight(rule, &ask(1)).await;
            same(rule, self.renew(&claim).await, Renewal::Extended);
        }
        self.passes(LEASE - SLACK);
        self.in_flight(rule, &ask(1)).await;
        self.passes(SLACK);
        self.claim("a lease that ended can be taken over", &ask(1)).await;
    }

    async fn refuses_stale_writers(&self) {
        let rule = "an owner that was replaced can neither renew, release nor complete";
        let (late, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE);
        let (taker, _) = self.claim(rule, &ask(1)).await;
        same(rule, self.renew(&late).await, Renewal::Lost);
        self.release(&late, ReleaseAs::Free).await;
        self.in_flight(rule, &ask(1)).await;
        same(rule, self.complete(&late, 1).await, Completion::Superseded(None));
        same(rule, self.complete(&taker, 2).await, Completion::Stored);
        self.release(&late, ReleaseAs::Free).await;
        same("and gets the record that stands", self.complete(&late, 1).await, Completion::Superseded(Some(record(2))));
        self.completed(rule, &ask(1), 2).await;
    }

    async fn accepts_an_owner_whom_nobody_replaced(&self) {
        let rule = "a lease that ended and that nobody took is still its owner's";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE + SLACK);
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
        self.completed(rule, &ask(1), 1).await;
    }

    async fn expires_records_from_completion(&self) {
        let rule = "the TTL counts from completion, and nothing prolongs it";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE / 2);
        self.complete(&claim, 1).await;
        self.passes(TTL - SLACK);
        self.completed(rule, &ask(1), 1).await;
        self.passes(SLACK);
        self.claim("after the TTL the key is new", &other_payload(1)).await;
        self.in_flight("and claimed once", &other_payload(1)).await;
    }

    async fn keeps_a_record_beneath_a_manual_claim(&self) {
        let rule = "a manual claim finds the record, and keeps it beneath";
        let (first, _) = self.claim(rule, &again(1)).await;
        self.complete(&first, 1).await;
        let (second, previous) = self.claim(rule, &again(1)).await;
        same(rule, previous, Some(record(1)));
        self.in_flight("manual duplicates run one at a time", &again(1)).await;
        self.release(&second, ReleaseAs::Free).await;
        self.completed("release restores the record", &ask(1), 1).await;
        let (third, _) = self.claim(rule, &again(1)).await;
        self.passes(LEASE / 2);
        same(rule, self.complete(&third, 3).await, Completion::Stored);
        self.passes(TTL - LEASE / 4);
        self.completed("complete replaces it, its TTL anew", &ask(1), 3).await;
        self.mismatch("another payload is a mismatch here too", &other_payload(1).if_completed(IfCompleted::Rerun))
            .await;
    }

    async fn forgets_records_and_not_claims(&self) {
        let rule = "an operator can forget a record, and not a live claim";
        same(rule, self.forget(1).await, Forgotten::Absent);
        let (claim, _) = self.claim(rule, &ask(1)).await;
        same(rule, self.forget(1).await, Forgotten::InFlight);
        self.complete(&claim, 1).await;
        same(rule, self.forget(1).await, Forgotten::Removed);
        same(rule, self.forget(1).await, Forgotten::Absent);
        self.claim(rule, &other_payload(1)).await;
    }

    async fn keeps_keys_apart(&self) {
        let rule = "keys don't know of each other";
        let mut claims = Vec::new();
        for key in 0..20 {
            claims.push(self.claim(rule, &ask(key)).await.0);
        }
        for (key, claim) in (0..).zip(&claims) {
            self.complete(claim, key).await;
        }
        for key in 0..20 {
            self.completed(rule, &ask(key), key).await;
        }
    }

    async fn compares_fingerprints_in_every_state(&self) {
        let rule = "another payload is a mismatch, also while the first runs and when its owner was lost";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.mismatch(rule, &other_payload(1)).await;
        self.passes(LEASE);
        self.mismatch(rule, &other_payload(1)).await;
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
    }

    async fn counts_attempts_and_tells_of_lost_owners(&self) {
        let rule = "attempts count, and whoever takes over is told";
        let (first, _) = self.claim(rule, &ask(1)).await;
        same(rule, (first.attempt, first.taken_over), (1, false));
        self.passes(LEASE);
        let seen = self.store.inspect(&first.id).await.expect("inspect answers").expect("a lost claim stays visible");
        same(rule, seen.state, RecordState::OwnerLost);
        let (second, _) = self.claim(rule, &ask(1)).await;
        same(rule, (second.attempt, second.taken_over), (2, true));
        self.complete(&second, 1).await;
        let (third, _) = self.claim(rule, &again(1)).await;
        same("a manual claim takes nothing over", (third.attempt, third.taken_over), (3, false));
    }

    async fn bars_a_key_whose_owner_was_lost(&self) {
        let rule = "with on_unknown = reject a lost owner bars the key until it is forgotten";
        let rejecting = || ask(1).on_unknown(OnUnknown::Reject);
        let (claim, _) = self.claim(rule, &rejecting()).await;
        self.release(&claim, ReleaseAs::Unknown).await;
        for _ in 0..2 {
            let answer = self.begin(&rejecting()).await;
            assert!(matches!(answer, Begin::OwnerLost), "{rule}, got {answer:?}");
            self.passes(LEASE);
        }
        same(rule, self.forget(1).await, Forgotten::Removed);
        self.claim(rule, &rejecting()).await;
        self.passes(LEASE + TTL);
        self.claim("and not for ever", &other_payload(1)).await;
    }

    async fn lets_an_owner_restore_a_lost_record(&self) {
        let rule = "an owner whose record got lost stores its response all the same";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE);
        same(rule, self.forget(1).await, Forgotten::Removed);
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
        self.completed(rule, &ask(1), 1).await;
    }

    async fn lists_in_pages(&self) {
        let rule = "records are listed in pages, each once";
        for key in 0..25 {
            let (claim, _) = self.claim(rule, &ask(key)).await;
            self.complete(&claim, key).await;
        }
        self.claim(rule, &ask(100)).await;
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.list(after, 10).await.expect("list answers");
            assert!(page.len() <= 10, "{rule}");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|inspection| inspection.id));
        }
        let mut once = seen.clone();
        once.sort_unstable();
        once.dedup();
        same("pages go by ascending ids", &once, &seen);
        same(rule, once.len(), 26);
    }

    async fn tells_how_long_a_record_remains_and_how_it_was_used(&self) {
        let rule = "a record tells how long it remains, and what it can of its use";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        let seen = self.store.inspect(&claim.id).await.expect("inspect answers").expect("a claim is seen");
        same(rule, (seen.state, seen.attempt), (RecordState::InFlight, 1));
        assert!(seen.owner.is_none_or(|owner| owner == claim.token), "{rule}: another owner");
        let first = seen.first_seen;
        self.complete(&claim, 1).await;
        self.passes(TTL / 2);
        for _ in 0..2 {
            let Begin::Completed(Found { remaining, .. }) = self.begin(&ask(1)).await else {
                panic!("{rule}: the record is there")
            };
            assert!(remaining <= TTL / 2 && remaining > TTL / 2 - SLACK, "{rule}: {remaining:?}");
        }
        let seen = self.store.inspect(&claim.id).await.expect("inspect answers").expect("a record is seen");
        assert!(seen.remaining <= TTL / 2 && seen.remaining > TTL / 2 - SLACK, "{rule}: {:?}", seen.remaining);
        assert!(seen.owner.is_none_or(|owner| owner == claim.token), "{rule}: another owner");
        assert!(seen.replays.is_none_or(|replays| replays == 2), "{rule}: {:?} replays", seen.replays);
        same("a completion does not change when a key was first seen", seen.first_seen, first);
        assert!(seen.last_seen >= seen.first_seen, "{rule}: {seen:?}");
        // Neither another payload nor an operator's look is a use of it.
        self.mismatch(rule, &other_payload(1)).await;
        let again = self.store.inspect(&claim.id).await.expect("inspect answers").expect("a record is seen");
        same(rule, (again.replays, again.last_seen), (seen.replays, seen.last_seen));
    }

    async fn leaves_a_record_to_others_when_a_manual_owner_is_lost(&self) {
        let rule = "a manual owner that is lost leaves the record to everybody else, while that lasts";
        let (first, _) = self.claim(rule, &again(1)).await;
        self.complete(&first, 1).await;
        self.claim(rule, &again(1)).await;
        self.passes(LEASE);
        self.completed(rule, &ask(1), 1).await;
        self.claim(rule, &again(1)).await;
        self.passes(TTL);
        self.claim("after which the key is new", &ask(1)).await;
    }

    async fn fences_grow(&self) {
        let rule = "fences grow with every claim of a key";
        let mut last = 0;
        for _ in 0..5 {
            let (claim, _) = self.claim(rule, &ask(1)).await;
            assert!(claim.fence > last, "{rule}: {} after {last}", claim.fence);
            last = claim.fence;
            self.passes(LEASE);
            let (taker, _) = self.claim(rule, &ask(1)).await;
            assert!(taker.fence > last, "{rule}: {} after {last}", taker.fence);
            last = taker.fence;
            self.release(&taker, ReleaseAs::Free).await;
        }
    }
}
