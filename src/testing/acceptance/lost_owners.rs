//! The rules for owners that are stalled, lost, or forgotten by their store.

use std::time::{Duration, UNIX_EPOCH};

use super::{LEASE, SLACK, Subject, TTL, again, ask, other_payload, same};
use crate::store::{
    Begin, BeginRequest, Completion, Forgotten, Moment, OnUnknown, RecordState, ReleaseAs, Renewal, Restore, Saved,
    SeenStep, Step, Store,
};

const GRACE: Duration = Duration::from_secs(500);

fn patient() -> BeginRequest {
    ask(1).grace(GRACE)
}

impl<S: Store, A: Fn(Duration)> Subject<S, A> {
    pub(super) async fn waits_for_an_owner_whose_lease_is_over(&self) {
        let rule = "a lease that is over is noted, and until the end of the grace its owner is waited for";
        let (claim, _) = self.claim(rule, &patient()).await;
        self.passes(LEASE + SLACK);
        let seen = self.seen(1).await.unwrap_or_else(|| panic!("{rule}"));
        same("before anybody asks, operators see it", seen.state, RecordState::Lapsed);
        let awaited = seen.remaining;
        assert!(awaited <= GRACE - SLACK && awaited > GRACE - 2 * SLACK, "and the rest of the grace: {awaited:?}");
        for request in [patient(), patient().on_unknown(OnUnknown::Reject), again(1)] {
            match self.begin(&request).await {
                Begin::InFlight(wait) => {
                    assert!(wait.lapsed, "{rule}: {wait:?}");
                    assert!(wait.left <= GRACE && wait.left > GRACE - SLACK, "{rule}: {wait:?}");
                }
                other => panic!("{rule}: {other:?}"),
            }
        }
        same(rule, self.forget(1).await, Forgotten::InFlight);
        same("its renewal holds the record again", self.renew(&claim).await, Renewal::Extended);
        self.passes(LEASE - SLACK);
        self.in_flight(rule, &patient()).await;
        same(rule, self.complete(&claim, 1).await, Completion::Stored);
    }

    pub(super) async fn takes_over_after_the_grace(&self) {
        let rule = "after the grace the next request takes over";
        let (first, _) = self.claim(rule, &patient()).await;
        self.passes(LEASE);
        self.in_flight(rule, &patient()).await;
        self.passes(GRACE);
        same("operators see that it is over", self.seen(1).await.map(|seen| seen.remaining), Some(Duration::ZERO));
        let (second, _) = self.claim(rule, &patient()).await;
        same(rule, (second.attempt, second.taken_over), (2, true));
        same("and the first owner has lost it", self.renew(&first).await, Renewal::Lost);
        same(rule, self.complete(&first, 1).await, Completion::Superseded(None));
    }

    pub(super) async fn starts_the_grace_when_an_operator_forgets(&self) {
        let rule =
            "a dead key can be forgotten without a client: the first call notes the lease, one after the grace removes";
        self.claim(rule, &patient()).await;
        self.passes(LEASE);
        same(rule, self.forget(1).await, Forgotten::InFlight);
        self.passes(GRACE);
        same(rule, self.forget(1).await, Forgotten::Removed);
        self.claim(rule, &other_payload(1)).await;
    }

    pub(super) async fn remembers_a_lost_owner_until_a_response_is_stored(&self) {
        let rule = "a lost owner is told of to every later run, until a response is stored";
        let (first, _) = self.claim(rule, &ask(1)).await;
        self.release(&first, ReleaseAs::Unknown).await;
        same(rule, self.seen(1).await.map(|seen| seen.state), Some(RecordState::Lost));
        for attempt in 2..5 {
            let (claim, _) = self.claim(rule, &ask(1)).await;
            same(rule, (claim.attempt, claim.taken_over), (attempt, true));
            self.release(&claim, ReleaseAs::Free).await;
            let seen = self.seen(1).await.expect("it remembers");
            same(rule, (seen.state, seen.lost_owner), (RecordState::Free, Some(true)));
        }
        let rejecting = ask(1).on_unknown(OnUnknown::Reject);
        assert!(matches!(self.begin(&rejecting).await, Begin::OwnerLost), "{rule}: and `reject` refuses");
        self.mismatch("another payload is a mismatch here too", &other_payload(1)).await;
        let (last, _) = self.claim(rule, &ask(1)).await;
        same(rule, self.complete(&last, 1).await, Completion::Stored);
        let (manual, _) = self.claim(rule, &again(1)).await;
        assert!(!manual.taken_over, "{rule}");
    }

