//! The decision: what becomes of a request that this instance governs.

use std::{cell::Cell, mem, sync::Once, time::Duration};

use actix_service::Service;
use actix_web::{
    Error, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};

#[cfg(feature = "encryption")]
use super::differences::Explanation;
use super::{
    accepted::{accepted, wait_of},
    config::ComparedBody,
    consult::Question,
    request::accept_encoding,
    response::{AnswerBody, replay},
    service::Governed,
};
use crate::{
    claim::{ClaimAnswer, ClaimRequest, HeldClaim, Refused},
    client::problem::Problem,
    handler::{Journal, Stage},
    key::{Key, Principal, RecordId, RequestHeaders},
    ledger::Row,
    observe::Outcome,
    record::{Record, StoredResponse, UnreadableRecord},
    settings::{OnError, Settings},
    store::{IfCompleted, StoreError},
};

/// The fate of a request.
pub(super) enum Decision<B: MessageBody + 'static> {
    /// The request runs under this claim. `previous`: the stored response that a manual handler finds.
    Run { held: Box<HeldClaim>, previous: Option<StoredResponse> },
    /// The request runs without a claim, and its response is not stored: the store can't answer, and
    /// `storage.on_error = run`.
    RunUnprotected,
    /// The request gets the stored response.
    Replay(HttpResponse<AnswerBody<B>>),
    /// The request gets the response of a lost run that was done.
    Answer(HttpResponse<AnswerBody<B>>),
    /// The request gets a problem.
    Refuse(Problem),
    /// The request goes to the handler as if this instance were not there, with this outcome.
    Pass(Outcome),
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// The decision table. The first row that applies decides.
    ///
    /// | key | policy | what the store says | decision |
    /// |---|---|---|---|
    /// | none | optional, or the method needs no key | | pass |
    /// | none | required, manual | | refuse: `missing-key` |
    /// | malformed | | | refuse: `invalid-key` |
    /// | valid | | (the server is shutting down) | refuse: `shutting-down` |
    /// | valid | | (`limits.max_in_flight` or `limits.max_buffered` is reached) | refuse: `store-unavailable` |
    /// | valid | | (the body is too large, too slow or broken) | refuse: `body-too-large`, `body-timeout`, 400 |
    /// | valid | | (`body = stream`, and `Content-Digest` is malformed) | refuse: `invalid-digest` |
    /// | valid | | acquired | run |
    /// | valid | | acquired for a first run, beyond `limits.fresh_per_principal` | [release](Self::admit), refuse: `too-many-keys` |
    /// | valid | required, optional | completed | replay; with `body = stream`, once the body [is the same](Self::compare_body) |
    /// | valid | manual | completed | acquired again: run |
    /// | valid | | mismatch | refuse: `key-reused` |
    /// | valid | | in flight, after `lock.timeout` | refuse: `in-flight` |
    /// | valid | | owner lost, and `on_unknown = reject` | refuse: `outcome-unknown` |
    /// | valid | | acquired from a lost owner, and `on_unknown = ask` | as [`reconcile`](Self::reconcile) says |
    /// | valid | | nothing: it is down, and `storage.on_error = run` | run unprotected |
    /// | valid | | nothing | refuse: `store-unavailable` |
    ///
    /// With a ledger, [`consult`](Self::consult) decides instead once the store was asked.
    pub(super) async fn decide(&mut self) -> Decision<B> {
        if self.may_be_in_body
            && let Err(problem) = Box::pin(self.look_into_body()).await
        {
            return Decision::Refuse(problem);
        }
        let key = match mem::replace(&mut self.key, Ok(None)) {
            Ok(Some(key)) => key,
            Ok(None) if self.policy.allows_keyless() || !self.needs_key() => return Decision::Pass(Outcome::Keyless),
            Ok(None) => return Decision::Refuse(Problem::MissingKey),
            Err(invalid) => return Decision::Refuse(Problem::InvalidKey(invalid)),
        };
        if self.policy.is_manual() && (self.config.ledger.is_some() || self.config.streams()) {
            tracing::error!(
                "a route guard or the setting `manual` declares a manual route under a wrap with a ledger or with `body = stream`"
            );
            return Decision::Refuse(Problem::Misconfigured);
        }
        self.info.set_stage(Stage::Governing);
        // The body is read before anything is claimed: a slow upload must not hold a claim.
        if let Err(problem) = self.read_body().await {
            return Decision::Refuse(problem);
        }
        if self.config.in_flight.is_closing() {
            return Decision::Refuse(Problem::ShuttingDown);
        }
        let request = self.claim_request(key);
        let question = Question::of(&request);
        let wait = || self.preferred_wait();
        let (answer, waited) = self.config.claims.claim(request, wait).await;
        self.operation.recorder.waited(waited);
        if let Some(question) = question {
            return Box::pin(self.consult(answer, *question)).await;
        }
        match answer {
            Ok(ClaimAnswer::Run { held, previous }) => match previous.map(|record| record.response()).transpose() {
                Ok(previous) => Decision::Run { held, previous },
                Err(unreadable) => {
                    Box::pin(held.release()).await;
                    self.without_an_answer(&unreadable.into())
                }
            },
            Ok(ClaimAnswer::Completed { record, remaining }) => {
                if self.config.streams() && !self.config.settings.is_observed() {
                    match Box::pin(self.compare_body(&record)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(problem)) => return Decision::Refuse(problem),
                        Err(unreadable) => return self.without_an_answer(&unreadable.into()),
                    }
                }
                match self.replay(&record, remaining) {
                    Ok(response) => Decision::Replay(response),
                    Err(unreadable) => self.without_an_answer(&unreadable.into()),
                }
            }
            Ok(ClaimAnswer::Recorded(row)) => self.replay_row(&row),
            Ok(ClaimAnswer::InFlight(grace)) => Decision::Refuse(Problem::InFlight { grace }),
            Ok(ClaimAnswer::Mismatch) => Decision::Refuse(Problem::KeyReused),
            Ok(ClaimAnswer::OwnerLost) => Decision::Refuse(Problem::OutcomeUnknown),
            Err(error) => self.without_an_answer(&error),
        }
    }

    /// Reads the body, unless that was done or the handler reads it. The request counts as in flight from before its body
    /// is read: slow uploads hold memory too.
    #[inline]
    async fn read_body(&mut self) -> Result<(), Problem> {
        let in_flight = match &mut self.operation.in_flight {
            Some(guard) => guard,
            none => match self.config.in_flight.start(self.principal.share()) {
                Ok(guard) => none.insert(guard),
                Err(Refused::Closing) => return Err(Problem::ShuttingDown),
                Err(Refused::Full) => return Err(Problem::Overloaded),
            },
        };
        self.body.has_end()?;
        if self.config.streams() {
            return self.read_digest();
        }
        self.body.read(self.config.body_limits(), in_flight).await
    }

    /// Looks for the key in the body. Where no key is needed, a body that is too large to be read has none.
    async fn look_into_body(&mut self) -> Result<(), Problem> {
        let Ok(found) = &self.key else { return Ok(()) };
        let needs_none = found.is_none() && (self.policy.allows_keyless() || !self.needs_key());
        match self.read_body().await {
            Err(Problem::BodyTooLarge { .. }) if needs_none => return Ok(()),
            read => read?,
        }
        if let Some(sources) = self.config.sources.clone()
            && let Ok(found) = mem::replace(&mut self.key, Ok(None))
        {
            self.key = sources.in_body(self.pending.head().headers, self.body.pieces(), found);
        }
        Ok(())
    }

    pub(super) fn replay_row(&self, row: &Row) -> Decision<B> {
        match self.replay(&row.record, row.remaining) {
            Ok(response) => Decision::Replay(response),
            Err(unreadable) => self.without_an_answer(&unreadable.into()),
        }
    }

    pub(super) fn replay(
        &self,
        record: &Record,
        remaining: Duration,
    ) -> Result<HttpResponse<AnswerBody<B>>, UnreadableRecord> {
        let headers = self.pending.head().headers;
        replay(record, Some(remaining), &self.config, |coding| accept_encoding::accepts(headers, &self.info, coding))
    }

    /// How long a duplicate waits, if its client has said so. An observed request is never delayed.
    fn preferred_wait(&self) -> Option<Duration> {
        if self.config.settings.is_observed() {
            return None;
        }
        let lines = self.pending.head().headers.iter().filter(|(name, _)| *name == "prefer").map(|(_, value)| value);
        wait_of(lines, self.promise.is_some(), self.config.settings.lock.max_wait)
    }

    /// Tells a duplicate that prefers an answer at once where the answer will be, and a claim that an answer may be promised.
    pub(super) fn accept(&mut self, decision: &mut Decision<B>) {
        match decision {
            Decision::Run { held, .. } => {
                if let Some(promise) = &self.promise {
                    held.remembers(promise.clone());
                }
            }
            Decision::Refuse(problem @ Problem::InFlight { .. }) => {
                if let Some((_, id)) = &self.asked
                    && let Some(accepted) = accepted(&self.config, &self.config.stored_ids.of(*id))
                {
                    self.operation.recorder.outcome(problem.outcome());
                    *decision = Decision::Answer(accepted);
                }
            }
            // The answer of an unprotected run is not stored, so nothing is promised.
            Decision::RunUnprotected => self.promise = None,
            _ => {}
        }
    }

    /// Whether the method of the request needs a key. A key that is sent is honoured in any case.
    fn needs_key(&self) -> bool {
        self.config.settings.methods.need_key(self.pending.head().method)
    }

    /// Prepares what follows from a decision: in observe mode the decision is softened, the handler gets to know the
    /// key, and the recorder gets to know the outcome. In place, because a decision is large to move.
    #[inline]
    pub(super) fn prepare(&mut self, decision: &mut Decision<B>) {
        if self.config.settings.is_observed() {
            observe(decision);
        }
        let recorder = &mut self.operation.recorder;
        match decision {
            Decision::Run { held, .. } => recorder.claims(held.claim()),
            Decision::RunUnprotected => recorder.outcome(Outcome::Unprotected),
            Decision::Replay(_) => recorder.outcome(Outcome::Replayed),
            // Storing it has told the outcome.
            Decision::Answer(_) => {}
            Decision::Refuse(problem) => recorder.outcome(problem.outcome()),
            Decision::Pass(outcome) => recorder.outcome(*outcome),
        }
        self.show(decision);
    }

    /// Makes the request for a claim. The body has been read, unless its handler reads it.
    fn claim_request(&mut self, key: Key) -> ClaimRequest {
        if self.is_anonymous {
            warn_of_anonymous_credentials(self.pending.head().headers);
        }
        let principal = mem::replace(&mut self.principal, Principal::anonymous());
        if self.config.first_runs.is_some() {
            self.counted = principal.share();
        }
        let if_completed = if self.policy.is_manual() { IfCompleted::Rerun } else { IfCompleted::Replay };
        let body = match &self.streamed {
            Some(head) => ComparedBody::Streamed(head),
            None => ComparedBody::Read(self.body.pieces()),
        };
        let (id, request) = self.config.claim_request(&self.pending.head(), &key, principal, body, if_completed);
        #[cfg(feature = "encryption")]
        if self.config.explains {
            self.explanation = Some(Box::new(Explanation::new(request.sealing.clone())));
        }
        self.operation.recorder.asks_for(request.id);
        self.asked = Some((key, id));
        request
    }

    /// The store can't answer: the operation is refused, or runs unprotected.
    pub(super) fn without_an_answer(&self, error: &StoreError) -> Decision<B> {
        let Settings { storage, .. } = &self.config.settings;
        let is_down = matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut(_));
        let unprotected = is_down && storage.on_error == OnError::Run;
        tracing::error!(
            error = error as &dyn std::error::Error,
            cache = self.config.claims.handle.name,
            record = self.asked.as_ref().map(|(_, id)| tracing::field::debug(self.config.stored_ids.of(*id))),
            unprotected,
            "the store can't answer"
        );
        if unprotected { Decision::RunUnprotected } else { Decision::Refuse(Problem::StoreUnavailable) }
    }

    /// Fills in what the handler can know. An observed request runs in any case, and calls other services under the
    /// keys of the first run; a reused key stands for another operation and is not shown.
    fn show(&mut self, decision: &mut Decision<B>) {
        let asked: Option<(Key, RecordId)> = self.asked.take();
        let Some((key, id)) = asked else { return };
        let ids = &self.config.stored_ids;
        match decision {
            // A record that was only observed is no answer, so its handler finds no stored response.
            Decision::Run { held, .. } if self.config.settings.is_observed() => {
                self.info.show(key, id, ids, held.claim(), None, None);
            }
            Decision::Run { held, previous } => {
                let journal = held.take_steps().map(|steps| Journal::new(self.config.steps.clone(), steps));
                self.info.show(key, id, ids, held.claim(), previous.take(), journal);
            }
            Decision::RunUnprotected => self.info.show(key, id, ids, None, None, None),
            Decision::Pass(outcome) if *outcome != Outcome::KeyReused => {
                self.info.show(key, id, ids, None, None, None);
            }
            Decision::Pass(_) | Decision::Replay(_) | Decision::Answer(_) | Decision::Refuse(_) => {}
        }
    }
}

