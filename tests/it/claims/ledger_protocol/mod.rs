//! An exhaustive check of the ledger's protocol with stateright. It explores every order of the events within small
//! bounds: requests of one key, and whatever may happen to their claims, processes, transactions and rows.
//!
//! Each mechanism of the protocol has a control: without it the same search finds a broken promise.

mod steps;
mod take;
mod world;

use std::collections::BTreeSet;

use stateright::{Checker as _, HasDiscoveries, Model as Checked, Property};

use self::{
    steps::Step,
    world::{Events, Kind, Stage, State, Try, Way, Wrong},
};

/// The protocol, within bounds.
#[derive(Clone, Copy)]
struct Protocol {
    tries: usize,
    events: Events,
    /// Whether handlers answer with a 4xx or 5xx that is stored, too.
    fails: bool,
    /// `on_unknown = reject`.
    rejects: bool,
    mistake: Option<Mistake>,
}

/// The protocol without one of its mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// Rows are not unique.
    HasNoKey,
    /// The claim store is asked at the end of a run, instead of the row.
    AsksClaimsAtEnd,
    /// The row of a stored failure replaces whatever there is.
    FailureReplaces,
    /// A stored failure is sent before its row is committed.
    SendsFailureEarly,
    /// The handler's transaction is committed before the row.
    CommitsRowApart,
    /// A lost COMMIT is taken for one that has committed.
    AssumesCommitted,
    /// A lost COMMIT is taken for one that has not committed.
    AssumesFailed,
    /// After a conflict the handler is called again, and the ledger is not asked.
    RunsAgainUnasked,
    /// A request is refused as in flight, and the ledger is not asked.
    RefusesUnasked,
    /// After a take-over the ledger is looked at, and not settled.
    LooksAfterTakeOver,
    /// The transaction of a crashed process stays open.
    LeavesTransactionsOpen,
    /// A row that has expired may be replaced by anybody.
    ReplacesByTime,
    /// A look does not tell the token of a row that has expired.
    HidesExpired,
    /// All calls of a closure have one token.
    KeepsToken,
    /// A run may be older than the rows that are swept.
    HasNoAgeLimit,
    /// Forgetting deletes the row.
    ForgetDeletes,
    /// Forgetting puts the tombstone before the claim store was asked.
    ForgetsRowFirst,
    /// Forgetting does not wait for a transaction with a row.
    ForgetWaitsForNobody,
    /// The claim store keeps answers, and they are replayed from there.
    ReplaysFromClaims,
    /// Whoever gives up settling behind frees the claim.
    GivesUpByFreeing,
    /// Whoever settles behind clears the memory of lost owners, although nothing is committed.
    ForgetsLostOwner,
}

impl Protocol {
    /// Whether rows are unique.
    fn has_key(&self) -> bool {
        !matches!(self.mistake, Some(Mistake::HasNoKey | Mistake::AsksClaimsAtEnd))
    }

    /// Whether a row of this kind is written only where no other one lives.
    fn is_unique(&self, kind: Kind) -> bool {
        self.has_key() && !(kind == Kind::Failure && self.mistake == Some(Mistake::FailureReplaces))
    }

    /// Whether the fate of a lost COMMIT is assumed.
    fn assumes(&self) -> bool {
        matches!(self.mistake, Some(Mistake::AssumesCommitted | Mistake::AssumesFailed))
    }

    fn answers_with(&self, kind: Kind) -> bool {
        kind == Kind::Success || self.fails
    }

    /// Whether the ledger is settled before a run, and not only looked at.
    fn settles(&self, way: Way) -> bool {
        match way {
            Way::TakenOver => self.mistake != Some(Mistake::LooksAfterTakeOver),
            Way::Unlocked => true,
            Way::Free | Way::Again => false,
        }
    }