    pub(super) async fn takes_a_late_response_where_nobody_holds_the_key(&self) {
        let rule = "a record that nobody holds takes the response of a late owner";
        for release_as in [ReleaseAs::Unknown, ReleaseAs::NotStored { status: 503 }] {
            let (claim, _) = self.claim(rule, &ask(1)).await;
            self.release(&claim, release_as).await;
            same("it can't be renewed", self.renew(&claim).await, Renewal::Lost);
            same(rule, self.complete(&claim, 7).await, Completion::Stored);
            self.completed(rule, &ask(1), 7).await;
            same(rule, self.forget(1).await, Forgotten::Removed);
        }
    }

    pub(super) async fn remembers_a_response_that_was_not_stored(&self) {
        let rule = "a promised answer that was not stored is remembered for an hour";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.release(&claim, ReleaseAs::NotStored { status: 503 }).await;
        let seen = self.seen(1).await.expect("it remembers");
        same(rule, (seen.state, seen.not_stored, seen.lost_owner), (RecordState::Free, Some(503), Some(false)));
        let (claim, _) = self.claim(rule, &ask(1).on_unknown(OnUnknown::Reject)).await;
        same(rule, (claim.attempt, claim.taken_over), (2, false));
        self.release(&claim, ReleaseAs::NotStored { status: 503 }).await;
        self.passes(Duration::from_secs(3600));
        same(rule, self.seen(1).await.map(|seen| seen.state), None);
    }

    pub(super) async fn restores_a_claim_that_the_store_lost(&self) {
        let rule = "an owner whose record the store lost can claim it again";
        let within = TTL;
        let (claim, _) = self.claim(rule, &ask(1)).await;
        same(rule, self.renew(&claim).await, Renewal::Extended);
        let gone = self.gone(rule, &claim).await;
        same("the answer changes nothing", self.seen(1).await.map(|seen| seen.state), None);
        let restore = Restore::new(LEASE, gone, within).steps(vec![Step::done("a", "1")]);
        for _ in 0..2 {
            let restored = self.store.restore(&claim, &restore).await.expect("restore answers");
            same("it may be repeated", restored, Renewal::Extended);
        }
        self.in_flight(rule, &ask(1)).await;
        self.passes(LEASE);
        let acquired = self.acquire(rule, &ask(1)).await;
        same(rule, (acquired.claim.attempt, acquired.claim.taken_over, acquired.steps.len()), (2, true, 1));
        let restored = self.store.restore(&claim, &restore).await.expect("restore answers");
        same("it does not take a claim from another owner", restored, Renewal::Lost);
        self.complete(&acquired.claim, 1).await;
        let restored = self.store.restore(&claim, &restore).await.expect("restore answers");
        same("nor a completed record", restored, Renewal::Lost);
    }

    pub(super) async fn refuses_a_restoration_that_comes_late(&self) {
        let rule = "a restoration after its last moment is refused: its owner may have freed the key";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        self.gone(rule, &claim).await;
        let late = Restore::new(LEASE, Moment::new(0), Duration::from_millis(1));
        same(rule, self.store.restore(&claim, &late).await.expect("restore answers"), Renewal::Lost);
        self.claim("the key stays free", &other_payload(1)).await;
    }