/// Softens a decision in `mode = observe`: everything runs, and the outcome is the one that enforcing would have had.
fn observe<B: MessageBody + 'static>(decision: &mut Decision<B>) {
    let outcome = match decision {
        Decision::Refuse(problem) => problem.outcome(),
        Decision::Replay(_) => Outcome::Replayed,
        Decision::RunUnprotected => Outcome::StoreUnavailable,
        Decision::Run { .. } | Decision::Pass(_) | Decision::Answer(_) => return,
    };
    *decision = Decision::Pass(outcome);
}

/// Warns once: clients without a principal that share a key would share its response.
fn warn_of_anonymous_credentials(headers: RequestHeaders<'_>) {
    static WARNED: Once = Once::new();
    // A look costs as much as everything else of a replay, so not every request is looked at.
    const FIRST: u32 = 64;
    const EVERY: u32 = 256;
    thread_local!(static SEEN: Cell<u32> = const { Cell::new(0) });
    const WORDS: [&str; 7] = ["cookie", "api-key", "apikey", "token", "auth", "secret", "credential"];
    if WARNED.is_completed() {
        return;
    }
    let seen = SEEN.replace(SEEN.get().wrapping_add(1));
    if seen >= FIRST && !seen.is_multiple_of(EVERY) {
        return;
    }
    let tells = |name: &str| WORDS.iter().any(|word| name.contains(word));
    if let Some((name, _)) = headers.iter().find(|(name, _)| tells(name.as_str())) {
        WARNED.call_once(|| {
            tracing::warn!(
                header = %name,
                "a protected request carries something like credentials, but no principal: put a `Principal` into the \
                 request's extensions, give `.principal(…)`, or name the header in `credential_headers`"
            );
        });
    }
}
