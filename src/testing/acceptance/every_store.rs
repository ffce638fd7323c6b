//! The rules that composed stores follow too.

use std::time::Duration;

use super::{LEASE, SLACK, Subject, TTL, again, ask, other_payload, record, same};
use crate::store::{Begin, Completion, Forgotten, Found, IfCompleted, ReleaseAs, Renewal, Store};

impl<S: Store, A: Fn(Duration)> Subject<S, A> {
    pub(super) async fn claims_before_run(&self) {
        let rule = "while one runs, its duplicates are in flight";
        self.claim(rule, &ask(1)).await;
        for _ in 0..3 {
            self.in_flight(rule, &ask(1)).await;
        }
    }

    pub(super) async fn answers_with_what_was_completed(&self) {
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

    pub(super) async fn may_be_asked_again_with_the_same_token(&self) {
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

    pub(super) async fn frees_what_is_released(&self) {
        let rule = "a released key is free, whoever asks";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.release(&claim, ReleaseAs::Free).await;
        self.release(&claim, ReleaseAs::Free).await;
        self.claim(rule, &other_payload(1)).await;
    }

    pub(super) async fn ends_leases_and_extends_them(&self) {
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

    pub(super) async fn refuses_stale_writers(&self) {
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

    pub(super) async fn accepts_an_owner_whom_nobody_replaced(&self) {
        let rule = "a lease that ended and that nobody took is still its owner's";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE + SLACK);
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
        self.completed(rule, &ask(1), 1).await;
    }

    pub(super) async fn expires_records_from_completion(&self) {
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

    pub(super) async fn keeps_a_record_beneath_a_manual_claim(&self) {
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

    pub(super) async fn forgets_records_and_not_claims(&self) {
        let rule = "an operator can forget a record, and not a live claim";
        same(rule, self.forget(1).await, Forgotten::Absent);
        let (claim, _) = self.claim(rule, &ask(1)).await;
        same(rule, self.forget(1).await, Forgotten::InFlight);
        self.complete(&claim, 1).await;
        same(rule, self.forget(1).await, Forgotten::Removed);
        same(rule, self.forget(1).await, Forgotten::Absent);
        self.claim(rule, &other_payload(1)).await;
    }

    pub(super) async fn gives_a_response_to_its_own_operation_only(&self) {
        let rule = "a late owner does not get the response to another payload";
        let (late, _) = self.claim(rule, &ask(1)).await;
        self.passes(LEASE + TTL);
        let (claim, _) = self.claim(rule, &other_payload(1)).await;
        same(rule, self.complete(&late, 1).await, Completion::Superseded(None));
        same(rule, self.complete(&claim, 2).await, Completion::Stored);
        same(rule, self.complete(&late, 1).await, Completion::Superseded(None));
    }

    pub(super) async fn keeps_keys_apart(&self) {
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
}
