//! What becomes of a handler's transaction and of its answer: they are committed together, or rolled back.

use std::{rc::Rc, time::Duration};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
};
use bytes::Bytes;

use super::{
    body::AnswerBody,
    capture::{RenderedError, warn_of_late_principal},
    keep::{is_event_stream, is_replayable, record_of, stores, stores_status},
    replay::replay,
};
use crate::{
    claim::{HeldClaim, InFlightGuard},
    client::problem::Problem,
    handler::{Stage, StoreOverride},
    key::{Match, Principal},
    ledger::{
        Answered, AnyLedger, AnyTx, LedgerRun, Left, NewRow, OwnAnswer, Recorded, Row, Settled, Task, TransactionError,
        Verdict, Why, commit_with_row, gone, is_success, settle,
    },
    middleware::service::Governed,
    observe::{Outcome, metrics},
    record::{Buffered, Record, buffer},
};

/// The end of an operation, and what its client gets.
enum Fate<B> {
    /// The handler's answer, recorded.
    Recorded(HttpResponse<B>),
    /// The handler's answer. The key is free.
    Unrecorded(HttpResponse<B>),
    /// The answer of the run that was first.
    Replay(Box<Row>),
    /// The run that was first was another operation under the same key.
    Reused,
    /// A refusal. The key is free.
    Refused(Problem),
    /// As `Refused`, and the ledger is asked until it answers.
    Unsettled,
    /// The body failed: a truncated answer must never be replayed.
    Broken,
}

/// Ends the transaction of a handler that has returned, and makes the answer for the client.
pub(in crate::middleware) async fn response<S, B>(
    ended: Result<ServiceResponse<B>, Error>,
    governed: &mut Governed<S>,
    run: &Rc<LedgerRun>,
) -> Result<ServiceResponse<AnswerBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let recorded = run.recorded();
    run.handler_returns().await;
    let left = run.left();
    match ended {
        Ok(response) => {
            let is_err = response.response().error().is_some();
            if let Some(error) = response.response().error()
                && response.response().extensions().contains::<OwnAnswer>()
            {
                tracing::error!(%error, path = response.request().path(), "a handler got no transaction, or lost it");
            }
            let (request, response) = response.into_parts();
            let has_principal = request.extensions().contains::<Principal>();
            let is_stored = stores(&request, &response, &governed.config.settings);
            let response = response.map_body(|_, body| AnswerBody::through(body));
            let answer = Answer { response, is_err, is_stored, has_principal };
            let fate = end(answer, left, governed, run, recorded).await;
            Ok(ServiceResponse::new(request, response_of(fate, governed)))
        }
        Err(error) => {
            let response = error.error_response().map_body(|_, body| AnswerBody::<B>::boxed(body));
            let is_stored = stores_status(response.status(), response.head(), &governed.config.settings);
            let answer = Answer { response, is_err: true, is_stored, has_principal: false };
            let fate = end(answer, left, governed, run, recorded).await;
            Err(RenderedError::of(error, response_of(fate, governed)).await)
        }
    }
}

/// Records the response of a lost run that was done, in a row of its own.
pub(in crate::middleware) async fn verdict<S, B>(
    response: HttpResponse,
    governed: &mut Governed<S>,
    run: &Rc<LedgerRun>,
) -> HttpResponse<AnswerBody<B>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let response = response.map_body(|_, body| AnswerBody::boxed(body));
    let answer = Answer { response, is_err: false, is_stored: true, has_principal: false };
    let recorded = run.recorded();
    let fate = end(answer, run.left(), governed, run, recorded).await;
    response_of(fate, governed)
}

/// Ends the transaction of a handler that panicked. Returns the answer, if it was committed before the panic.
pub(in crate::middleware) async fn after_panic<S, B>(
    governed: &mut Governed<S>,
    run: &Rc<LedgerRun>,
) -> Option<HttpResponse<AnswerBody<B>>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let recorded = run.recorded()?;
    run.handler_returns().await;
    let fate = match run.left() {
        Left::Committed(answered) => Fate::of_closure(*answered, governed),
        Left::Superseded(row) => Fate::of_first(row, &recorded),
        Left::Unsettled => Fate::Unsettled,
        Left::Tx => {
            run.roll_back().await;
            return None;
        }
        Left::Nothing | Left::Kept => return None,
    };
    end_claim(governed, &fate, run.ledger(), Some(&recorded)).await;
    Some(response_of(fate, governed))
}

