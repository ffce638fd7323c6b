//! Plays random sequences of store calls and clock steps to a store and to a model of a record's life, and compares
//! what the two answer. A sequence that fails shrinks to the few calls that matter.
//!
//! The model shares no code with [`lifecycle`](crate::store::lifecycle): an oracle that shared it would prove nothing.
#![allow(clippy::missing_panics_doc, reason = "a test tool panics when the test fails")]

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;
use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};

use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, IfCompleted, OnUnknown, OwnerToken, RecordState, ReleaseAs,
        Renewal, Store,
    },
};

/// A unit of time, longer than any sequence takes: real clocks may go on meanwhile.
const UNIT: Duration = Duration::from_secs(1000);
const KEEP: u64 = 8;

/// One step of a sequence. Claims are numbered in the order in which they were granted; a number counts modulo how many
/// there are.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the call")]
pub enum Step {
    Begin { id: u8, token: u8, fingerprint: u8, lease: u64, if_completed: IfCompleted, on_unknown: OnUnknown },
    Renew { claim: u8, lease: u64 },
    Complete { claim: u8, body: u8, ttl: u64 },
    Release { claim: u8, release_as: ReleaseAs },
    Forget { id: u8 },
    Inspect { id: u8 },
    Advance { units: u64 },
}

/// Random sequences of steps.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let if_completed = prop_oneof![3 => Just(IfCompleted::Replay), 1 => Just(IfCompleted::Rerun)];
    let on_unknown = prop_oneof![3 => Just(OnUnknown::Rerun), 1 => Just(OnUnknown::Reject)];
    let begin = (0..2_u8, 0..4_u8, prop_oneof![4 => Just(0_u8), 1 => Just(1)], 1..4_u64, if_completed, on_unknown);
    let step = prop_oneof![
        6 => begin.prop_map(|(id, token, fingerprint, lease, if_completed, on_unknown)| Step::Begin { id, token, fingerprint, lease, if_completed, on_unknown }),
        1 => (any::<u8>(), 1..4_u64).prop_map(|(claim, lease)| Step::Renew { claim, lease }),
        3 => (any::<u8>(), any::<u8>(), 1..6_u64).prop_map(|(claim, body, ttl)| Step::Complete { claim, body, ttl }),
        2 => (any::<u8>(), prop_oneof![Just(ReleaseAs::Free), Just(ReleaseAs::Unknown)]).prop_map(|(claim, release_as)| Step::Release { claim, release_as }),
        1 => (0..2_u8).prop_map(|id| Step::Forget { id }),
        1 => (0..2_u8).prop_map(|id| Step::Inspect { id }),
        3 => (1..5_u64).prop_map(|units| Step::Advance { units }),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The answer to a step, as far as callers may rely on it. Bodies stand for records.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is the answer of the call")]
pub enum Answer {
    Acquired { attempt: u32, taken_over: bool, previous: Option<u8> },
    InFlight,
    Mismatch,
    Completed(u8),
    OwnerLost,
    Renewed(bool),
    Stored,
    Superseded(Option<u8>),
    Released,
    Forgotten(Forgotten),
    Seen(Option<(RecordState, Option<u8>)>),
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Done {
    fingerprint: u8,
    token: u8,
    attempt: u32,
    body: u8,
    expires: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Life {
    Claimed {
        fingerprint: u8,
        token: u8,
        attempt: u32,
        taken_over: bool,
        lease_ends: u64,
        kept_until: u64,
        previous: Option<Done>,
    },
    Done(Done),
}

/// A claim as its owner remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    id: u8,
    token: u8,
    fingerprint: u8,
    attempt: u32,
}

/// The model: records in a map, and a clock in units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Model {
    now: u64,
    records: BTreeMap<u8, Life>,
    owners: Vec<Owner>,
}

impl Model {
    /// Removes a record that has expired.
    fn settle(&mut self, id: u8) {
        let now = self.now;
        let settled = match self.records.remove(&id) {
            Some(Life::Done(done)) if now >= done.expires => None,
            Some(Life::Claimed { kept_until, .. }) if now >= kept_until => None,
            life => life,
        };
        if let Some(life) = settled {
            self.records.insert(id, life);
        }
    }

    /// Applies a step and returns the answer that a store must give.
    pub fn step(&mut self, step: Step) -> Answer {
        match step {
            Step::Advance { units } => {
                self.now += units;
                Answer::Nothing
            }
            Step::Begin { id, token, fingerprint, lease, if_completed, on_unknown } => {
                self.settle(id);
                self.begin(id, token, fingerprint, lease, if_completed, on_unknown)
            }
            Step::Forget { id } => {
                self.settle(id);
                Answer::Forgotten(match self.records.get(&id) {
                    None => Forgotten::Absent,
                    Some(Life::Claimed { lease_ends, .. }) if self.now < *lease_ends => Forgotten::InFlight,
                    Some(_) => {
                        self.records.remove(&id);
                        Forgotten::Removed
                    }
                })
            }
            Step::Inspect { id } => {
                self.settle(id);
                Answer::Seen(self.records.get(&id).map(|life| match life {
                    Life::Done(done) => (RecordState::Completed, Some(done.body)),
                    Life::Claimed { lease_ends, .. } if self.now < *lease_ends => (RecordState::InFlight, None),
                    Life::Claimed { .. } => (RecordState::OwnerLost, None),
                }))
            }
            Step::Renew { claim, lease } => self.with_owner(claim, |model, owner| model.renew(owner, lease)),
            Step::Complete { claim, body, ttl } => {
                self.with_owner(claim, |model, owner| model.complete(owner, body, ttl))
            }
            Step::Release { claim, release_as } => {
                self.with_owner(claim, |model, owner| model.release(owner, release_as))
            }
        }
    }

    /// The token of the claim with this number.
    #[must_use]
    pub fn token(&self, claim: u8) -> u8 {
        if self.owners.is_empty() { 0 } else { self.owners[claim as usize % self.owners.len()].token }
    }

    /// The store loses a record.
    pub fn lose(&mut self, id: u8) {
        self.records.remove(&id);
    }

    /// The response that is stored.
    #[must_use]
    pub fn body(&self, id: u8) -> Option<u8> {
        match self.records.get(&id) {
            Some(Life::Done(done)) => Some(done.body),
            _ => None,
        }
    }

    /// How many claims were granted so far. The next claim has this number.
    #[must_use]
    pub fn granted(&self) -> u8 {
        u8::try_from(self.owners.len()).expect("few")
    }

    fn with_owner(&mut self, claim: u8, f: impl FnOnce(&mut Self, Owner) -> Answer) -> Answer {
        if self.owners.is_empty() {
            return Answer::Nothing;
        }
        let owner = self.owners[claim as usize % self.owners.len()];
        self.settle(owner.id);
        f(self, owner)
    }

    fn begin(
        &mut self,
        id: u8,
        token: u8,
        fingerprint: u8,
        lease: u64,
        if_completed: IfCompleted,
        on_unknown: OnUnknown,
    ) -> Answer {
        let (now, lease_ends) = (self.now, self.now + lease);
        let (attempt, taken_over, previous) = match self.records.get(&id).cloned() {
            None => (1, false, None),
            Some(Life::Done(done)) if done.fingerprint != fingerprint => return Answer::Mismatch,
            Some(Life::Done(done)) if if_completed == IfCompleted::Replay => return Answer::Completed(done.body),
            Some(Life::Done(done)) => (done.attempt + 1, false, Some(done)),
            Some(Life::Claimed { fingerprint: theirs, .. }) if theirs != fingerprint => return Answer::Mismatch,
            Some(Life::Claimed { token: theirs, attempt, taken_over, previous, .. }) if theirs == token => {
                (attempt, taken_over, previous)
            }
            Some(Life::Claimed { lease_ends, .. }) if now < lease_ends => return Answer::InFlight,
            Some(Life::Claimed { previous: Some(done), attempt, .. })
                if if_completed == IfCompleted::Replay && now < done.expires =>
            {
                let body = done.body;
                self.records.insert(id, Life::Done(Done { attempt, ..done }));
                return Answer::Completed(body);
            }
            Some(Life::Claimed { previous: Some(_), .. }) if if_completed == IfCompleted::Replay => (1, false, None),
            Some(Life::Claimed { .. }) if on_unknown == OnUnknown::Reject => return Answer::OwnerLost,
            Some(Life::Claimed { attempt, previous, .. }) => {
                (attempt + 1, true, previous.filter(|done| now < done.expires))
            }
        };
        let response = previous.as_ref().map(|done| done.body).filter(|_| if_completed == IfCompleted::Rerun);
        let kept_until = (lease_ends + KEEP).max(previous.as_ref().map_or(0, |done| done.expires));
        let claimed = Life::Claimed { fingerprint, token, attempt, taken_over, lease_ends, kept_until, previous };
        self.records.insert(id, claimed);
        self.owners.push(Owner { id, token, fingerprint, attempt });
        Answer::Acquired { attempt, taken_over, previous: response }
    }

    fn renew(&mut self, owner: Owner, lease: u64) -> Answer {
        let now = self.now;
        match self.records.get_mut(&owner.id) {
            Some(Life::Claimed { token, lease_ends, kept_until, .. }) if *token == owner.token => {
                let keep = *kept_until - *lease_ends;
                *lease_ends = now + lease;
                *kept_until = *lease_ends + keep;
                Answer::Renewed(true)
            }
            _ => Answer::Renewed(false),
        }
    }

    fn complete(&mut self, owner: Owner, body: u8, ttl: u64) -> Answer {
        match self.records.get(&owner.id) {
            Some(Life::Claimed { token, .. }) if *token != owner.token => return Answer::Superseded(None),
            Some(Life::Done(done)) if done.token != owner.token => return Answer::Superseded(Some(done.body)),
            Some(Life::Done(_)) => return Answer::Stored,
            Some(Life::Claimed { .. }) | None => {}
        }
        let Owner { id, token, fingerprint, attempt } = owner;
        self.records.insert(id, Life::Done(Done { fingerprint, token, attempt, body, expires: self.now + ttl }));
        Answer::Stored
    }

    fn release(&mut self, owner: Owner, release_as: ReleaseAs) -> Answer {
        let now = self.now;
        if let Some(Life::Claimed { token, attempt, lease_ends, previous, .. }) = self.records.get_mut(&owner.id)
            && *token == owner.token
        {
            match (release_as, previous.take()) {
                (ReleaseAs::Unknown, kept) => {
                    *previous = kept;
                    *lease_ends = now;
                }
                (ReleaseAs::Free, Some(done)) if now < done.expires => {
                    let attempt = *attempt;
                    self.records.insert(owner.id, Life::Done(Done { attempt, ..done }));
                }
                (ReleaseAs::Free, _) => {
                    self.records.remove(&owner.id);
                }
            }
        }
        Answer::Released
    }
}

fn record(body: u8) -> Record {
    Record::from_bytes(Bytes::from(vec![1, 251, 201, 0, 0, 1, 1, body])).expect("a record")
}

fn body(record: &Record) -> u8 {
    record.response().expect("readable").body().expect("a body")[0]
}

/// A store under test, and the function that makes time pass for it.
pub struct Subject<'a> {
    store: &'a dyn Store,
    advance: &'a mut dyn FnMut(Duration),
    /// Keeps the records of this sequence apart from the records of other sequences.
    salt: u32,
    claims: Vec<Claim>,
    fences: BTreeMap<u8, u64>,
}

