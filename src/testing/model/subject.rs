//! The store under test: it is called as the model is told.

use std::{collections::BTreeMap, fmt, time::Duration};

use actix_web::http::StatusCode;

use super::{Answer, Ask, Event, Granted, Seen, UNIT, oracle::RESTORED};
use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{Begin, BeginRequest, Claim, Completion, Inspection, Moment, OwnerToken, Renewal, Restore, Step, Store},
};

/// A store under test, and the function that makes time pass for it.
pub struct Subject<'a> {
    store: &'a dyn Store,
    advance: &'a mut dyn FnMut(Duration),
    /// Keeps the records of this sequence apart from the records of other sequences.
    salt: u32,
    claims: Vec<Claim>,
    fences: BTreeMap<u8, u64>,
    /// By claim: the moment at which its record was gone.
    gone: BTreeMap<usize, Moment>,
    /// Moves a moment as time passes, where the clock of the store can't be moved.
    shift: fn(Moment, Duration) -> Moment,
}

impl<'a> Subject<'a> {
    /// A subject whose records are kept apart from those with another `salt`.
    pub fn new(store: &'a dyn Store, salt: u32, advance: &'a mut dyn FnMut(Duration)) -> Self {
        let (claims, fences, gone) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { store, advance, salt, claims, fences, gone, shift: |moment, _| moment }
    }

    /// For a store whose clock can't be moved, so that its records are moved instead: `shift` returns a moment moved
    /// back by a duration.
    #[must_use]
    pub fn shifting_moments(self, shift: fn(Moment, Duration) -> Moment) -> Self {
        Self { shift, ..self }
    }

    /// The id of the record that an event names.
    #[must_use]
    pub fn id(&self, id: u8) -> RecordId {
        let mut bytes = [id; 32];
        bytes[..4].copy_from_slice(&self.salt.to_le_bytes());
        RecordId::from_bytes(bytes)
    }

    /// Applies an event to the store.
    pub async fn apply(&mut self, event: Event) -> Answer {
        let of_claim = |n: u8| (!self.claims.is_empty()).then(|| n as usize % self.claims.len());
        let claim = match event {
            Event::Begin(ask) => return self.begin(ask).await,
            Event::Forget { id } => {
                return Answer::Forgotten(self.store.forget(&self.id(id)).await.expect("it answers"));
            }
            Event::Inspect { id } => {
                return Answer::Seen(self.store.inspect(&self.id(id)).await.expect("it answers").as_ref().map(seen));
            }
            Event::Advance { units: n } => {
                (self.advance)(units(n));
                self.gone.values_mut().for_each(|moment| *moment = (self.shift)(*moment, units(n)));
                return Answer::Nothing;
            }
            Event::Renew { claim, .. }
            | Event::Restore { claim, .. }
            | Event::SaveStep { claim, .. }
            | Event::Complete { claim, .. }
            | Event::Release { claim, .. } => of_claim(claim),
        };
        let Some(n) = claim else { return Answer::Nothing };
        self.by_owner(n, event).await
    }

    async fn begin(&mut self, ask: Ask) -> Answer {
        let token = OwnerToken::from_bytes([ask.token; 16]);
        let request = BeginRequest::new(self.id(ask.id), fingerprint(ask.fingerprint), token)
            .lease(units(ask.lease))
            .grace(units(ask.grace))
            .keep(units(ask.keep))
            .if_completed(ask.if_completed)
            .on_unknown(ask.on_unknown);
        match self.store.begin(&request).await.expect("it answers") {
            Begin::Acquired(acquired) => {
                let claim = acquired.claim;
                let last = self.fences.insert(ask.id, claim.fence).unwrap_or(0);
                let repeated = self.claims.iter().any(|known| known.id == claim.id && known.fence == claim.fence);
                assert!(claim.fence > last || repeated, "fences grow");
                let granted = Granted {
                    attempt: claim.attempt,
                    taken_over: claim.taken_over,
                    completions: claim.completions,
                    other_scheme: acquired.other_scheme,
                    previous: acquired.previous.as_ref().map(body),
                    steps: acquired.steps.iter().map(|step| (number(&step.name), result(step))).collect(),
                };
                self.claims.push(claim);
                Answer::Acquired(granted)
            }
            Begin::InFlight(wait) => {
                assert!(!wait.left.is_zero() && wait.left <= units(4), "{wait:?}");
                Answer::InFlight { lapsed: wait.lapsed }
            }
            Begin::Mismatch => Answer::Mismatch,
            Begin::Completed(found) => {
                Answer::Completed { body: body(&found.record), other_scheme: found.other_scheme }
            }
            Begin::OwnerLost => Answer::OwnerLost,
        }
    }

