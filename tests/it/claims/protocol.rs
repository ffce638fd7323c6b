//! An exhaustive check of the protocol with stateright. It explores every order of the events within small bounds:
//! requests of one key, steps of the clock, crashes, repeated calls, and a record that the store loses or an operator
//! forgets. The record is the [`Model`] that the stores are compared with.

use actix_idempotency::{
    settings::OnUnknown,
    store::{Forgotten, IfCompleted, ReleaseAs},
};
use stateright::{Checker as _, Model as Checked, Property};

use actix_idempotency::testing::model::{Answer, Model, Step};

/// A lease is two steps of the clock.
const LEASE: u64 = 2;

/// How often each event may happen.
#[derive(Clone, Copy)]
struct Bounds {
    requests: usize,
    steps: u8,
    crashes: u8,
    losses: u8,
    /// How often an operator forgets the key.
    forgets: u8,
    /// How often a `begin` is repeated because its answer was lost.
    repeats: u8,
    on_unknown: OnUnknown,
    /// The mistake of other projects: the lock covers the look-up only, and is released before the handler runs.
    releases_before_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Request {
    Idle,
    /// Holds claim `n`; the handler has had no effect yet.
    Running(u8),
    /// Holds claim `n`; the handler has had its effect, and the response is not stored yet.
    Ran(u8),
    /// The client has the response that the run of request `n` produced.
    Answered(u8),
    /// The client got the refusal `outcome-unknown`.
    Barred,
    /// The handler failed, or the process crashed.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    record: Model,
    requests: Vec<Request>,
    steps: u8,
    crashes: u8,
    losses: u8,
    forgets: u8,
    repeats: u8,
    effects: u8,
    takeovers: u8,
    /// The request whose response was stored first.
    stored: Option<u8>,
    /// A claim was granted after a response was stored.
    rerun: bool,
    forgotten: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Event {
    Begin(usize),
    Effect(usize),
    Complete(usize),
    /// The handler fails before it has any effect.
    Fail(usize),
    Renew(usize),
    Crash(usize),
    Clock,
    /// The store loses the record.
    Lose,
    /// An operator forgets the key.
    Forget,
    /// A `begin` whose answer was lost is repeated with the same token.
    Repeat(usize),
}

impl Bounds {
    fn begin(&self, request: usize) -> Step {
        Step::Begin {
            id: 0,
            token: number(request),
            fingerprint: 0,
            lease: LEASE,
            if_completed: IfCompleted::Replay,
            on_unknown: self.on_unknown,
        }
    }

    /// How often the record was lost: the store lost it, or an operator forgot it.
    const fn lost(&self, state: &State) -> u8 {
        self.losses - state.losses + state.forgotten
    }
}

fn number(request: usize) -> u8 {
    u8::try_from(request).expect("few")
}

impl Checked for Bounds {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            record: Model::default(),
            requests: vec![Request::Idle; self.requests],
            steps: self.steps,
            crashes: self.crashes,
            losses: self.losses,
            forgets: self.forgets,
            repeats: self.repeats,
            effects: 0,
            takeovers: 0,
            stored: None,
            rerun: false,
            forgotten: 0,
        }]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        for (n, request) in state.requests.iter().enumerate() {
            match request {
                Request::Idle => events.push(Event::Begin(n)),
                Request::Running(_) => events.extend([Event::Effect(n), Event::Fail(n), Event::Renew(n)]),
                Request::Ran(_) => events.extend([Event::Complete(n), Event::Renew(n)]),
                Request::Answered(_) | Request::Barred | Request::Dead => {}
            }
            if matches!(request, Request::Running(_)) && state.repeats > 0 && !self.releases_before_run {
                events.push(Event::Repeat(n));
            }
            if matches!(request, Request::Running(_) | Request::Ran(_)) && state.crashes > 0 {
                events.push(Event::Crash(n));
            }
        }
        if state.steps > 0 {
            events.push(Event::Clock);
        }
        if state.losses > 0 {
            events.push(Event::Lose);
        }
        if state.forgets > 0 {
            events.push(Event::Forget);
        }
    }

    fn next_state(&self, last: &State, event: Event) -> Option<State> {
        let mut state = last.clone();
        match event {
            Event::Begin(n) => {
                let granted = state.record.granted();
                state.requests[n] = match state.record.step(self.begin(n)) {
                    Answer::Acquired { taken_over, .. } => {
                        state.takeovers += u8::from(taken_over);
                        state.rerun |= state.stored.is_some();
                        if self.releases_before_run {
                            state.record.step(Step::Release { claim: granted, release_as: ReleaseAs::Free });
                        }
                        Request::Running(granted)
                    }
                    Answer::Completed(run) => Request::Answered(run),
                    Answer::OwnerLost => Request::Barred,
                    Answer::InFlight => return None,
                    other => panic!("{other:?}"),
                };
            }
            Event::Effect(n) => {
                let Request::Running(claim) = state.requests[n] else { return None };
                state.effects += 1;
                state.requests[n] = Request::Ran(claim);
            }
            Event::Complete(n) => {
                let Request::Ran(claim) = state.requests[n] else { return None };
                let complete = Step::Complete { claim, body: number(n), ttl: 1000 };
                state.requests[n] = match state.record.step(complete) {
                    Answer::Stored => {
                        state.stored.get_or_insert(number(n));
                        Request::Answered(number(n))
                    }
                    Answer::Superseded(winner) => Request::Answered(winner.unwrap_or(number(n))),
                    other => panic!("{other:?}"),
                };
            }
            Event::Fail(n) => {
                let Request::Running(claim) = state.requests[n] else { return None };
                state.record.step(Step::Release { claim, release_as: ReleaseAs::Free });
                state.requests[n] = Request::Dead;
            }
            Event::Renew(n) => {
                let (Request::Running(claim) | Request::Ran(claim)) = state.requests[n] else { return None };
                state.record.step(Step::Renew { claim, lease: LEASE });
            }
            Event::Crash(n) => {
                state.crashes -= 1;
                state.requests[n] = Request::Dead;
            }
            Event::Clock => {
                state.steps -= 1;
                state.record.step(Step::Advance { units: 1 });
            }
            Event::Repeat(n) => {
                let Request::Running(_) = state.requests[n] else { return None };
                state.repeats -= 1;
                let granted = state.record.granted();
                match state.record.step(self.begin(n)) {
                    Answer::Acquired { .. } => state.requests[n] = Request::Running(granted),
                    // Another request took over, or claimed the key after an operator had forgotten it.
                    Answer::InFlight | Answer::Completed(_) | Answer::OwnerLost => {}
                    other => panic!("{other:?}"),
                }
            }
            Event::Forget => {
                state.forgets -= 1;
                if state.record.step(Step::Forget { id: 0 }) != Answer::Forgotten(Forgotten::Removed) {
                    return None;
                }
                // The promises hold no longer than after a loss in the store; here the operator is responsible.
                state.forgotten += 1;
            }
            Event::Lose => {
                state.losses -= 1;
                state.record.lose(0);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one effect, unless an owner or the record was lost", |bounds: &Self, state: &State| {
                state.effects <= 1 + state.takeovers + bounds.lost(state)
            }),
            Property::always(
                "with reject at most one effect, unless the record was lost",
                |bounds: &Self, state: &State| {
                    bounds.on_unknown != OnUnknown::Reject || state.effects <= 1 + bounds.lost(state)
                },
            ),
            Property::always(
                "a stored response is not run again, unless it was lost",
                |bounds: &Self, state: &State| !state.rerun || bounds.lost(state) > 0,
            ),
            Property::always("the response stored first stays, unless it was lost", |bounds: &Self, state: &State| {
                bounds.lost(state) > 0 || state.stored.is_none() || state.record.body(0) == state.stored
            }),
            Property::always("no key stays locked", |_, state: &State| {
                let mut later = state.clone();
                later.record.step(Step::Advance { units: LEASE });
                let begin = Step::Begin {
                    id: 0,
                    token: 99,
                    fingerprint: 0,
                    lease: LEASE,
                    if_completed: IfCompleted::Replay,
                    on_unknown: OnUnknown::Rerun,
                };
                later.record.step(begin) != Answer::InFlight
            }),
            Property::sometimes("another request takes over", |_, state: &State| state.takeovers > 0),
            Property::sometimes("a duplicate gets the response of another request", |_, state: &State| {
                state.requests.iter().enumerate().any(
                    |(n, request): (usize, &Request)| matches!(request, Request::Answered(run) if *run != number(n)),
                )
            }),
        ]
    }
}

