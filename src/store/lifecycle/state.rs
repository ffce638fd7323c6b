//! The states of a record, as data.

use std::time::{Duration, SystemTime};

use crate::{
    key::{Fingerprint, Match, PrincipalTag, RecordId},
    record::Record,
    store::{
        Acquired, BeginRequest, Claim, Inspection, OwnerToken, RecordState, SeenStep, Step,
        clock::{Micros, end, left, micros, system_time},
    },
};

/// How long a record remembers that a run ended with a response that was not stored.
pub(in crate::store) const NOT_STORED_KEPT: Duration = Duration::from_secs(60 * 60);

/// A record without a response.
#[derive(Clone, Debug)]
pub(in crate::store) struct Unfinished {
    pub(super) phase: Phase,
    /// The owner of the current or last claim.
    pub(super) token: OwnerToken,
    pub(super) fingerprint: Fingerprint,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    /// Whether an owner was lost since the last response was stored.
    pub(super) lost_owner: bool,
    /// How often the record was completed before.
    pub(super) completions: u32,
    pub(super) principal: PrincipalTag,
    pub(super) usage: Usage,
    pub(super) grace: Micros,
    /// How long the record is kept without a response, from its last change.
    pub(super) keep: Micros,
    /// When the record stops being visible.
    pub(super) expires: Micros,
    pub(super) journal: Journal,
    /// The completed record beneath a manual claim. A free record has none: it was restored.
    pub(super) previous: Option<Box<Completed>>,
}

/// The state of a record without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// An owner runs, and its lease ends then.
    Claimed { lease_ends: Micros },
    /// The lease ended, a request noted it, and until then nobody takes over.
    Lapsed { grace_ends: Micros },
    /// The owner released the record as unknown.
    Lost,
    /// Nobody holds the record. It remembers steps, a lost owner, or the status of a response that was not stored.
    Free { not_stored: Option<u16> },
}

/// A completed record, as small as it can be: there are many.
#[derive(Clone, Debug)]
pub(in crate::store) struct Completed {
    pub(super) token: OwnerToken,
    pub(super) fingerprint: Fingerprint,
    pub(super) attempt: u32,
    pub(super) completions: u32,
    /// Whether a manual owner was lost since the record was completed.
    pub(super) lost_owner: bool,
    pub(super) principal: PrincipalTag,
    pub(super) usage: Usage,
    /// Steps that a manual owner has saved since the record was completed.
    pub(super) journal: Journal,
    /// When the record was completed.
    pub(in crate::store) since: Micros,
    pub(in crate::store) expires: Micros,
    pub(in crate::store) record: Record,
}

/// The steps of an operation. Boxed, because few records have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "an empty journal is one word")]
pub(super) struct Journal(Option<Box<Vec<Step>>>);

impl Journal {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self((!steps.is_empty()).then(|| Box::new(steps)))
    }

    pub(super) fn steps(&self) -> &[Step] {
        self.0.as_ref().map_or(&[], |steps| steps)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes of all steps.
    pub(super) fn bytes(&self) -> usize {
        self.steps().iter().map(Step::len).sum()
    }

    /// Whether the step has a result already, or was started as it is to be started now.
    pub(super) fn knows(&self, step: &Step) -> bool {
        self.steps().iter().any(|known| known.name == step.name && (known.is_done() || known.result == step.result))
    }

    /// Whether there is room for the step.
    pub(super) fn has_room(&self, step: &Step) -> bool {
        let is_new = !self.steps().iter().any(|known| known.name == step.name);
        step.fits() && (!is_new || self.steps().len() < Step::MOST)
    }

    pub(super) fn save(&mut self, step: Step) {
        let steps = self.0.get_or_insert_default();
        match steps.iter_mut().find(|known| known.name == step.name) {
            Some(known) => *known = step,
            None => steps.push(step),
        }
    }
}

impl Unfinished {
    /// The first claim of a key.
    #[inline]
    pub(super) fn new(request: &BeginRequest, now: Micros, fence: u64) -> Self {
        let lease_ends = end(now, request.lease);
        Self {
            phase: Phase::Claimed { lease_ends },
            token: request.token,
            fingerprint: request.fingerprint,
            attempt: 1,
            fence,
            lost_owner: false,
            completions: 0,
            principal: request.principal.tag(&request.id),
            usage: Usage::starts(now),
            grace: micros(request.grace),
            keep: micros(request.keep),
            expires: end(lease_ends, request.keep),
            journal: Journal::default(),
            previous: None,
        }
    }