/// The handler's answer, and what decides on its row.
struct Answer<B> {
    response: HttpResponse<B>,
    is_err: bool,
    /// Whether the settings say that its status is stored.
    is_stored: bool,
    has_principal: bool,
}

/// Decides, commits or rolls back, and ends the claim.
///
/// | the answer | with a transaction | without one |
/// |---|---|---|
/// | 2xx, 3xx | commit with its row | a row of its own, if the status is stored |
/// | 2xx, 3xx that must not be recorded | roll back, `not-recorded` | sent unrecorded |
/// | 2xx, 3xx, a stream of events | roll back, `transaction-misused` | a row without a body |
/// | 4xx, 5xx that is stored | roll back, then a row of its own | a row of its own |
/// | 4xx, 5xx that is not stored; an `Err` that renders as 2xx or 3xx | roll back, sent unrecorded | sent unrecorded |
/// | an answer of the middleware's own | roll back, never recorded | never recorded |
async fn end<S, B>(
    answer: Answer<AnswerBody<B>>,
    left: Left,
    governed: &mut Governed<S>,
    run: &Rc<LedgerRun>,
    recorded: Option<Rc<Recorded>>,
) -> Fate<AnswerBody<B>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let fate = match left {
        Left::Committed(answered) => Fate::of_closure(*answered, governed),
        Left::Superseded(row) => match &recorded {
            Some(recorded) => Fate::of_first(row, recorded),
            None => Fate::Replay(row),
        },
        Left::Unsettled => Fate::Unsettled,
        Left::Kept => Fate::Refused(TransactionError::Misused("the handler has kept its transaction").refusal()),
        Left::Tx => return judge(answer, true, governed, run, recorded).await,
        Left::Nothing => return judge(answer, false, governed, run, recorded).await,
    };
    end_claim(governed, &fate, run.ledger(), recorded.as_deref()).await;
    fate
}

async fn judge<S, B>(
    answer: Answer<AnswerBody<B>>,
    has_tx: bool,
    governed: &mut Governed<S>,
    run: &Rc<LedgerRun>,
    recorded: Option<Rc<Recorded>>,
) -> Fate<AnswerBody<B>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let Answer { response, is_err, is_stored, has_principal } = answer;
    let ledger = run.ledger();
    let own = response.extensions().get::<OwnAnswer>().map(|own| own.0);
    let says_no = response.extensions().get::<StoreOverride>() == Some(&StoreOverride::Never);
    let is_of_somebody = governed.is_anonymous && has_principal;
    if is_of_somebody {
        warn_of_late_principal();
    }
    let may_be_recorded = !governed.info.is_late_exempt() && !is_of_somebody && !says_no;
    let is_success = is_success(&response);
    let commits = is_success && !is_err && (has_tx || run.entry_is_out());
    let is_endless = is_event_stream(response.headers());
    let refused = match own {
        Some(problem) => Some(problem),
        None if commits && !(may_be_recorded && is_replayable(response.status(), response.head())) => {
            Some(TransactionError::NotRecorded.refusal())
        }
        None if has_tx && run.entry_is_out() => {
            Some(TransactionError::Misused("its row was to be inserted by hand and with its transaction").refusal())
        }
        None if commits && is_endless => Some(TransactionError::Misused("its answer is a stream of events").refusal()),
        None => None,
    };
    if !commits || refused.is_some() {
        run.roll_back().await;
    }
    let is_recorded = commits || (is_stored && may_be_recorded && !(is_success && is_err));
    let fate = match (refused, recorded.as_ref().filter(|_| is_recorded)) {
        (Some(problem), _) => Fate::Refused(problem),
        (None, None) => Fate::Unrecorded(response),
        (None, Some(recorded)) => record(response, is_endless, governed, run, recorded).await,
    };
    end_claim(governed, &fate, ledger, recorded.as_deref()).await;
    fate
}