    async fn by_owner(&mut self, n: usize, event: Event) -> Answer {
        let (claim, store) = (&self.claims[n], self.store);
        match event {
            Event::Renew { lease, .. } => {
                let renewal = store.renew(claim, units(lease)).await.expect("it answers");
                if let Renewal::Gone(moment) = renewal {
                    self.gone.insert(n, moment);
                }
                renewed(renewal)
            }
            Event::Restore { lease, within, .. } => {
                let Some(gone) = self.gone.get(&n) else { return Answer::Nothing };
                // Between two units, so that real clocks may go on.
                let restore = Restore::new(units(lease), *gone, units(within) + UNIT / 2);
                let restore = restore.steps(vec![step(RESTORED.0, RESTORED.1)]);
                renewed(store.restore(claim, &restore).await.expect("it answers"))
            }
            Event::SaveStep { name, result, .. } => {
                Answer::Saved(store.save_step(claim, &step(name, result)).await.expect("it answers"))
            }
            Event::Complete { body: text, ttl, .. } => {
                match store.complete(claim, &record(text), units(ttl)).await.expect("it answers") {
                    Completion::Stored => Answer::Stored,
                    Completion::Superseded(winner) => Answer::Superseded(winner.as_ref().map(body)),
                }
            }
            Event::Release { release_as, .. } => {
                Answer::Released(store.release(claim, release_as).await.expect("it answers"))
            }
            Event::Begin(_) | Event::Forget { .. } | Event::Inspect { .. } | Event::Advance { .. } => Answer::Nothing,
        }
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject")
    }
}

fn units(n: u64) -> Duration {
    UNIT * u32::try_from(n).expect("few")
}

fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint::new([u8::from(n >= 2); 2], [u8::from(n == 3); 8], [n; 32])
}

fn record(body: u8) -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[body]))
}

fn body(record: &Record) -> u8 {
    record.response().expect("readable").body().expect("a body")[0]
}

fn step(name: u8, result: Option<u8>) -> Step {
    let name = name.to_string();
    match result {
        Some(0) => Step::not_done(name),
        Some(result) => Step::done(name, vec![result]),
        None => Step::started(name),
    }
}

fn number(name: &str) -> u8 {
    name.parse().expect("a number")
}

fn result(step: &Step) -> Option<u8> {
    step.result.as_ref().map(|result| result.first().copied().unwrap_or(0))
}

fn renewed(renewal: Renewal) -> Answer {
    match renewal {
        Renewal::Extended => Answer::Renewed,
        Renewal::Lost => Answer::Lost,
        Renewal::Gone(_) => Answer::Gone,
    }
}

fn seen(inspection: &Inspection) -> Seen {
    Seen {
        state: inspection.state,
        body: inspection.record.as_ref().map(body),
        attempt: inspection.attempt,
        owner: inspection.owner.expect("it tells the owner").as_bytes()[0],
        lost_owner: inspection.lost_owner.expect("it tells of a lost owner"),
        not_stored: inspection.not_stored,
        steps: inspection.steps.iter().map(|step| (number(&step.name), step.size.is_some())).collect(),
    }
}