const BOUNDS: Bounds = Bounds {
    requests: 3,
    steps: 4,
    crashes: 1,
    losses: 0,
    forgets: 1,
    repeats: 1,
    on_unknown: OnUnknown::Rerun,
    releases_before_run: false,
};

fn explored(bounds: Bounds) -> usize {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    checker.assert_no_discovery("one effect, unless an owner or the record was lost");
    checker.assert_no_discovery("with reject at most one effect, unless the record was lost");
    checker.assert_no_discovery("a stored response is not run again, unless it was lost");
    checker.assert_no_discovery("the response stored first stays, unless it was lost");
    checker.assert_no_discovery("no key stays locked");
    assert!(checker.discovery("a duplicate gets the response of another request").is_some());
    checker.unique_state_count()
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    let states = explored(BOUNDS);
    assert!(states > 1000, "{states} states");
}

#[test]
fn no_order_of_events_breaks_a_promise_with_on_unknown_reject() {
    explored(Bounds { on_unknown: OnUnknown::Reject, ..BOUNDS });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_the_store_loses_its_record_once() {
    explored(Bounds { losses: 1, ..BOUNDS });
}

/// Shows that the check can fail. With this protocol, another project ran all concurrent duplicates.
#[test]
fn a_lock_over_the_look_up_alone_is_caught() {
    let checker = Bounds { releases_before_run: true, ..BOUNDS }.checker().spawn_bfs().join();
    assert!(checker.discovery("one effect, unless an owner or the record was lost").is_some());
}
