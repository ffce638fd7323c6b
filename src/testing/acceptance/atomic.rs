//! The rules of stores that change a record atomically.

use std::time::Duration;

use super::{LEASE, SLACK, Subject, TTL, again, ask, asking, other_payload, record, same};
use crate::{
    key::Fingerprint,
    store::{Begin, Completion, Forgotten, Found, IfCompleted, OnUnknown, RecordState, ReleaseAs, Store},
};

impl<S: Store, A: Fn(Duration)> Subject<S, A> {
    pub(super) async fn compares_fingerprints_in_every_state(&self) {
        let rule = "another payload is a mismatch, also while the first runs and when its owner was lost";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.mismatch(rule, &other_payload(1)).await;
        self.passes(LEASE);
        self.mismatch(rule, &other_payload(1)).await;
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
    }

    pub(super) async fn counts_attempts_and_tells_of_lost_owners(&self) {
        let rule = "attempts count, and whoever takes over is told";
        let (first, _) = self.claim(rule, &ask(1)).await;
        same(rule, (first.attempt, first.taken_over), (1, false));
        self.passes(LEASE);
        same(rule, self.seen(1).await.map(|seen| seen.state), Some(RecordState::Lapsed));
        let (second, _) = self.claim(rule, &ask(1)).await;
        same(rule, (second.attempt, second.taken_over), (2, true));
        self.complete(&second, 1).await;
        let (third, _) = self.claim(rule, &again(1)).await;
        same("a manual claim takes nothing over", (third.attempt, third.taken_over), (3, false));
        same("and knows that there was a response", (first.completions, third.completions), (0, 1));
    }

    pub(super) async fn bars_a_key_whose_owner_was_lost(&self) {
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

    pub(super) async fn lets_an_owner_complete_a_record_that_is_gone(&self) {
        let rule = "an owner whose record got lost stores its response all the same";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE);
        same(rule, self.forget(1).await, Forgotten::Removed);
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
        self.completed(rule, &ask(1), 1).await;
    }

    pub(super) async fn compares_only_the_target_with_another_scheme(&self) {
        let rule = "fingerprints of two schemes are equal when their targets are";
        let of = |scheme: u8, target: u8| asking(1, Fingerprint::new([scheme; 2], [target; 8], [scheme; 32]));
        let (claim, _) = self.claim(rule, &of(1, 1)).await;
        self.in_flight(rule, &of(2, 1)).await;
        self.mismatch(rule, &of(2, 2)).await;
        self.complete(&claim, 1).await;
        match self.begin(&of(2, 1)).await {
            Begin::Completed(found) => same(rule, (found.record, found.other_scheme), (record(1), true)),
            other => panic!("{rule}: {other:?}"),
        }
        self.mismatch(rule, &of(2, 2)).await;
        let manual = self.acquire(rule, &of(2, 1).if_completed(IfCompleted::Rerun)).await;
        same(rule, manual.other_scheme, true);
        self.passes(LEASE);
        let taker = self.acquire(rule, &of(2, 1).if_completed(IfCompleted::Rerun)).await;
        same("a claim has the fingerprint of its own request", taker.other_scheme, false);
    }

    pub(super) async fn lists_in_pages(&self) {
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

    pub(super) async fn tells_how_long_a_record_remains_and_how_it_was_used(&self) {
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

    pub(super) async fn leaves_a_record_to_others_when_a_manual_owner_is_lost(&self) {
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

    pub(super) async fn fences_grow(&self) {
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