    /// The claim of an owner whose record the store has lost.
    pub(super) fn restored(claim: &Claim, steps: Vec<Step>, lease: Duration, now: Micros) -> Self {
        let lease_ends = end(now, lease);
        Self {
            phase: Phase::Claimed { lease_ends },
            token: claim.token,
            fingerprint: claim.fingerprint,
            attempt: claim.attempt,
            fence: claim.fence,
            lost_owner: claim.taken_over,
            completions: claim.completions,
            principal: claim.principal,
            usage: Usage::starts(now),
            grace: micros(claim.grace),
            keep: micros(claim.keep),
            expires: end(lease_ends, claim.keep),
            journal: Journal::new(steps),
            previous: None,
        }
    }

    /// This claim with a completed record beneath it.
    pub(in crate::store) fn over(self, previous: Completed) -> Self {
        Self { previous: Some(Box::new(previous)), ..self }
    }

    /// The completed record beneath this claim, as it is when the claim is gone: attempts that led to nothing count, and
    /// so do a lost owner, the steps, and a fingerprint of another scheme.
    pub(in crate::store) fn uncover(self) -> Option<Completed> {
        let Self { fingerprint, attempt, lost_owner, usage, journal, previous, .. } = self;
        Some(Completed { fingerprint, attempt, lost_owner, usage, journal, ..*previous? })
    }

    pub(in crate::store) fn previous(&self) -> Option<&Completed> {
        self.previous.as_deref()
    }

    pub(in crate::store) fn take_previous(&mut self) {
        self.previous = None;
    }

    pub(in crate::store) const fn expires(&self) -> Micros {
        self.expires
    }

    pub(in crate::store) const fn has_expired(&self, now: Micros) -> bool {
        now >= self.expires
    }

    /// Whether nobody holds the record.
    pub(in crate::store) const fn is_trace(&self) -> bool {
        matches!(self.phase, Phase::Lost | Phase::Free { .. })
    }

    /// Adds a step to the journal, or its result.
    pub(in crate::store) fn save(&mut self, step: Step) {
        self.journal.save(step);
    }

    pub(in crate::store) fn steps(&self) -> &[Step] {
        self.journal.steps()
    }

    /// The bytes of the steps.
    pub(in crate::store) fn journal_bytes(&self) -> usize {
        self.journal.bytes()
    }

    /// How long a waiter may wait before it asks again. `None`: nobody holds the record.
    pub(in crate::store) fn wait_left(&self, now: Micros) -> Option<Duration> {
        match self.phase {
            Phase::Claimed { lease_ends } => left(now, lease_ends),
            Phase::Lapsed { grace_ends } => left(now, grace_ends),
            Phase::Lost | Phase::Free { .. } => None,
        }
    }

    /// Whether the owner may renew, complete, release and save steps with this token.
    pub(super) fn is_held_by(&self, token: OwnerToken) -> bool {
        !self.is_trace() && self.token == token
    }

    /// The lease runs from now.
    pub(super) fn hold(&mut self, lease: Duration, now: Micros) {
        let lease_ends = end(now, lease);
        self.phase = Phase::Claimed { lease_ends };
        self.keep_from(lease_ends);
    }

    /// Another request gets the claim, with its own lease, grace and keep.
    pub(super) fn claim_for(&mut self, request: &BeginRequest, now: Micros, fence: u64) {
        self.token = request.token;
        self.fence = fence;
        self.attempt = self.attempt.saturating_add(1);
        self.usage.seen(now);
        self.extend(request, now);
    }

    /// The fingerprint, lease, grace and keep of a `begin`, from now.
    pub(super) fn extend(&mut self, request: &BeginRequest, now: Micros) {
        self.fingerprint = request.fingerprint;
        self.grace = micros(request.grace);
        self.keep = micros(request.keep);
        self.hold(request.lease, now);
    }

    /// Enters a state in which nobody runs, at `now`.
    pub(super) fn rest(&mut self, phase: Phase, now: Micros) {
        self.phase = phase;
        self.keep_from(now);
        if let Phase::Free { not_stored: Some(_) } = phase
            && self.journal.is_empty()
            && !self.lost_owner
        {
            self.expires = end(now, NOT_STORED_KEPT);
        }
    }

    /// The record is kept for `keep` from then, and at least as long as the completed record beneath it.
    fn keep_from(&mut self, then: Micros) {
        let previous_expires = self.previous.as_ref().map_or(0, |previous| previous.expires);
        self.expires = then.saturating_add(self.keep).max(previous_expires);
    }

    #[inline]
    pub(super) fn acquired(&self, id: RecordId, matched: Match) -> Acquired {
        let mut acquired = Acquired::new(self.claim(id));
        acquired.previous = self.previous.as_ref().map(|previous| previous.record.clone());
        acquired.steps = self.journal.steps().to_vec();
        acquired.other_scheme = matched == Match::OtherScheme;
        acquired
    }

