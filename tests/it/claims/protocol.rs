//! An exhaustive check of the protocol with stateright. It explores every order of the events within small bounds:
//! requests of one key, steps of the clock, crashes, panics, a store that stalls, an owner that is paused, repeated calls,
//! and a record that the store loses or an operator forgets. The record is the [`Model`] that the stores are compared
//! with.
//!
//! While the store answers, a living owner that is not paused renews its lease before the clock moves.

use std::collections::BTreeSet;

use actix_idempotency::{
    settings::OnUnknown,
    store::{Forgotten, ReleaseAs},
    testing::model::{Answer, Ask, Event, Granted, Model},
};
use stateright::{Checker as _, Model as Checked, Property};

/// A lease is two steps of the clock, and a grace one.
const LEASE: u64 = 2;
const GRACE: u64 = 1;

/// How often each event may happen.
#[derive(Clone, Copy)]
struct Bounds {
    requests: usize,
    steps: u8,
    crashes: u8,
    panics: u8,
    losses: u8,
    /// How often an operator forgets the key.
    forgets: u8,
    /// How often a `begin` is repeated because its answer was lost.
    repeats: u8,
    /// How often the store stops answering.
    stalls: u8,
    /// How many steps of the clock an owner is paused for, once.
    pause: u8,
    grace: u64,
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
    panics: u8,
    losses: u8,
    forgets: u8,
    repeats: u8,
    stalls: u8,
    is_stalled: bool,
    /// The owner that is paused, and for how many more steps.
    paused: Option<(usize, u8)>,
    may_pause: bool,
    effects: u8,
    takeovers: u8,
    /// The request whose response was stored first.
    stored: Option<u8>,
    /// An owner was lost, and no response was stored since.
    owner_lost: bool,
    wrongs: BTreeSet<Wrong>,
    forgotten: u8,
}

/// What a granted claim must not mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wrong {
    /// A response was stored before.
    Rerun,
    /// Another owner lives.
    Beside,
    /// An owner was lost, and the run is not told; or it is told without cause.
    Untold,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Happening {
    Begin(usize),
    Effect(usize),
    Complete(usize),
    /// The handler fails before it has any effect.
    Fail(usize),
    /// The handler panics, and what it did is not known.
    Panic(usize),
    Crash(usize),
    Clock,
    /// The store stops answering, or answers again.
    Stall,
    /// An owner is paused.
    Pause(usize),
    /// The store loses the record.
    Lose,
    /// An operator forgets the key.
    Forget,
    /// A `begin` whose answer was lost is repeated with the same token.
    Repeat(usize),
}

impl Bounds {
    fn begin(&self, request: usize) -> Event {
        Event::Begin(Ask { grace: self.grace, on_unknown: self.on_unknown, ..Ask::of(number(request)) })
    }

    /// How often the record was lost: the store lost it, or an operator forgot it.
    const fn lost(&self, state: &State) -> u8 {
        self.losses - state.losses + state.forgotten
    }

    fn granted(&self, state: &mut State, granted: &Granted, claim: u8) -> Request {
        let is_alive = |request: &Request| matches!(request, Request::Running(_) | Request::Ran(_));
        let beside = state.requests.iter().any(is_alive);
        state.takeovers += u8::from(granted.taken_over);
        // A living owner whose claim is taken is lost from then on.
        state.owner_lost |= beside && granted.taken_over;
        let wrongs = [
            (Wrong::Rerun, state.stored.is_some()),
            (Wrong::Beside, beside),
            (Wrong::Untold, granted.taken_over != state.owner_lost),
        ];
        state.wrongs.extend(wrongs.into_iter().filter(|(_, is_so)| *is_so).map(|(wrong, _)| wrong));
        if self.releases_before_run {
            state.record.apply(Event::Release { claim, release_as: ReleaseAs::Free });
        }
        Request::Running(claim)
    }
}

fn number(request: usize) -> u8 {
    u8::try_from(request).expect("few")
}

impl State {
    /// Living owners renew their leases, and restore a record that the store lost.
    fn renew(&mut self) {
        for n in 0..self.requests.len() {
            let (Request::Running(claim) | Request::Ran(claim)) = self.requests[n] else { continue };
            if self.paused.is_some_and(|(paused, _)| paused == n) {
                continue;
            }
            if self.record.apply(Event::Renew { claim, lease: LEASE }) == Answer::Gone {
                self.record.apply(Event::Restore { claim, lease: LEASE, within: 0 });
            }
        }
    }

    fn is_paused(&self, n: usize) -> bool {
        self.paused.is_some_and(|(paused, _)| paused == n)
    }
}

