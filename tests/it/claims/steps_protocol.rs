//! An exhaustive check of steps with stateright: requests of one key whose handlers run two steps, and fail, crash or are
//! paused anywhere between them. The record is the [`Model`] that the stores are compared with.

use actix_idempotency::{
    store::{ReleaseAs, Saved},
    testing::model::{Answer, Ask, Event, Model},
};
use stateright::{Checker as _, Model as Checked, Property};

const LEASE: u64 = 2;
const STEPS: u8 = 2;

#[derive(Clone, Copy)]
struct Bounds {
    requests: usize,
    clock: u8,
    crashes: u8,
    failures: u8,
    pauses: u8,
    /// How often the answer to a save is lost, so that it is repeated.
    repeats: u8,
    /// A mistake: results are saved by whoever asks, after the claim is given up.
    saves_late: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Request {
    Idle,
    Runs(Run),
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Run {
    claim: u8,
    /// The steps that it has results of.
    known: Vec<u8>,
    /// The step whose closure has run, and whose result is not saved.
    worked: Option<u8>,
    /// It does not renew its lease.
    is_paused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    record: Model,
    requests: Vec<Request>,
    left: [u8; 5],
    /// The claims that have saved a result of each step.
    savers: Vec<Vec<u8>>,
    /// A run that was granted after a step was saved has run its closure.
    has_run_again: bool,
    /// The results that a run was granted are not those that were saved.
    has_forgotten: bool,
}

const CLOCK: usize = 0;
const CRASHES: usize = 1;
const FAILURES: usize = 2;
const PAUSES: usize = 3;
const REPEATS: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Happening {
    Begin(usize),
    Work(usize),
    Save(usize),
    /// The save is applied, and its answer is lost.
    LoseAnswer(usize),
    Complete(usize),
    Fail(usize),
    Crash(usize),
    Pause(usize),
    Clock,
}

fn number(n: usize) -> u8 {
    u8::try_from(n).expect("few")
}

impl State {
    fn is_saved(&self, step: u8) -> bool {
        !self.savers[usize::from(step)].is_empty()
    }

    fn take(&mut self, what: usize) {
        self.left[what] -= 1;
    }

    fn save(&mut self, run: &Run, step: u8) -> Saved {
        let save = Event::SaveStep { claim: run.claim, name: step, result: Some(run.claim + 1) };
        let Answer::Saved(saved) = self.record.apply(save) else { panic!("it answers") };
        let savers = &mut self.savers[usize::from(step)];
        if saved == Saved::Saved && !savers.contains(&run.claim) {
            savers.push(run.claim);
        }
        saved
    }
}

impl Checked for Bounds {
    type State = State;
    type Action = Happening;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            record: Model::default(),
            requests: vec![Request::Idle; self.requests],
            left: [self.clock, self.crashes, self.failures, self.pauses, self.repeats],
            savers: vec![Vec::new(); usize::from(STEPS)],
            has_run_again: false,
            has_forgotten: false,
        }]
    }

    fn actions(&self, state: &State, happenings: &mut Vec<Happening>) {
        for (n, request) in state.requests.iter().enumerate() {
            let Request::Runs(run) = request else {
                if *request == Request::Idle {
                    happenings.push(Happening::Begin(n));
                }
                continue;
            };
            match run.worked {
                Some(_) => {
                    happenings.push(Happening::Save(n));
                    if state.left[REPEATS] > 0 {
                        happenings.push(Happening::LoseAnswer(n));
                    }
                }
                None if run.known.len() == usize::from(STEPS) => happenings.push(Happening::Complete(n)),
                None => happenings.push(Happening::Work(n)),
            }
            let ends = [(CRASHES, Happening::Crash(n)), (FAILURES, Happening::Fail(n)), (PAUSES, Happening::Pause(n))];
            happenings.extend(ends.into_iter().filter(|(what, _)| state.left[*what] > 0).map(|(_, end)| end));
        }
        if state.left[CLOCK] > 0 {
            happenings.push(Happening::Clock);
        }
    }

    fn next_state(&self, last: &State, happening: Happening) -> Option<State> {
        let mut state = last.clone();
        let run_of = |state: &State, n: usize| match &state.requests[n] {
            Request::Runs(run) => Some(run.clone()),
            _ => None,
        };
        match happening {
            Happening::Begin(n) => {
                let claim = state.record.granted();
                match state.record.apply(Event::Begin(Ask::of(number(n)))) {
                    Answer::Acquired(granted) => {
                        let known: Vec<u8> = granted.steps.iter().map(|(name, _)| *name).collect();
                        let saved: Vec<u8> = (0..STEPS).filter(|step| state.is_saved(*step)).collect();
                        state.has_forgotten |= known != saved;
                        state.requests[n] = Request::Runs(Run { claim, known, worked: None, is_paused: false });
                    }
                    Answer::Completed { .. } => state.requests[n] = Request::Ended,
                    Answer::InFlight { .. } => {}
                    other => panic!("{other:?}"),
                }
                if state == *last {
                    return None;
                }
            }
            Happening::Work(n) => {
                let mut run = run_of(&state, n)?;
                let step = (0..STEPS).find(|step| !run.known.contains(step))?;
                // An owner that has lost its claim does not know what others have saved since.
                let knows_all = state.savers[usize::from(step)].iter().all(|saver| *saver > run.claim);
                state.has_run_again |= !knows_all;
                run.worked = Some(step);
                state.requests[n] = Request::Runs(run);
            }
            Happening::Save(n) | Happening::LoseAnswer(n) => {
                let mut run = run_of(&state, n)?;
                let step = run.worked?;
                if happening == Happening::LoseAnswer(n) {
                    state.take(REPEATS);
                    state.save(&run, step);
                } else {
                    let saved = match state.save(&run, step) {
                        Saved::Lost if self.saves_late => {
                            state.savers[usize::from(step)].push(run.claim);
                            Saved::Saved
                        }
                        saved => saved,
                    };
                    state.requests[n] = match saved {
                        Saved::Saved => {
                            run.worked = None;
                            run.known.push(step);
                            Request::Runs(run)
                        }
                        // The handler ends.
                        _ => Request::Ended,
                    };
                }
            }
            Happening::Complete(n) => {
                let run = run_of(&state, n)?;
                state.record.apply(Event::Complete { claim: run.claim, body: number(n), ttl: 1000 });
                state.requests[n] = Request::Ended;
            }
            Happening::Fail(n) => {
                let run = run_of(&state, n)?;
                state.take(FAILURES);
                state.record.apply(Event::Release { claim: run.claim, release_as: ReleaseAs::Free });
                state.requests[n] = Request::Ended;
            }
            Happening::Crash(n) => {
                state.take(CRASHES);
                state.requests[n] = Request::Ended;
            }
            Happening::Pause(n) => {
                let mut run = run_of(&state, n)?;
                state.take(PAUSES);
                run.is_paused = true;
                state.requests[n] = Request::Runs(run);
            }
            Happening::Clock => {
                state.take(CLOCK);
                for request in &state.requests {
                    if let Request::Runs(run) = request
                        && !run.is_paused
                    {
                        state.record.apply(Event::Renew { claim: run.claim, lease: LEASE });
                    }
                }
                state.record.apply(Event::Advance { units: 1 });
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a saved step is not run again", |_, state: &State| !state.has_run_again),
            Property::always("a run is granted all steps that were saved", |_, state: &State| !state.has_forgotten),
            Property::always("no two owners save the same step", |_, state: &State| {
                state.savers.iter().all(|savers| savers.len() <= 1)
            }),
            Property::sometimes("a run goes on where another one stopped", |_, state: &State| {
                state.savers.iter().all(|savers| savers.len() == 1) && state.savers[0] != state.savers[1]
            }),
        ]
    }
}

const BOUNDS: Bounds =
    Bounds { requests: 3, clock: 7, crashes: 1, failures: 1, pauses: 1, repeats: 1, saves_late: false };

#[test]
fn no_order_of_events_runs_a_saved_step_again() {
    let checker = BOUNDS.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1000, "{} states", checker.unique_state_count());
}

/// Shows that the check can fail.
#[test]
fn saves_of_an_owner_that_lost_its_claim_are_caught() {
    let checker = Bounds { saves_late: true, ..BOUNDS }.checker().spawn_bfs().join();
    assert!(checker.discovery("no two owners save the same step").is_some());
}