impl<'a> Subject<'a> {
    /// A subject whose records are kept apart from those with another `salt`.
    pub fn new(store: &'a dyn Store, salt: u32, advance: &'a mut dyn FnMut(Duration)) -> Self {
        Self { store, advance, salt, claims: Vec::new(), fences: BTreeMap::new() }
    }

    /// The id of the record that a step names.
    #[must_use]
    pub fn id(&self, id: u8) -> RecordId {
        let mut bytes = [id; 32];
        bytes[..4].copy_from_slice(&self.salt.to_le_bytes());
        RecordId::from_bytes(bytes)
    }

    /// Applies a step to the store.
    pub async fn step(&mut self, step: Step) -> Answer {
        match step {
            Step::Advance { units } => {
                (self.advance)(UNIT * u32::try_from(units).expect("few"));
                Answer::Nothing
            }
            Step::Begin { id, token, fingerprint, lease, if_completed, on_unknown } => {
                let fingerprint = Fingerprint::from_bytes([fingerprint; 32]);
                let request = BeginRequest::new(self.id(id), fingerprint, OwnerToken::from_bytes([token; 16]))
                    .lease(units(lease))
                    .keep(units(KEEP))
                    .if_completed(if_completed)
                    .on_unknown(on_unknown);
                match self.store.begin(&request).await.expect("it answers") {
                    Begin::Acquired(acquired) => {
                        let (claim, previous) = (acquired.claim, acquired.previous);
                        let (attempt, taken_over) = (claim.attempt, claim.taken_over);
                        let last = self.fences.insert(id, claim.fence).unwrap_or(0);
                        let repeated =
                            self.claims.iter().any(|known| known.id == claim.id && known.fence == claim.fence);
                        assert!(claim.fence > last || repeated, "fences grow");
                        self.claims.push(claim);
                        let previous = previous.as_ref().map(body).filter(|_| if_completed == IfCompleted::Rerun);
                        Answer::Acquired { attempt, taken_over, previous }
                    }
                    Begin::InFlight(wait) => {
                        assert!(wait.retry_after <= units(4), "{wait:?}");
                        Answer::InFlight
                    }
                    Begin::Mismatch => Answer::Mismatch,
                    Begin::Completed(found) => Answer::Completed(body(&found.record)),
                    Begin::OwnerLost => Answer::OwnerLost,
                }
            }
            Step::Forget { id } => Answer::Forgotten(self.store.forget(&self.id(id)).await.expect("it answers")),
            Step::Inspect { id } => {
                let seen = self.store.inspect(&self.id(id)).await.expect("it answers");
                Answer::Seen(seen.map(|seen| (seen.state, seen.record.as_ref().map(body))))
            }
            Step::Renew { claim, lease } => {
                let Some(claim) = self.claim(claim) else { return Answer::Nothing };
                let renewal = self.store.renew(&claim, units(lease)).await.expect("it answers");
                Answer::Renewed(renewal == Renewal::Extended)
            }
            Step::Complete { claim, body: text, ttl } => {
                let Some(claim) = self.claim(claim) else { return Answer::Nothing };
                match self.store.complete(&claim, &record(text), units(ttl)).await.expect("it answers") {
                    Completion::Stored => Answer::Stored,
                    Completion::Superseded(winner) => Answer::Superseded(winner.as_ref().map(body)),
                }
            }
            Step::Release { claim, release_as } => {
                let Some(claim) = self.claim(claim) else { return Answer::Nothing };
                self.store.release(&claim, release_as).await.expect("it answers");
                Answer::Released
            }
        }
    }

