//! The model: what a store must answer, written down a second time.

use std::collections::BTreeMap;

use super::{Answer, Ask, Event, Granted, Seen};
use crate::store::{Forgotten, IfCompleted, OnUnknown, RecordState, ReleaseAs, Saved};

/// An hour, in whole units: what is seen after it is seen a unit later.
const NOT_STORED: u64 = 4;

/// The step that a restoration brings along.
pub(super) const RESTORED: (u8, Option<u8>) = (9, Some(9));

/// Records in a map, and a clock in units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Model {
    now: u64,
    records: BTreeMap<u8, Life>,
    owners: Vec<Owner>,
}

/// One record. Who holds it, what it remembers, and the response: each may be there or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Life {
    fingerprint: u8,
    holder: Holder,
    /// The token of the last claim.
    token: u8,
    attempt: u32,
    completions: u32,
    lost_owner: bool,
    not_stored: Option<u16>,
    steps: Vec<(u8, Option<u8>)>,
    /// The response. Beneath a claim when somebody holds or held the record since.
    done: Option<Done>,
    grace: u64,
    keep: u64,
    /// When the record is gone, unless it is completed.
    until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// A claim whose lease ends then.
    Leased(u64),
    /// A claim whose lease was over when somebody asked. Until then its owner is waited for.
    Awaited(u64),
    /// The owner said that nobody knows.
    Lost,
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Done {
    body: u8,
    token: u8,
    until: u64,
}

/// A claim as its owner remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    ask: Asked,
    attempt: u32,
    taken_over: bool,
    completions: u32,
    /// When the owner last heard that its record is gone.
    gone: Option<u64>,
}

/// The part of [`Ask`] that an owner keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    id: u8,
    token: u8,
    fingerprint: u8,
    grace: u64,
    keep: u64,
}

/// Whether two fingerprints count as equal, and whether only their targets were compared.
fn compare(a: u8, b: u8) -> (bool, bool) {
    let (scheme, target) = (|f: u8| f >= 2, |f: u8| f == 3);
    let other_scheme = scheme(a) != scheme(b) && target(a) == target(b);
    (a == b || other_scheme, other_scheme)
}

impl Life {
    fn is_completed(&self) -> bool {
        self.done.is_some() && self.holder == Holder::Nobody
    }

    fn ends(&self) -> u64 {
        let done = self.done.as_ref().map_or(0, |done| done.until);
        if self.is_completed() { done } else { self.until.max(done) }
    }

    fn is_held_by(&self, token: u8) -> bool {
        matches!(self.holder, Holder::Leased(_) | Holder::Awaited(_)) && self.token == token
    }

    /// Whether somebody is waited for. Notes a lease that is over.
    fn is_awaited(&mut self, now: u64) -> Option<bool> {
        if let Holder::Leased(ends) = self.holder {
            if now < ends {
                return Some(false);
            }
            self.holder = Holder::Awaited(now + self.grace);
            self.until = now + self.keep;
        }
        matches!(self.holder, Holder::Awaited(ends) if now < ends).then_some(true)
    }

    fn lease(&mut self, lease: u64, now: u64) {
        self.holder = Holder::Leased(now + lease);
        self.until = now + lease + self.keep;
    }
}

impl Model {
    /// Applies an event and returns the answer that a store must give.
    pub fn apply(&mut self, event: Event) -> Answer {
        let now = self.now;
        match event {
            Event::Advance { units } => {
                self.now += units;
                Answer::Nothing
            }
            Event::Begin(ask) => self.begin(ask),
            Event::Forget { id } => Answer::Forgotten(match self.record(id) {
                None => Forgotten::Absent,
                Some(life) => {
                    if !life.is_completed() && life.is_awaited(now).is_some() {
                        return Answer::Forgotten(Forgotten::InFlight);
                    }
                    self.records.remove(&id);
                    Forgotten::Removed
                }
            }),
            Event::Inspect { id } => Answer::Seen(self.record(id).map(|life| life.seen(now))),
            Event::Renew { claim, lease } => self.of_owner(claim, |model, n, owner| model.renew(n, owner, lease)),
            Event::Restore { claim, lease, within } => {
                self.of_owner(claim, |model, _, owner| model.restore(owner, lease, within))
            }
            Event::SaveStep { claim, name, result } => {
                self.of_owner(claim, |model, _, owner| model.save_step(owner, name, result))
            }
            Event::Complete { claim, body, ttl } => {
                self.of_owner(claim, |model, _, owner| model.complete(owner, body, ttl))
            }
            Event::Release { claim, release_as } => {
                self.of_owner(claim, |model, _, owner| Answer::Released(model.release(owner, release_as)))
            }
        }
    }