/// Commits an answer with its row: in the handler's transaction, or in one of the middleware's own.
async fn record<S, B>(
    response: HttpResponse<AnswerBody<B>>,
    is_endless: bool,
    governed: &mut Governed<S>,
    run: &Rc<LedgerRun>,
    recorded: &Recorded,
) -> Fate<AnswerBody<B>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let ledger = run.ledger();
    let (head, body) = response.into_parts();
    let buffered = if is_endless { Ok((None, body)) } else { whole(body, recorded).await };
    let (kept, body) = match buffered {
        Ok(buffered) => buffered,
        Err(error) => {
            tracing::error!(error = &*error, "the body of a protected response failed; the client gets a 500");
            run.roll_back().await;
            return Fate::Broken;
        }
    };
    let record = record_of(head.head(), kept.as_deref(), &governed.config.settings);
    let keep = governed.config.keep_of(&head.extensions());
    governed.operation.recorder.writes(&record);
    let response = head.set_body(body);
    if run.entry_is_out() && is_success(&response) {
        return match settle(ledger, recorded.id, recorded.token.get(), recorded.patience).await {
            Ok(Settled::Ours(_)) => {
                governed.complete_in_transition(&record, keep);
                Fate::Recorded(response)
            }
            Ok(Settled::Theirs(row)) => Fate::of_first(row, recorded),
            Ok(Settled::Nothing) => Fate::Refused(TransactionError::NotRecorded.refusal()),
            Err(_) => Fate::Unsettled,
        };
    }
    let task = Finish {
        ledger: ledger.clone(),
        tx: run.take_tx(),
        row: recorded.row(record, keep, run.max_run()),
        held: governed.operation.held.take(),
        is_in_transition: governed.config.is_in_transition,
        _running: governed.config.in_flight.track(),
    };
    // From here on nothing cancels the operation.
    match Task::in_place(task.run()).await.unwrap_or(Verdict::Unsettled) {
        Verdict::Committed => Fate::Recorded(response),
        Verdict::Superseded(row) => Fate::of_first(row, recorded),
        Verdict::RolledBack(why) => Fate::Refused(TransactionError::from(why).refusal()),
        Verdict::Unsettled => Fate::Unsettled,
    }
}

/// The last steps of an operation, in a task of their own.
struct Finish {
    ledger: AnyLedger,
    tx: Option<AnyTx>,
    row: NewRow,
    held: Option<Box<HeldClaim>>,
    is_in_transition: bool,
    /// Shutdown waits.
    _running: InFlightGuard,
}

impl Finish {
    async fn run(mut self) -> Verdict {
        let begun = match self.tx.take() {
            Some(tx) => Ok(tx),
            None => self.ledger.begin(self.row.max_run).await.unwrap_or_else(|| Err(gone())),
        };
        let verdict = match begun {
            Ok(tx) => commit_with_row(&self.ledger, tx, &self.row).await,
            Err(error) => Verdict::RolledBack(Why::of(error)),
        };
        let Some(mut held) = self.held.take() else { return verdict };
        held.keep_for(match &verdict {
            Verdict::Superseded(first) => first.remaining,
            _ => self.row.keep,
        });
        match &verdict {
            Verdict::Committed if self.is_in_transition => held.complete_unwaited(self.row.record.clone()),
            Verdict::Superseded(first) if self.is_in_transition => held.complete_unwaited(first.record.clone()),
            Verdict::Committed | Verdict::Superseded(_) => held.ended(),
            Verdict::RolledBack(_) => held.release().await,
            Verdict::Unsettled => {
                held.settle_behind(self.ledger.clone(), self.row.id, self.row.token, self.is_in_transition);
            }
        }
        verdict
    }
}

impl Drop for Finish {
    /// The task panicked, or its runtime has ended: what became of the COMMIT is not known.
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.bar();
        }
    }
}