    fn claim(&self, n: u8) -> Option<Claim> {
        let known = self.claims.len();
        (known > 0).then(|| self.claims[n as usize % known].clone())
    }
}

fn units(n: u64) -> Duration {
    UNIT * u32::try_from(n).expect("few")
}

/// Plays a sequence to the model and the store, and compares their answers.
///
/// # Errors
/// The first step at which the two differ.
pub async fn play(mut subject: Subject<'_>, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for (n, step) in steps.iter().enumerate() {
        let (expected, answered) = (model.step(*step), subject.step(*step).await);
        prop_assert_eq!(&expected, &answered, "at step {}: {:?}; the model expects the left", n, step);
    }
    Ok(())
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject")
    }
}

/// Plays `cases` random sequences to a store and to the model.
///
/// `make` returns an empty store and a function that makes time pass for it; it is called once per sequence, within an
/// actix runtime. Call this from a plain `#[test]`, since it runs the runtime itself.
///
/// ```
/// use actix_idempotency::{store::{Clock, MemoryLimits, MemoryStore}, testing::model::compare_with_model};
///
/// compare_with_model(50, || {
///     let clock = Clock::steered();
///     (MemoryStore::with_clock(MemoryLimits::default(), clock.clone()), move |by| clock.advance(by))
/// });
/// ```
///
/// # Panics
/// With the shortest sequence after which the store and the model differ.
pub fn compare_with_model<S: Store, A: FnMut(Duration)>(cases: u32, make: impl Fn() -> (S, A)) {
    let runtime = actix_web::rt::System::new();
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) });
    let played = runner.run(&steps(), |steps| {
        runtime.block_on(async {
            let (store, mut advance) = make();
            play(Subject::new(&store, 0, &mut advance), &steps).await
        })
    });
    if let Err(failure) = played {
        match failure {
            TestError::Fail(why, steps) => panic!("{why}\nthe shortest sequence: {steps:#?}"),
            TestError::Abort(why) => panic!("{why}"),
        }
    }
}