impl Checked for Bounds {
    type State = State;
    type Action = Happening;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            record: Model::default(),
            requests: vec![Request::Idle; self.requests],
            steps: self.steps,
            crashes: self.crashes,
            panics: self.panics,
            losses: self.losses,
            forgets: self.forgets,
            repeats: self.repeats,
            stalls: self.stalls,
            is_stalled: false,
            paused: None,
            may_pause: self.pause > 0,
            effects: 0,
            takeovers: 0,
            stored: None,
            owner_lost: false,
            wrongs: BTreeSet::new(),
            forgotten: 0,
        }]
    }

    fn actions(&self, state: &State, happenings: &mut Vec<Happening>) {
        let answers = !state.is_stalled;
        for (n, request) in state.requests.iter().enumerate().filter(|(n, _)| !state.is_paused(*n)) {
            match request {
                Request::Idle if answers => happenings.push(Happening::Begin(n)),
                Request::Running(_) => {
                    happenings.push(Happening::Effect(n));
                    if answers {
                        happenings.push(Happening::Fail(n));
                        if state.panics > 0 {
                            happenings.push(Happening::Panic(n));
                        }
                        if state.repeats > 0 && !self.releases_before_run {
                            happenings.push(Happening::Repeat(n));
                        }
                    }
                }
                Request::Ran(_) if answers => happenings.push(Happening::Complete(n)),
                _ => {}
            }
            if matches!(request, Request::Running(_) | Request::Ran(_)) {
                if state.crashes > 0 {
                    happenings.push(Happening::Crash(n));
                }
                if state.may_pause {
                    happenings.push(Happening::Pause(n));
                }
            }
        }
        if state.steps > 0 {
            happenings.push(Happening::Clock);
        }
        if state.is_stalled || state.stalls > 0 {
            happenings.push(Happening::Stall);
        }
        if state.losses > 0 {
            happenings.push(Happening::Lose);
        }
        if state.forgets > 0 && answers {
            happenings.push(Happening::Forget);
        }
    }

    fn next_state(&self, last: &State, happening: Happening) -> Option<State> {
        let mut state = last.clone();
        match happening {
            Happening::Begin(n) => {
                let claim = state.record.granted();
                state.requests[n] = match state.record.apply(self.begin(n)) {
                    Answer::Acquired(granted) => self.granted(&mut state, &granted, claim),
                    Answer::Completed { body, .. } => Request::Answered(body),
                    Answer::OwnerLost => Request::Barred,
                    // It may have noted a lease that is over.
                    Answer::InFlight { .. } => Request::Idle,
                    other => panic!("{other:?}"),
                };
                if state == *last {
                    return None;
                }
            }
            Happening::Effect(n) => {
                let Request::Running(claim) = state.requests[n] else { return None };
                state.effects += 1;
                state.requests[n] = Request::Ran(claim);
            }
            Happening::Complete(n) => {
                let Request::Ran(claim) = state.requests[n] else { return None };
                let complete = Event::Complete { claim, body: number(n), ttl: 1000 };
                state.requests[n] = match state.record.apply(complete) {
                    Answer::Stored => {
                        state.stored.get_or_insert(number(n));
                        state.owner_lost = false;
                        Request::Answered(number(n))
                    }
                    Answer::Superseded(winner) => Request::Answered(winner.unwrap_or(number(n))),
                    other => panic!("{other:?}"),
                };
            }
            Happening::Fail(n) => {
                let Request::Running(claim) = state.requests[n] else { return None };
                state.record.apply(Event::Release { claim, release_as: ReleaseAs::Free });
                state.requests[n] = Request::Dead;
            }
            Happening::Panic(n) => {
                let Request::Running(claim) = state.requests[n] else { return None };
                state.panics -= 1;
                let released = state.record.apply(Event::Release { claim, release_as: ReleaseAs::Unknown });
                state.owner_lost |= released == Answer::Released(true);
                state.requests[n] = Request::Dead;
            }
            Happening::Crash(n) => {
                let (Request::Running(_) | Request::Ran(_)) = state.requests[n] else { return None };
                state.crashes -= 1;
                state.owner_lost |= state.stored.is_none();
                state.requests[n] = Request::Dead;
            }
            Happening::Clock => {
                state.steps -= 1;
                if !state.is_stalled {
                    state.renew();
                }
                state.record.apply(Event::Advance { units: 1 });
                state.paused = state.paused.filter(|(_, left)| *left > 1).map(|(n, left)| (n, left - 1));
            }
            Happening::Stall => {
                state.stalls -= u8::from(!state.is_stalled);
                state.is_stalled = !state.is_stalled;
            }
            Happening::Pause(n) => {
                state.may_pause = false;
                state.paused = Some((n, self.pause));
            }
            Happening::Repeat(n) => {
                let Request::Running(_) = state.requests[n] else { return None };
                state.repeats -= 1;
                let claim = state.record.granted();
                match state.record.apply(self.begin(n)) {
                    Answer::Acquired(_) => state.requests[n] = Request::Running(claim),
                    // Another request took over, or claimed the key after an operator had forgotten it.
                    Answer::InFlight { .. } | Answer::Completed { .. } | Answer::OwnerLost => {}
                    other => panic!("{other:?}"),
                }
            }
            Happening::Forget => {
                state.forgets -= 1;
                if state.record.apply(Event::Forget { id: 0 }) == Answer::Forgotten(Forgotten::Removed) {
                    // The promises hold no longer than after a loss in the store; here the operator is responsible.
                    state.forgotten += 1;
                    state.owner_lost = false;
                }
            }
            Happening::Lose => {
                state.losses -= 1;
                state.record.lose(0);
                state.owner_lost = false;
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
                |bounds: &Self, state: &State| !state.wrongs.contains(&Wrong::Rerun) || bounds.lost(state) > 0,
            ),
            Property::always("the response stored first stays, unless it was lost", |bounds: &Self, state: &State| {
                bounds.lost(state) > 0 || state.stored.is_none() || state.record.body(0) == state.stored
            }),
            Property::always(
                "no run beside a living owner, unless the record was lost",
                |bounds: &Self, state: &State| !state.wrongs.contains(&Wrong::Beside) || bounds.lost(state) > 0,
            ),
            Property::always(
                "each run is told of a lost owner, unless the record was lost",
                |bounds: &Self, state: &State| !state.wrongs.contains(&Wrong::Untold) || bounds.lost(state) > 0,
            ),
            Property::always("no key stays locked", |bounds: &Self, state: &State| {
                let mut later = state.clone();
                let begin = Event::Begin(Ask { grace: bounds.grace, ..Ask::of(99) });
                // The first request notes the lease; the grace is over for the second one.
                later.record.apply(Event::Advance { units: LEASE });
                later.record.apply(begin);
                later.record.apply(Event::Advance { units: GRACE });
                !matches!(later.record.apply(begin), Answer::InFlight { .. })
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
    panics: 1,
    losses: 0,
    forgets: 1,
    repeats: 1,
    stalls: 0,
    pause: 0,
    grace: GRACE,
    on_unknown: OnUnknown::Rerun,
    releases_before_run: false,
};

fn explored(bounds: Bounds) -> usize {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    for property in bounds.properties() {
        match property.name {
            "another request takes over" => {}
            name @ "a duplicate gets the response of another request" => assert!(checker.discovery(name).is_some()),
            name => checker.assert_no_discovery(name),
        }
    }
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
    explored(Bounds { losses: 1, panics: 0, ..BOUNDS });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_the_store_stalls_once_for_any_time() {
    explored(Bounds { stalls: 1, steps: 5, forgets: 0, repeats: 0, ..BOUNDS });
}

#[test]
fn no_order_of_events_breaks_a_promise_when_an_owner_is_paused_for_less_than_lease_and_grace() {
    // The pause begins up to one step after the last renewal.
    let pause = u8::try_from(LEASE + GRACE - 2).unwrap();
    explored(Bounds { pause, steps: 5, forgets: 0, repeats: 0, ..BOUNDS });
}

fn found(bounds: Bounds, property: &'static str) -> bool {
    bounds.checker().spawn_bfs().join().discovery(property).is_some()
}

/// Shows that the check can fail. With this protocol, another project ran all concurrent duplicates.
#[test]
fn a_lock_over_the_look_up_alone_is_caught() {
    let bounds = Bounds { releases_before_run: true, ..BOUNDS };
    assert!(found(bounds, "one effect, unless an owner or the record was lost"));
}

/// The limits that the documentation names, as controls: beyond them the key is given away.
#[test]
fn a_stall_without_a_grace_and_two_stalls_and_a_long_pause_are_caught() {
    let beside = "no run beside a living owner, unless the record was lost";
    let quiet = Bounds { crashes: 0, panics: 0, forgets: 0, repeats: 0, steps: 5, ..BOUNDS };
    assert!(found(Bounds { stalls: 1, grace: 0, ..quiet }, beside));
    assert!(found(Bounds { stalls: 2, ..quiet }, beside));
    assert!(found(Bounds { pause: u8::try_from(LEASE + GRACE).unwrap(), ..quiet }, beside));
}