/// A body that was read to its end, or to the limit of what is kept.
async fn whole<B: MessageBody + 'static>(
    body: AnswerBody<B>,
    recorded: &Recorded,
) -> Result<(Option<Bytes>, AnswerBody<B>), Box<dyn std::error::Error>> {
    match buffer(body, recorded.most, |bytes| recorded.lent.holds(bytes)).await {
        Buffered::Whole(bytes) => Ok((Some(bytes.clone()), AnswerBody::whole(bytes))),
        Buffered::TooLarge(started) => Ok((None, AnswerBody::boxed(BoxBody::new(started)))),
        Buffered::Failed(error) => Err(error),
    }
}

/// Ends the claim, unless the task of the COMMIT has done so, and reports the outcome.
async fn end_claim<S: Service<ServiceRequest>, B>(
    governed: &mut Governed<S>,
    fate: &Fate<B>,
    ledger: &AnyLedger,
    recorded: Option<&Recorded>,
) {
    governed.operation.recorder.outcome(fate.outcome());
    if let Some(mut held) = governed.operation.held.take() {
        if let Fate::Unrecorded(response) = fate {
            held.answers(response.status());
        }
        match (fate, recorded) {
            (Fate::Recorded(_) | Fate::Replay(_) | Fate::Reused, _) => held.ended(),
            (Fate::Unsettled, Some(recorded)) => {
                held.settle_behind(ledger.clone(), recorded.id, recorded.token.get(), recorded.is_in_transition);
            }
            _ => held.release().await,
        }
    }
    governed.info.set_stage(Stage::Governing);
}

impl<S: Service<ServiceRequest>> Governed<S> {
    /// Stores a committed answer as well, for processes that do not know the ledger yet.
    fn complete_in_transition(&mut self, record: &Record, keep: Duration) {
        if self.config.is_in_transition
            && let Some(mut held) = self.operation.held.take()
        {
            held.keep_for(keep);
            held.complete_unwaited(record.clone());
        }
    }
}

impl<B: MessageBody + 'static> Fate<AnswerBody<B>> {
    /// The answer of a closure, whose rows are committed.
    fn of_closure<S: Service<ServiceRequest>>(answered: Answered, governed: &mut Governed<S>) -> Self {
        let Answered { response, record, keep } = answered;
        governed.operation.recorder.writes(&record);
        governed.complete_in_transition(&record, keep);
        Self::Recorded(response.map_body(|_, body| AnswerBody::boxed(body)))
    }
}

impl<B> Fate<B> {
    fn of_first(row: Box<Row>, recorded: &Recorded) -> Self {
        if row.fingerprint.compare(&recorded.fingerprint) == Match::Mismatch { Self::Reused } else { Self::Replay(row) }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Recorded(_) => Outcome::Stored,
            Self::Unrecorded(_) | Self::Broken => Outcome::NotStored,
            Self::Replay(_) | Self::Reused => Outcome::Superseded,
            Self::Refused(problem) => problem.outcome(),
            Self::Unsettled => {
                metrics::unsettled();
                Outcome::StoreUnavailable
            }
        }
    }
}

/// The response for the client.
fn response_of<S: Service<ServiceRequest>, B: MessageBody + 'static>(
    fate: Fate<AnswerBody<B>>,
    governed: &Governed<S>,
) -> HttpResponse<AnswerBody<B>> {
    let config = &governed.config;
    let problem = match fate {
        Fate::Recorded(mut response) => {
            config.add_should_retry(response.headers_mut());
            let keep = config.keep_of(&response.extensions());
            config.add_expiry(response.headers_mut(), keep);
            return response;
        }
        Fate::Unrecorded(response) => return response,
        Fate::Replay(row) => match replay(&row.record, Some(row.remaining), config, |_| true) {
            Ok(response) => return response,
            Err(error) => {
                tracing::error!(%error, "a row of the ledger can't be read");
                Problem::StoreUnavailable
            }
        },
        Fate::Broken => {
            return HttpResponse::InternalServerError().finish().map_body(|_, body| AnswerBody::boxed(body));
        }
        Fate::Reused => Problem::KeyReused,
        Fate::Unsettled => Problem::StoreUnavailable,
        Fate::Refused(problem) => problem,
    };
    problem.response(&config.style).map_body(|_, body| AnswerBody::boxed(body))
}