    /// The token of the claim with this number.
    #[must_use]
    pub fn token(&self, claim: u8) -> u8 {
        if self.owners.is_empty() { 0 } else { self.owners[claim as usize % self.owners.len()].ask.token }
    }

    /// The store loses a record.
    pub fn lose(&mut self, id: u8) {
        self.records.remove(&id);
    }

    /// The response that is stored, beneath a claim or not.
    #[must_use]
    pub fn body(&self, id: u8) -> Option<u8> {
        self.records.get(&id)?.done.as_ref().map(|done| done.body)
    }

    /// How many claims were granted so far. The next claim has this number.
    #[must_use]
    pub fn granted(&self) -> u8 {
        u8::try_from(self.owners.len()).expect("few")
    }

    /// The record, unless it has expired.
    fn record(&mut self, id: u8) -> Option<&mut Life> {
        let now = self.now;
        if self.records.get(&id).is_some_and(|life| now >= life.ends()) {
            self.records.remove(&id);
        }
        self.records.get_mut(&id)
    }

    fn of_owner(&mut self, claim: u8, apply: impl FnOnce(&mut Self, usize, Owner) -> Answer) -> Answer {
        if self.owners.is_empty() {
            return Answer::Nothing;
        }
        let n = claim as usize % self.owners.len();
        apply(self, n, self.owners[n])
    }

    fn begin(&mut self, ask: Ask) -> Answer {
        let now = self.now;
        let mut life = match self.record(ask.id) {
            None => Life {
                fingerprint: ask.fingerprint,
                holder: Holder::Nobody,
                token: ask.token,
                attempt: 0,
                completions: 0,
                lost_owner: false,
                not_stored: None,
                steps: Vec::new(),
                done: None,
                grace: 0,
                keep: 0,
                until: 0,
            },
            Some(life) => life.clone(),
        };
        let (is_same, other_scheme) = compare(life.fingerprint, ask.fingerprint);
        if !is_same {
            return Answer::Mismatch;
        }
        let replays = ask.if_completed == IfCompleted::Replay;
        if life.is_held_by(ask.token) {
            life.fingerprint = ask.fingerprint;
            life.grace = ask.grace;
            life.keep = ask.keep;
            life.lease(ask.lease, now);
            return self.grant(ask, life, other_scheme);
        }
        if !life.is_completed() {
            if let Some(lapsed) = life.is_awaited(now) {
                self.records.insert(ask.id, life);
                return Answer::InFlight { lapsed };
            }
            // A claim whose lease is over is noted, whatever the answer is.
            if self.records.contains_key(&ask.id) {
                self.records.insert(ask.id, life.clone());
            }
            if life.done.as_ref().is_some_and(|done| now >= done.until) {
                life.done = None;
                self.records.insert(ask.id, life.clone());
            }
            life.lost_owner |= life.holder != Holder::Nobody;
            if replays && let Some(done) = &life.done {
                // The response comes out from beneath the claim.
                let body = done.body;
                life.token = done.token;
                life.holder = Holder::Nobody;
                life.not_stored = None;
                self.records.insert(ask.id, life);
                return Answer::Completed { body, other_scheme };
            }
        } else if replays {
            let body = life.done.as_ref().expect("completed").body;
            return Answer::Completed { body, other_scheme };
        }
        if life.lost_owner && ask.on_unknown == OnUnknown::Reject {
            return Answer::OwnerLost;
        }
        life.token = ask.token;
        life.fingerprint = ask.fingerprint;
        life.attempt += 1;
        life.not_stored = None;
        life.grace = ask.grace;
        life.keep = ask.keep;
        life.lease(ask.lease, now);
        self.grant(ask, life, other_scheme)
    }

    fn grant(&mut self, ask: Ask, life: Life, other_scheme: bool) -> Answer {
        let granted = Granted {
            attempt: life.attempt,
            taken_over: life.lost_owner,
            completions: life.completions,
            other_scheme,
            previous: life.done.as_ref().map(|done| done.body),
            steps: life.steps.clone(),
        };
        let Ask { id, token, fingerprint: _, grace, keep, .. } = ask;
        self.owners.push(Owner {
            ask: Asked { id, token, fingerprint: life.fingerprint, grace, keep },
            attempt: life.attempt,
            taken_over: life.lost_owner,
            completions: life.completions,
            gone: None,
        });
        self.records.insert(id, life);
        Answer::Acquired(granted)
    }

    fn renew(&mut self, n: usize, owner: Owner, lease: u64) -> Answer {
        let now = self.now;
        match self.record(owner.ask.id) {
            None => {
                self.owners[n].gone = Some(now);
                Answer::Gone
            }
            Some(life) if life.is_held_by(owner.ask.token) => {
                life.lease(lease, now);
                Answer::Renewed
            }
            Some(_) => Answer::Lost,
        }
    }

