//! Plays random sequences of store calls and clock steps to a store and to a model of a record's life, and compares
//! what the two answer. A sequence that fails shrinks to the few calls that matter.
//!
//! The model shares no code with [`lifecycle`](crate::store::lifecycle): an oracle that shared it would prove nothing.
#![allow(clippy::missing_panics_doc, reason = "a test tool panics when the test fails")]

mod oracle;
mod subject;

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};

pub use self::{oracle::Model, subject::Subject};
use crate::store::{Forgotten, IfCompleted, OnUnknown, RecordState, ReleaseAs, Saved, Store};

/// A unit of time, longer than any sequence takes: real clocks may go on meanwhile.
const UNIT: Duration = Duration::from_secs(1000);

/// One event of a sequence. Claims are numbered in the order in which they were granted; a number counts modulo how many
/// there are. Durations are in units.
///
/// A fingerprint is a number: 0 and 1 are two payloads of one target in one scheme, 2 is the same target in another
/// scheme, and 3 is another target in that scheme.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the call")]
pub enum Event {
    Begin(Ask),
    Renew { claim: u8, lease: u64 },
    Restore { claim: u8, lease: u64, within: u64 },
    SaveStep { claim: u8, name: u8, result: Option<u8> },
    Complete { claim: u8, body: u8, ttl: u64 },
    Release { claim: u8, release_as: ReleaseAs },
    Forget { id: u8 },
    Inspect { id: u8 },
    Advance { units: u64 },
}

/// The arguments of a `begin`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the call")]
pub struct Ask {
    pub id: u8,
    pub token: u8,
    pub fingerprint: u8,
    pub lease: u64,
    pub grace: u64,
    pub keep: u64,
    pub if_completed: IfCompleted,
    pub on_unknown: OnUnknown,
}

impl Ask {
    /// The record 0, with a lease of 2, no grace, a keep of 8, replay and rerun.
    #[must_use]
    pub const fn of(token: u8) -> Self {
        let (if_completed, on_unknown) = (IfCompleted::Replay, OnUnknown::Rerun);
        Self { id: 0, token, fingerprint: 0, lease: 2, grace: 0, keep: 8, if_completed, on_unknown }
    }
}

/// Random sequences of events.
pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let if_completed = prop_oneof![2 => Just(IfCompleted::Replay), 1 => Just(IfCompleted::Rerun)];
    let on_unknown = prop_oneof![3 => Just(OnUnknown::Rerun), 1 => Just(OnUnknown::Reject)];
    let fingerprint = prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2), 1 => Just(3)];
    let begin = (0..2_u8, 0..4_u8, fingerprint, 1..4_u64, 0..3_u64, 1..9_u64, if_completed, on_unknown);
    let begin = begin.prop_map(|(id, token, fingerprint, lease, grace, keep, if_completed, on_unknown)| {
        Event::Begin(Ask { id, token, fingerprint, lease, grace, keep, if_completed, on_unknown })
    });
    let release_as = prop_oneof![
        3 => Just(ReleaseAs::Free),
        2 => Just(ReleaseAs::Unknown),
        1 => Just(ReleaseAs::NotStored { status: 503 }),
        1 => Just(ReleaseAs::Ended),
    ];
    let claim = any::<u8>;
    let step = (claim(), 0..3_u8, proptest::option::of(0..3_u8));
    let event = prop_oneof![
        8 => begin,
        2 => (claim(), 1..4_u64).prop_map(|(claim, lease)| Event::Renew { claim, lease }),
        1 => (claim(), 1..4_u64, 0..3_u64).prop_map(|(claim, lease, within)| Event::Restore { claim, lease, within }),
        2 => step.prop_map(|(claim, name, result)| Event::SaveStep { claim, name, result }),
        3 => (claim(), any::<u8>(), 1..12_u64).prop_map(|(claim, body, ttl)| Event::Complete { claim, body, ttl }),
        3 => (claim(), release_as).prop_map(|(claim, release_as)| Event::Release { claim, release_as }),
        1 => (0..2_u8).prop_map(|id| Event::Forget { id }),
        1 => (0..2_u8).prop_map(|id| Event::Inspect { id }),
        3 => (1..5_u64).prop_map(|units| Event::Advance { units }),
    ];
    proptest::collection::vec(event, 1..50)
}

/// The answer to an event, as far as callers may rely on it. Bodies stand for records.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is the answer of the call")]
pub enum Answer {
    Acquired(Granted),
    InFlight { lapsed: bool },
    Mismatch,
    Completed { body: u8, other_scheme: bool },
    OwnerLost,
    Renewed,
    Lost,
    Gone,
    Saved(Saved),
    Stored,
    Superseded(Option<u8>),
    Released(bool),
    Forgotten(Forgotten),
    Seen(Option<Seen>),
    Nothing,
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of the claim")]
pub struct Granted {
    pub attempt: u32,
    pub taken_over: bool,
    pub completions: u32,
    pub other_scheme: bool,
    pub previous: Option<u8>,
    pub steps: Vec<(u8, Option<u8>)>,
}

/// A record as operators see it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of the inspection")]
pub struct Seen {
    pub state: RecordState,
    pub body: Option<u8>,
    pub attempt: u32,
    pub owner: u8,
    pub lost_owner: bool,
    pub not_stored: Option<u16>,
    pub steps: Vec<(u8, bool)>,
}

/// Plays a sequence to the model and the store, and compares their answers.
///
/// # Errors
/// The first event at which the two differ.
pub async fn play(mut subject: Subject<'_>, events: &[Event]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for (n, event) in events.iter().enumerate() {
        let (expected, answered) = (model.apply(*event), subject.apply(*event).await);
        prop_assert_eq!(&expected, &answered, "at event {}: {:?}; the model expects the left", n, event);
    }
    Ok(())
}

/// Plays `cases` random sequences to a store and to the model.
///
/// `make` returns an empty store and a function that makes time pass for it; it is called once per sequence, within an
/// actix runtime. Call this from a plain `#[test]`, since it runs the runtime itself.
///
/// ```
/// use actix_idempotency::{store::{Clock, MemoryLimits, MemoryStore}, testing::model::compare_with_model};
///
/// compare_with_model(50, async || {
///     let clock = Clock::steered();
///     (MemoryStore::with_clock(MemoryLimits::default(), clock.clone()), move |by| clock.advance(by))
/// });
/// ```
///
/// # Panics
/// With the shortest sequence after which the store and the model differ.
pub fn compare_with_model<S: Store, A: FnMut(Duration)>(cases: u32, make: impl AsyncFn() -> (S, A)) {
    let runtime = actix_web::rt::System::new();
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) });
    let played = runner.run(&events(), |events| {
        runtime.block_on(async {
            let (store, mut advance) = make().await;
            play(Subject::new(&store, 0, &mut advance), &events).await
        })
    });
    if let Err(failure) = played {
        match failure {
            TestError::Fail(why, events) => panic!("{why}\nthe shortest sequence: {events:#?}"),
            TestError::Abort(why) => panic!("{why}"),
        }
    }
}
