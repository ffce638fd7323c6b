//! The steps of the protocol and of its environment, and which of them can be taken.

use super::{
    Mistake, Protocol,
    world::{Claims, Kind, Stage, State},
};

/// One step of the protocol or of the environment. The number is the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The claim store is asked.
    Ask(usize),
    /// The claim store is not asked, or is down.
    RunWithoutClaim(usize),
    /// The ledger is looked at, or settled, and the handler is called.
    Consult(usize),
    /// The ledger is looked at before the request is refused.
    Refuse(usize),
    /// The handler has answered, and the row is written.
    Write(usize, Kind),
    /// The handler fails, or the database refuses: roll back, and free the key.
    Fail(usize),
    /// Another transaction stood in the way.
    Conflict(usize),
    /// COMMIT, with its answer.
    Commit(usize),
    /// COMMIT, and the answer is lost.
    LoseAnswer(usize),
    /// The ledger is asked what is committed, after a conflict or a lost answer. `true`: a closure is called again if
    /// nothing is.
    Settle(usize, bool),
    /// The ledger can't be asked in time.
    TimeOut(usize),
    /// The ledger could not be asked for `storage.retry_for`.
    GiveUp(usize),
    Answer(usize),
    Release(usize),
    /// The process crashes. `true`: it has sent its COMMIT.
    Crash(usize, bool),
    /// The database ends the transaction of a connection that is gone. `true`: it commits.
    Decide(usize, bool),
    Lapse,
    LoseClaims,
    Expire,
    Sweep,
    /// An operator forgets the claim, unless somebody holds it.
    ForgetClaim,
    /// The operator forgets the row.
    ForgetRow,
    Restore,
}

impl Protocol {
    /// Everything that can happen next.
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        for n in 0..self.tries {
            self.steps_of(state, n, steps);
        }
        let left = &state.left;
        let is_gone = |n: u8| state.tries[usize::from(n)].stage == Stage::Gone;
        if state.claims.holder.is_some_and(|n| left.lapses > 0 || is_gone(n)) && !state.claims.has_lapsed {
            steps.push(Step::Lapse);
        }
        if left.losses > 0 && state.claims != Claims::default() {
            steps.push(Step::LoseClaims);
        }
        if left.expiries > 0 && state.live_row().is_some() {
            steps.push(Step::Expire);
        }
        // The sweep skips a row that a transaction is about to replace.
        if left.sweeps > 0 && state.row.is_some_and(|row| !row.is_live()) && !state.has_sessions() {
            steps.push(Step::Sweep);
        }
        if left.forgets > 0 && !state.is_forgetting {
            steps.push(Step::ForgetClaim);
        }
        if state.is_forgetting && (!state.has_sessions() || self.mistake == Some(Mistake::ForgetWaitsForNobody)) {
            steps.push(Step::ForgetRow);
        }
        if left.restores > 0 && state.backup.is_some() {
            steps.push(Step::Restore);
        }
    }

    fn steps_of(&self, state: &State, n: usize, steps: &mut Vec<Step>) {
        let (one, left) = (&state.tries[n], &state.left);
        let is_settled = !self.has_key() || !state.has_sessions();
        match one.stage {
            // All requests are alike, so they begin in the order of their numbers.
            Stage::Idle if n > 0 && state.tries[n - 1].stage == Stage::Idle => {}
            Stage::Idle => {
                steps.push(Step::Ask(n));
                if left.unlocked > 0 {
                    steps.push(Step::RunWithoutClaim(n));
                }
            }
            Stage::InFlight => {
                if state.claims.holder.is_none() || state.claims.has_lapsed {
                    steps.push(Step::Ask(n));
                }
                steps.push(Step::Refuse(n));
            }
            Stage::Granted(way) => {
                if !self.settles(way) || is_settled {
                    steps.push(Step::Consult(n));
                }
            }
            Stage::Running => {
                steps.push(Step::Fail(n));
                if left.conflicts > 0 {
                    steps.push(Step::Conflict(n));
                }
                let kinds = [Kind::Success, Kind::Failure];
                let may_write = |kind| !self.is_unique(kind) || !state.is_locked_for(n);
                let kinds = kinds.into_iter().filter(|kind| may_write(*kind) && self.answers_with(*kind));
                steps.extend(kinds.map(|kind| Step::Write(n, kind)));
            }
            Stage::Wrote => {
                steps.extend([Step::Commit(n), Step::Fail(n)]);
                if left.conflicts > 0 {
                    steps.push(Step::Conflict(n));
                }
                if left.lost_answers > 0 {
                    steps.push(Step::LoseAnswer(n));
                }
            }
            Stage::Conflicted => {
                if is_settled {
                    steps.extend([Step::Settle(n, false), Step::Settle(n, true)]);
                }
                steps.extend([Step::TimeOut(n), Step::Fail(n)]);
            }
            Stage::Lost => {
                if is_settled || self.assumes() {
                    steps.extend([Step::Settle(n, false), Step::Settle(n, true)]);
                }
                if left.outages > 0 {
                    steps.push(Step::TimeOut(n));
                }
            }
            Stage::SettlesBehind => {
                if is_settled {
                    steps.push(Step::Settle(n, false));
                }
                steps.push(Step::GiveUp(n));
            }
            Stage::Committed { .. } => steps.push(Step::Answer(n)),
            Stage::Answered => steps.push(Step::Release(n)),
            Stage::Gone => {}
        }
        if left.crashes > 0 && one.is_active() && one.stage != Stage::InFlight {
            steps.push(Step::Crash(n, false));
            if one.stage == Stage::Wrote {
                steps.push(Step::Crash(n, true));
            }
        }
        if let Some(session) = one.session {
            if session.is_sent {
                steps.push(Step::Decide(n, true));
            }
            let is_cut = one.stage == Stage::Gone && self.mistake != Some(Mistake::LeavesTransactionsOpen);
            if session.is_sent || is_cut {
                steps.push(Step::Decide(n, false));
            }
        }
    }
}