    /// Whether a new request gets an answer when nobody is left, and the lease of a process that has crashed is over.
    fn stays_open(&self, state: &State) -> bool {
        let mut later = state.clone();
        later.tries = [Try::default(); world::MOST];
        for n in 1..world::MOST {
            later.leave(n);
        }
        later.claims.has_lapsed = later.claims.holder.is_some();
        later.left = Events::default();
        for step in [Step::Ask(0), Step::Consult(0), Step::Write(0, Kind::Success), Step::Commit(0)] {
            self.take(&mut later, step);
            match later.tries[0].stage {
                Stage::Answered | Stage::Committed { .. } => return true,
                // The claim is free, so nothing but a lost owner bars the run.
                Stage::Gone if matches!(step, Step::Consult(_)) => return self.rejects,
                Stage::Gone | Stage::InFlight => return false,
                _ => {}
            }
        }
        false
    }

    /// Whether something can still happen, unless all requests and transactions have ended.
    fn goes_on(&self, state: &State) -> bool {
        let mut steps = Vec::new();
        self.steps(state, &mut steps);
        !steps.is_empty() || !state.is_busy()
    }
}

impl Checked for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.events)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_EFFECT, |_, state: &State| !state.has(Wrong::TwoEffects)),
            Property::always(NOT_OVERTAKEN, |_, state: &State| !state.has(Wrong::Overtaken)),
            Property::always(ONE_ANSWER, |_, state: &State| !state.has(Wrong::TwoAnswers)),
            Property::always(COMMITTED, |_, state: &State| !state.has(Wrong::NotCommitted)),
            Property::always(NOT_IN_FLIGHT, |_, state: &State| !state.has(Wrong::ToldInFlight)),
            Property::always(NOT_IN_VAIN, |_, state: &State| !state.has(Wrong::InVain)),
            Property::always(NOT_BESIDE, |_, state: &State| !state.has(Wrong::Beside)),
            Property::always(HAS_ROW, |_, state: &State| {
                state.effects == 0 || state.row.is_some_and(|row| row.kind == Kind::Success)
            }),
            Property::always(OPEN, |protocol: &Self, state: &State| state.is_busy() || protocol.stays_open(state)),
            Property::always(GOES_ON, |protocol: &Self, state: &State| {
                !state.may_be_stuck() || protocol.goes_on(state)
            }),
            Property::sometimes("a duplicate gets the answer of another run", |_, state: &State| {
                state.tries.iter().enumerate().any(|(n, one)| one.has_answer_of_another(n))
            }),
        ]
    }
}

const ONE_EFFECT: &str = "a row's life has at most one effect";
const NOT_OVERTAKEN: &str = "no run commits when another has committed since it looked";
const ONE_ANSWER: &str = "all answers of a row's life are equal";
const COMMITTED: &str = "every final answer is a committed row";
const NOT_IN_FLIGHT: &str = "no client that has seen an answer is told that its operation is in flight";
const NOT_IN_VAIN: &str = "no handler is called when the answer is committed";
const NOT_BESIDE: &str = "no handler is called beside a COMMIT that is not settled, unless claims were lost";
const HAS_ROW: &str = "every committed effect has its row";
const OPEN: &str = "no key stays locked";
const GOES_ON: &str = "nobody waits for ever";

const NONE: Events = Events {
    lapses: 0,
    losses: 0,
    unlocked: 0,
    crashes: 0,
    lost_answers: 0,
    outages: 0,
    conflicts: 0,
    expiries: 0,
    sweeps: 0,
    forgets: 0,
    restores: 0,
};

const PROTOCOL: Protocol = Protocol { tries: 3, events: NONE, fails: true, rejects: false, mistake: None };

/// Explores all states within the bounds. Prints the trace to a broken promise.
fn holds(protocol: Protocol) {
    let failures = HasDiscoveries::AnyFailures;
    let checker = protocol.checker().threads(2).finish_when(failures).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > 10_000, "{states} states");
}

