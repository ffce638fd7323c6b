//! What a step does.

use super::{
    Mistake, Protocol,
    steps::Step,
    world::{Claims, Kind, Row, Session, Stage, State, TOKENS, Way, Wrong},
};

impl Protocol {
    /// Takes a step.
    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Ask(n) => Self::ask(state, n),
            Step::RunWithoutClaim(n) => {
                state.left.unlocked -= 1;
                state.tries[n].stage = Stage::Granted(Way::Unlocked);
            }
            Step::Consult(n) => self.consult(state, n),
            Step::Refuse(n) => match state.live_row() {
                Some(row) if self.mistake != Some(Mistake::RefusesUnasked) => Self::replay(state, n, row),
                _ => {
                    if state.tries[n].knows_answer {
                        state.notes(Wrong::ToldInFlight);
                    }
                    state.leave(n);
                }
            },
            Step::Write(n, kind) => self.write(state, n, kind),
            Step::Fail(n) => {
                state.tries[n].session = None;
                state.release(n, false);
            }
            Step::Conflict(n) => {
                state.left.conflicts -= 1;
                state.tries[n].session = None;
                state.tries[n].stage = Stage::Conflicted;
                if self.mistake == Some(Mistake::RunsAgainUnasked) {
                    self.call(state, n, Way::Again);
                }
            }
            Step::Commit(n) => {
                self.commit(state, n);
                state.tries[n].stage = Stage::Committed { is_void: false };
            }
            Step::LoseAnswer(n) => {
                state.left.lost_answers -= 1;
                Self::send(state, n);
                state.tries[n].stage = Stage::Lost;
            }
            Step::Settle(n, is_closure) => self.settle(state, n, is_closure),
            // The transaction was rolled back, so its closure may be called again.
            Step::TimeOut(n) if state.tries[n].stage == Stage::Conflicted => {
                state.tries[n].stage = Stage::Granted(Way::Again);
            }
            Step::TimeOut(n) => {
                state.left.outages -= 1;
                state.tries[n].stage = Stage::SettlesBehind;
            }
            Step::GiveUp(n) if self.mistake == Some(Mistake::GivesUpByFreeing) => state.release(n, false),
            // The claim ends with its lease, so that whoever takes over settles.
            Step::GiveUp(n) => state.leave(n),
            Step::Answer(n) => {
                let Stage::Committed { is_void } = state.tries[n].stage else { return };
                let token = state.tries[n].token;
                if !is_void {
                    Self::give(state, token);
                }
                state.tries[n].stage = Stage::Answered;
                Self::skip_release(state, n);
            }
            Step::Release(n) => {
                let token = state.tries[n].token;
                let held = state.claims.holder == Some(n as u8);
                state.release(n, true);
                if held && self.mistake == Some(Mistake::ReplaysFromClaims) {
                    state.claims.answer = Some(token);
                }
            }
            Step::Crash(n, is_sent) => {
                state.left.crashes -= 1;
                if is_sent {
                    Self::send(state, n);
                }
                state.leave(n);
            }
            _ => self.happens(state, step),
        }
    }

    /// Takes a step that no request takes itself.
    fn happens(&self, state: &mut State, step: Step) {
        match step {
            Step::Decide(n, commits) => {
                if commits {
                    self.commit(state, n);
                }
                state.tries[n].session = None;
                if state.tries[n].stage == Stage::Gone {
                    state.leave(n);
                }
            }
            Step::Lapse => {
                let is_gone = |n: u8| state.tries[usize::from(n)].stage == Stage::Gone;
                state.left.lapses -= u8::from(!state.claims.holder.is_some_and(is_gone));
                state.claims.has_lapsed = true;
            }
            Step::LoseClaims => {
                state.left.losses -= 1;
                state.claims = Claims::default();
            }
            Step::Expire => {
                state.left.expiries -= 1;
                state.expire();
            }
            Step::Sweep => {
                state.left.sweeps -= 1;
                state.sweep();
            }
            Step::ForgetClaim => self.forget_claim(state),
            Step::ForgetRow => {
                state.is_forgetting = false;
                self.forget_row(state);
                state.end_life();
                state.starts_ageing();
            }
            Step::Restore => {
                state.left.restores -= 1;
                state.restore();
            }
            _ => {}
        }
    }

    fn ask(state: &mut State, n: usize) {
        let one = &mut state.tries[n];
        one.knows_answer |= one.stage == Stage::Idle && state.given.is_some();
        if let Some(token) = state.claims.answer {
            Self::give(state, token);
            return state.leave(n);
        }
        let claims = &mut state.claims;
        one.stage = match claims.holder {
            Some(_) if !claims.has_lapsed => Stage::InFlight,
            holder => {
                let remembers_lost = claims.remembers_lost || holder.is_some();
                *claims = Claims { holder: Some(n as u8), remembers_lost, ..Claims::default() };
                Stage::Granted(if remembers_lost { Way::TakenOver } else { Way::Free })
            }
        };
    }

    fn consult(&self, state: &mut State, n: usize) {
        let Stage::Granted(way) = state.tries[n].stage else { return };
        match state.live_row() {
            Some(row) => Self::replay(state, n, row),
            None if self.rejects && way == Way::TakenOver => {
                state.release(n, false);
                state.claims.remembers_lost = true;
            }
            None => self.call(state, n, way),
        }
    }

    /// Calls the handler.
    fn call(&self, state: &mut State, n: usize, way: Way) {
        if state.live_row().is_some() {
            state.notes(Wrong::InVain);
        }
        let is_undecided = |m: usize| state.tries[m].session.is_some_and(|session| session.is_sent);
        let (left, all) = (&state.left, &self.events);
        // A claim store that lost its claims can't warn of a living owner. None can warn of an owner that had no claim,
        // or that comes back in another life of the row.
        let are_claims_whole = (left.losses, left.unlocked, left.expiries, left.forgets, left.restores)
            == (all.losses, all.unlocked, all.expiries, all.forgets, all.restores);
        let is_beside = match way {
            Way::Again => is_undecided(n),
            _ => are_claims_whole && state.claims.holder == Some(n as u8) && (0..self.tries).any(is_undecided),
        };
        if is_beside {
            state.notes(Wrong::Beside);
        }
        let row = state.row;
        let one = &mut state.tries[n];
        one.stage = Stage::Running;
        one.token = match way {
            Way::Again if self.mistake != Some(Mistake::KeepsToken) => one.token + 1,
            Way::Again => one.token,
            _ => n as u8 * TOKENS,
        };
        if way == Way::Again && self.mistake == Some(Mistake::RunsAgainUnasked) {
            return;
        }
        let shows_token = self.mistake != Some(Mistake::HidesExpired);
        one.over = row.map(|row| row.token).filter(|_| shows_token);
        (one.since, one.saw_end, one.is_old) = (0, false, false);
    }

    fn write(&self, state: &mut State, n: usize, kind: Kind) {
        let one = state.tries[n];
        if self.is_unique(kind) {
            if let Some(row) = state.live_row() {
                return Self::replay(state, n, row);
            }
            let may_replace = |row: Row| one.over == Some(row.token) || self.mistake == Some(Mistake::ReplacesByTime);
            let is_too_old = one.is_old && self.mistake != Some(Mistake::HasNoAgeLimit);
            if is_too_old || !state.row.is_none_or(may_replace) {
                return state.release(n, false);
            }
        }
        if self.mistake == Some(Mistake::AsksClaimsAtEnd) && state.claims.holder.is_some_and(|m| m != n as u8) {
            return state.release(n, false);
        }
        let row = Row { token: one.token, kind };
        state.tries[n].session = Some(Session { row, is_sent: false });
        state.tries[n].stage = Stage::Wrote;
        match self.mistake {
            Some(Mistake::SendsFailureEarly) if kind == Kind::Failure => Self::give(state, row.token),
            Some(Mistake::CommitsRowApart) if kind == Kind::Success => Self::commit_effect(state),
            _ => {}
        }
    }

    fn send(state: &mut State, n: usize) {
        if let Some(session) = &mut state.tries[n].session {
            session.is_sent = true;
        }
    }

    /// The database commits a transaction.
    fn commit(&self, state: &mut State, n: usize) {
        let Some(session) = state.tries[n].session.take() else { return };
        if state.tries[n].since > 0 {
            state.notes(Wrong::Overtaken);
        }
        state.put(Some(session.row));
        if session.row.kind == Kind::Success && self.mistake != Some(Mistake::CommitsRowApart) {
            Self::commit_effect(state);
        }
    }

    fn commit_effect(state: &mut State) {
        state.effects += 1;
        if state.effects > 1 {
            state.notes(Wrong::TwoEffects);
        }
    }

    fn settle(&self, state: &mut State, n: usize, is_closure: bool) {
        let one = state.tries[n];
        let is_assumed = one.stage == Stage::Lost && self.assumes();
        if is_assumed && self.mistake == Some(Mistake::AssumesCommitted) {
            state.tries[n].stage = Stage::Committed { is_void: false };
            return;
        }
        let row = state.live_row().filter(|_| !is_assumed);
        match (one.stage, row) {
            (Stage::SettlesBehind, row) => {
                state.release(n, row.is_some() || self.mistake == Some(Mistake::ForgetsLostOwner));
            }
            (_, Some(row)) => Self::replay(state, n, row),
            (_, None) if is_closure => state.tries[n].stage = Stage::Granted(Way::Again),
            (_, None) => state.release(n, false),
        }
    }

    /// The client gets the answer of the row, and the claim is released.
    fn replay(state: &mut State, n: usize, row: Row) {
        Self::give(state, row.token);
        state.tries[n].stage = Stage::Answered;
        state.tries[n].token = row.token;
        Self::skip_release(state, n);
    }

    /// A request that holds no claim has ended with its answer.
    fn skip_release(state: &mut State, n: usize) {
        if state.claims.holder != Some(n as u8) {
            state.leave(n);
        }
    }

    /// A client gets an answer that is recorded.
    fn give(state: &mut State, token: u8) {
        if state.live_row().is_none_or(|row| row.token != token) {
            state.notes(Wrong::NotCommitted);
        }
        if *state.given.get_or_insert(token) != token {
            state.notes(Wrong::TwoAnswers);
        }
    }

    fn forget_claim(&self, state: &mut State) {
        let is_held = state.claims.holder.is_some() && !state.claims.has_lapsed;
        state.left.forgets -= 1;
        if self.mistake == Some(Mistake::ForgetsRowFirst) {
            self.forget_row(state);
        }
        if !is_held {
            state.claims = Claims::default();
            state.is_forgetting = true;
        }
    }

    fn forget_row(&self, state: &mut State) {
        let tombstone = Row { token: 100 + state.left.forgets, kind: Kind::Expired };
        state.put((self.mistake != Some(Mistake::ForgetDeletes)).then_some(tombstone));
    }
}