    pub(super) async fn keeps_saved_steps_for_the_next_attempt(&self) {
        let rule = "a saved step is found by the next attempt, and its first result stays";
        let (first, _) = self.claim(rule, &ask(1)).await;
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let saved = [Step::started("a"), Step::done("a", "1"), Step::done("a", "2"), Step::started("b")];
        for (step, second) in saved.into_iter().zip(1..) {
            same(rule, self.save(&first, &step.at(at(second))).await, Saved::Saved);
        }
        self.release(&first, ReleaseAs::Free).await;
        same(
            "nobody saves steps in a record that nobody holds",
            self.save(&first, &Step::started("c")).await,
            Saved::Lost,
        );
        self.mismatch("another payload is a mismatch", &other_payload(1)).await;
        let steps = vec![Step::done("a", "1"), Step::started("b")];
        // Steps alone mean no lost owner.
        let second = self.acquire(rule, &ask(1).on_unknown(OnUnknown::Reject)).await;
        same(rule, (second.claim.attempt, second.claim.taken_over), (2, false));
        same(rule, &second.steps, &steps);
        let seen = self.seen(1).await.expect("it is claimed");
        let shown = |step: &SeenStep| (step.name.to_string(), step.size, step.at);
        let seen: Vec<_> = seen.steps.iter().map(shown).collect();
        let expected = vec![("a".to_owned(), Some(1), at(2)), ("b".to_owned(), None, at(4))];
        same("operators see names, sizes and when steps were saved", &seen, &expected);
        let shown = self.store.steps(&second.claim.id).await.expect("steps answers");
        same("and on request their results", &shown, &steps);
        same("with their times", shown.iter().map(|step| step.at).collect::<Vec<_>>(), vec![at(2), at(4)]);
        self.passes(LEASE);
        let third = self.acquire(rule, &ask(1)).await;
        same("also after a lost owner", (third.claim.taken_over, &third.steps), (true, &steps));
        same("whose steps are refused", self.save(&second.claim, &Step::started("c")).await, Saved::Lost);
        self.complete(&third.claim, 1).await;
        let manual = self.acquire(rule, &again(1)).await;
        same("a response ends the steps", manual.steps, Vec::new());
        same("also for operators", self.store.steps(&manual.claim.id).await.expect("steps answers"), Vec::new());
    }

    pub(super) async fn lets_a_step_without_an_effect_start_again(&self) {
        let rule = "a step whose result is empty had no effect, and starts again";
        let (first, _) = self.claim(rule, &ask(1)).await;
        for step in [Step::started("a"), Step::not_done("a")] {
            same(rule, self.save(&first, &step).await, Saved::Saved);
        }
        self.release(&first, ReleaseAs::Free).await;
        let second = self.acquire(rule, &ask(1)).await;
        same(rule, &second.steps, &vec![Step::not_done("a")]);
        same(rule, self.save(&second.claim, &Step::started("a")).await, Saved::Saved);
        self.release(&second.claim, ReleaseAs::Free).await;
        let third = self.acquire(rule, &ask(1)).await;
        same("the new start counts", &third.steps, &vec![Step::started("a")]);
        for step in [Step::done("a", "1"), Step::not_done("a")] {
            same(rule, self.save(&third.claim, &step).await, Saved::Saved);
        }
        self.release(&third.claim, ReleaseAs::Free).await;
        let fourth = self.acquire(rule, &ask(1)).await;
        same("a result stays", &fourth.steps, &vec![Step::done("a", "1")]);
    }

    pub(super) async fn bounds_the_steps_of_a_record(&self) {
        let rule = "the steps of a record are bounded in number and size";
        let (claim, _) = self.claim(rule, &ask(1)).await;
        let large = Step::done("large", vec![0; Step::MOST_BYTES + 1]);
        same(rule, self.save(&claim, &large).await, Saved::Full);
        for n in 0..Step::MOST {
            same(rule, self.save(&claim, &Step::started(n.to_string())).await, Saved::Saved);
        }
        same(rule, self.save(&claim, &Step::started("one more")).await, Saved::Full);
        same("a known step can still get its result", self.save(&claim, &Step::done("0", "1")).await, Saved::Saved);
        self.release(&claim, ReleaseAs::Ended).await;
        same("an operation that ended elsewhere leaves nothing", self.seen(1).await.map(|seen| seen.state), None);
        same(rule, self.save(&claim, &Step::started("late")).await, Saved::Gone);
    }

    pub(super) fn says_that_it_saves_steps(&self) {
        same("a store that saves steps says so", self.store.saves_steps(), true);
    }

    /// The store loses the record of a claim. The moment at which its owner hears of it.
    async fn gone(&self, rule: &str, claim: &crate::store::Claim) -> Moment {
        self.release(claim, ReleaseAs::Free).await;
        match self.renew(claim).await {
            Renewal::Gone(moment) => moment,
            other => panic!("{rule}: {other:?}"),
        }
    }

    async fn save(&self, claim: &crate::store::Claim, step: &Step) -> Saved {
        self.store.save_step(claim, step).await.expect("save_step answers")
    }
}