#[test]
fn no_order_of_events_breaks_a_promise_when_claims_are_lost_and_processes_crash() {
    let events = Events { lapses: 2, losses: 1, crashes: 1, lost_answers: 1, ..NONE };
    holds(Protocol { events, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_commits_are_not_answered_and_the_database_is_away() {
    let events = Events { lapses: 1, crashes: 1, lost_answers: 2, outages: 1, conflicts: 1, ..NONE };
    holds(Protocol { events, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_without_claims() {
    let events = Events { unlocked: 3, lapses: 1, lost_answers: 1, conflicts: 1, ..NONE };
    holds(Protocol { events, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_rows_expire_and_are_swept() {
    let events = Events { lapses: 1, expiries: 2, sweeps: 2, ..NONE };
    holds(Protocol { events: Events { losses: 1, ..events }, ..PROTOCOL });
    holds(Protocol { events: Events { lost_answers: 1, conflicts: 1, ..events }, fails: false, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_an_operator_forgets_the_key() {
    let events = Events { lapses: 1, sweeps: 1, forgets: 1, ..NONE };
    holds(Protocol { events: Events { losses: 1, forgets: 2, ..events }, fails: false, ..PROTOCOL });
    holds(Protocol { events: Events { crashes: 1, expiries: 1, ..events }, fails: false, ..PROTOCOL });
    holds(Protocol { events: Events { crashes: 1, lost_answers: 1, ..events }, fails: false, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_the_database_is_restored() {
    let events = Events { lapses: 1, lost_answers: 1, expiries: 1, restores: 1, ..NONE };
    holds(Protocol { events: Events { crashes: 1, ..events }, ..PROTOCOL });
    holds(Protocol { events: Events { forgets: 1, lost_answers: 0, ..events }, fails: false, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_with_four_requests() {
    let events = Events { lapses: 2, crashes: 1, lost_answers: 1, ..NONE };
    holds(Protocol { tries: 4, events, fails: false, ..PROTOCOL });
}

#[test]
fn no_order_of_events_breaks_a_promise_with_on_unknown_reject() {
    let events = Events { lapses: 2, losses: 1, crashes: 1, lost_answers: 2, outages: 1, ..NONE };
    holds(Protocol { rejects: true, events, fails: false, ..PROTOCOL });
}

/// Shows that the checks can fail, and that no mechanism of the protocol can be left out.
#[test]
fn without_any_of_its_mechanisms_the_protocol_breaks_a_promise() {
    let some = Events { lapses: 1, crashes: 1, lost_answers: 1, ..NONE };
    let away = Events { lapses: 1, lost_answers: 2, outages: 1, ..NONE };
    let expiring = Events { expiries: 2, sweeps: 1, ..some };
    let forgetting = Events { forgets: 1, ..some };
    let controls = [
        (Mistake::HasNoKey, some, ONE_EFFECT),
        (Mistake::AsksClaimsAtEnd, some, ONE_EFFECT),
        (Mistake::FailureReplaces, some, ONE_ANSWER),
        (Mistake::SendsFailureEarly, some, ONE_ANSWER),
        (Mistake::CommitsRowApart, some, HAS_ROW),
        (Mistake::AssumesCommitted, some, COMMITTED),
        (Mistake::AssumesFailed, some, NOT_BESIDE),
        (Mistake::RunsAgainUnasked, Events { conflicts: 1, ..some }, NOT_IN_VAIN),
        (Mistake::RefusesUnasked, some, NOT_IN_FLIGHT),
        (Mistake::LooksAfterTakeOver, some, NOT_BESIDE),
        (Mistake::LeavesTransactionsOpen, some, GOES_ON),
        (Mistake::ReplacesByTime, expiring, NOT_OVERTAKEN),
        (Mistake::HidesExpired, expiring, OPEN),
        (Mistake::KeepsToken, expiring, NOT_OVERTAKEN),
        (Mistake::HasNoAgeLimit, expiring, NOT_OVERTAKEN),
        (Mistake::ForgetDeletes, forgetting, NOT_OVERTAKEN),
        (Mistake::ForgetsRowFirst, forgetting, HAS_ROW),
        (Mistake::ForgetWaitsForNobody, forgetting, NOT_OVERTAKEN),
        (Mistake::ReplaysFromClaims, Events { restores: 1, ..some }, COMMITTED),
        (Mistake::GivesUpByFreeing, away, NOT_BESIDE),
        (Mistake::ForgetsLostOwner, away, NOT_BESIDE),
    ];
    for (mistake, events, broken) in controls {
        let protocol = Protocol { events, mistake: Some(mistake), ..PROTOCOL };
        let enough = HasDiscoveries::AnyOf(BTreeSet::from([broken]));
        let checker = protocol.checker().threads(2).finish_when(enough).spawn_bfs().join();
        assert!(checker.discovery(broken).is_some(), "{mistake:?} is not caught");
    }
}