    fn claim(&self, id: RecordId) -> Claim {
        Claim {
            #[cfg(feature = "encryption")]
            sealing: None,
            id,
            fingerprint: self.fingerprint,
            token: self.token,
            attempt: self.attempt,
            fence: self.fence,
            taken_over: self.lost_owner,
            completions: self.completions,
            grace: Duration::from_micros(self.grace),
            keep: Duration::from_micros(self.keep),
            principal: self.principal,
        }
    }

    pub(in crate::store) fn inspect(&self, id: RecordId, now: Micros) -> Option<Inspection> {
        let kept = left(now, self.expires)?;
        let (state, remaining) = match self.phase {
            Phase::Claimed { lease_ends } => {
                let awaited = || left(now, lease_ends.saturating_add(self.grace)).unwrap_or_default();
                left(now, lease_ends)
                    .map_or_else(|| (RecordState::Lapsed, awaited()), |lease| (RecordState::InFlight, lease))
            }
            Phase::Lapsed { grace_ends } => (RecordState::Lapsed, left(now, grace_ends).unwrap_or_default()),
            Phase::Lost => (RecordState::Lost, kept),
            Phase::Free { .. } => (RecordState::Free, kept),
        };
        let mut inspection = Inspection::new(id, state, remaining);
        if let Phase::Free { not_stored } = self.phase {
            inspection.not_stored = not_stored;
        }
        self.usage.show(&mut inspection);
        inspection.fingerprint = Some(self.fingerprint);
        inspection.attempt = self.attempt;
        inspection.owner = Some(self.token);
        inspection.lost_owner = Some(self.lost_owner || state == RecordState::Lost);
        inspection.principal = Some(self.principal);
        inspection.steps = seen(&self.journal);
        Some(inspection)
    }
}

impl Completed {
    pub(super) fn new(
        claim: &Claim,
        record: &Record,
        completions: u32,
        usage: Usage,
        now: Micros,
        ttl: Duration,
    ) -> Self {
        Self {
            token: claim.token,
            fingerprint: claim.fingerprint,
            attempt: claim.attempt,
            completions,
            lost_owner: false,
            principal: claim.principal,
            usage,
            journal: Journal::default(),
            since: now,
            expires: end(now, ttl),
            record: record.clone(),
        }
    }

    /// A claim on this record, which stays beneath it.
    pub(super) fn claimed_again(&mut self, request: &BeginRequest, now: Micros, fence: u64) -> Unfinished {
        self.usage.seen(now);
        let mut claimed = Unfinished::new(request, now, fence);
        claimed.attempt = self.attempt.saturating_add(1);
        claimed.completions = self.completions;
        claimed.lost_owner = self.lost_owner;
        claimed.journal = std::mem::take(&mut self.journal);
        claimed.usage = self.usage;
        claimed.expires = claimed.expires.max(self.expires);
        claimed
    }

    pub(in crate::store) fn steps(&self) -> &[Step] {
        self.journal.steps()
    }

    /// The bytes of the steps.
    pub(in crate::store) fn journal_bytes(&self) -> usize {
        self.journal.bytes()
    }

    pub(in crate::store) fn inspect(&self, id: RecordId, now: Micros) -> Option<Inspection> {
        let mut inspection = Inspection::new(id, RecordState::Completed, left(now, self.expires)?);
        self.usage.show(&mut inspection);
        inspection.fingerprint = Some(self.fingerprint);
        inspection.attempt = self.attempt;
        inspection.owner = Some(self.token);
        inspection.lost_owner = Some(self.lost_owner);
        inspection.principal = Some(self.principal);
        inspection.steps = seen(&self.journal);
        inspection.record = Some(self.record.clone());
        Some(inspection)
    }
}

fn seen(journal: &Journal) -> Vec<SeenStep> {
    journal.steps().iter().map(SeenStep::from).collect()
}

/// When a key was first and last asked for, in seconds since the epoch, and how often it was replayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) replays: u32,
}

impl Usage {
    pub(super) fn starts(now: Micros) -> Self {
        let now = seconds(now);
        Self { first: now, last: now, replays: 0 }
    }

    pub(super) fn seen(&mut self, now: Micros) {
        self.last = seconds(now);
    }

    pub(super) fn replayed(&mut self, now: Micros) {
        self.seen(now);
        self.replays = self.replays.saturating_add(1);
    }

    fn show(self, inspection: &mut Inspection) {
        inspection.replays = Some(self.replays.into());
        inspection.first_seen = Some(time(self.first));
        inspection.last_seen = Some(time(self.last));
    }
}

/// 32 bits of seconds last until 2106.
fn seconds(now: Micros) -> u32 {
    u32::try_from(now / 1_000_000).unwrap_or(u32::MAX)
}

fn time(seconds: u32) -> SystemTime {
    system_time(u64::from(seconds) * 1_000_000)
}