    fn restore(&mut self, owner: Owner, lease: u64, within: u64) -> Answer {
        let now = self.now;
        // An owner that was never told that its record is gone does not restore it.
        let Some(gone) = owner.gone else { return Answer::Nothing };
        match self.record(owner.ask.id) {
            None if now <= gone + within => {}
            Some(life) if life.is_held_by(owner.ask.token) => {
                life.lease(lease, now);
                return Answer::Renewed;
            }
            None | Some(_) => return Answer::Lost,
        }
        let Asked { id, token, fingerprint, grace, keep } = owner.ask;
        let mut life = Life {
            fingerprint,
            holder: Holder::Nobody,
            token,
            attempt: owner.attempt,
            completions: owner.completions,
            lost_owner: owner.taken_over,
            not_stored: None,
            steps: vec![RESTORED],
            done: None,
            grace,
            keep,
            until: 0,
        };
        life.lease(lease, now);
        self.records.insert(id, life);
        Answer::Renewed
    }

    fn save_step(&mut self, owner: Owner, name: u8, result: Option<u8>) -> Answer {
        Answer::Saved(match self.record(owner.ask.id) {
            None => Saved::Gone,
            Some(life) if life.is_held_by(owner.ask.token) => {
                match life.steps.iter_mut().find(|step| step.0 == name) {
                    // 0 stands for the empty result, which does not stay.
                    Some(step) if step.1.is_none_or(|result| result == 0) => step.1 = result,
                    Some(_) => {}
                    None => life.steps.push((name, result)),
                }
                Saved::Saved
            }
            Some(_) => Saved::Lost,
        })
    }

    fn complete(&mut self, owner: Owner, body: u8, ttl: u64) -> Answer {
        let now = self.now;
        let Asked { id, token, fingerprint, .. } = owner.ask;
        let completions = match self.record(id) {
            None => owner.completions,
            Some(life) => {
                let (is_same, _) = compare(life.fingerprint, fingerprint);
                if life.is_completed() {
                    let done = life.done.as_ref().expect("completed");
                    if done.token == token {
                        return Answer::Stored;
                    }
                    return Answer::Superseded(is_same.then_some(done.body));
                }
                let is_nobodys = matches!(life.holder, Holder::Lost | Holder::Nobody);
                if !(life.is_held_by(token) || is_nobodys && is_same) {
                    return Answer::Superseded(None);
                }
                life.completions
            }
        };
        let done = Some(Done { body, token, until: now + ttl });
        self.records.insert(
            id,
            Life {
                fingerprint,
                holder: Holder::Nobody,
                token,
                attempt: owner.attempt,
                completions: completions + 1,
                lost_owner: false,
                not_stored: None,
                steps: Vec::new(),
                done,
                grace: 0,
                keep: 0,
                until: 0,
            },
        );
        Answer::Stored
    }

    fn release(&mut self, owner: Owner, release_as: ReleaseAs) -> bool {
        let now = self.now;
        let id = owner.ask.id;
        let Some(life) = self.record(id).filter(|life| life.is_held_by(owner.ask.token)) else { return false };
        if release_as == ReleaseAs::Ended {
            self.records.remove(&id);
            return true;
        }
        life.until = now + life.keep;
        if release_as == ReleaseAs::Unknown {
            life.holder = Holder::Lost;
            return true;
        }
        life.holder = Holder::Nobody;
        if let Some(done) = &life.done
            && now < done.until
        {
            life.token = done.token;
            return true;
        }
        life.done = None;
        let remembers = life.lost_owner || !life.steps.is_empty();
        if let ReleaseAs::NotStored { status } = release_as {
            life.not_stored = Some(status);
            if !remembers {
                life.until = now + NOT_STORED;
            }
        } else if !remembers {
            self.records.remove(&id);
        }
        true
    }
}

impl Life {
    fn seen(&self, now: u64) -> Seen {
        let state = match self.holder {
            Holder::Leased(ends) if now < ends => RecordState::InFlight,
            Holder::Leased(_) | Holder::Awaited(_) => RecordState::Lapsed,
            Holder::Lost => RecordState::Lost,
            Holder::Nobody if self.done.is_some() => RecordState::Completed,
            Holder::Nobody => RecordState::Free,
        };
        let is_completed = state == RecordState::Completed;
        Seen {
            state,
            body: self.done.as_ref().filter(|_| is_completed).map(|done| done.body),
            attempt: self.attempt,
            owner: self.token,
            lost_owner: self.lost_owner || state == RecordState::Lost,
            not_stored: self.not_stored,
            steps: self.steps.iter().map(|(name, result)| (*name, result.is_some())).collect(),
        }
    }
}
