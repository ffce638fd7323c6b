//! The decision of a wrap with a ledger. Claims save runs there, and rows decide.

use std::{cell::RefCell, time::Duration};

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{Extensions, ResponseHead, ServiceRequest, ServiceResponse},
};

use super::{
    config::WrapConfig,
    decide::Decision,
    response::{is_event_stream, is_replayable, record_of},
    service::Governed,
};
use crate::{
    claim::{ClaimAnswer, ClaimRequest, HeldBytes},
    client::problem::Problem,
    handler::{IdempotencyInfo, StoreOverride},
    key::{Fingerprint, Match, PrincipalTag, RecordId},
    ledger::{AnyLedger, LedgerError, Lent, Look, Recorded, Row},
    observe::metrics,
    record::Record,
    settings::OnError,
    store::{OnUnknown, OwnerToken, StoreError},
};

/// The operation about which the ledger is asked.
pub(super) struct Question {
    ledger: AnyLedger,
    id: RecordId,
    fingerprint: Fingerprint,
    principal_tag: PrincipalTag,
}

impl Question {
    /// The question of a request whose wrap has a ledger and enforces.
    pub(super) fn of(request: &ClaimRequest) -> Option<Box<Self>> {
        let ledger = request.ledger.clone()?;
        let ClaimRequest { id, fingerprint, principal, .. } = request;
        Some(Box::new(Self { ledger, id: *id, fingerprint: *fingerprint, principal_tag: principal.tag(id) }))
    }

    /// Whether a row is the answer to this operation, and not to another one under the same key.
    fn is_answered_by(&self, row: &Row) -> bool {
        match row.fingerprint.compare(&self.fingerprint) {
            Match::Same => true,
            Match::OtherScheme => {
                metrics::other_scheme();
                true
            }
            Match::Mismatch => false,
        }
    }
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// The decision table of a wrap with a ledger, after the store was asked for a claim.
    ///
    /// | what the store says | the ledger is | a row of this operation | a row of another one | no row | no answer |
    /// |---|---|---|---|---|---|
    /// | acquired | looked at | replay, end the claim | `key-reused`, end the claim | run | release, `store-unavailable` |
    /// | acquired from a lost owner | settled | the same | the same | run, or `outcome-unknown` with `on_unknown = reject` | the same |
    /// | acquired without a lock | settled | replay | `key-reused` | run | `store-unavailable` |
    /// | in flight | looked at, also while waiting | replay | `key-reused` | `in-flight` | `in-flight` |
    /// | mismatch | looked at | replay | `key-reused` | `key-reused` | `store-unavailable` |
    /// | completed, before the wrap had a ledger | looked at | replay | `key-reused` | replay the record | `store-unavailable` |
    /// | owner lost, before the wrap had a ledger | settled | replay | `key-reused` | `outcome-unknown` | `store-unavailable` |
    /// | nothing: it is down, and `storage.on_error = run` | settled | replay | `key-reused` | run without a claim | `store-unavailable` |
    /// | nothing | | | | | `store-unavailable` |
    pub(super) async fn consult(&mut self, answer: Result<ClaimAnswer, StoreError>, question: Question) -> Decision<B> {
        let storage = &self.config.settings.storage;
        let patience = storage.timeout;
        let is_settled = match &answer {
            Ok(ClaimAnswer::Recorded(row)) if question.is_answered_by(row) => return self.replay_row(row),
            Ok(ClaimAnswer::Recorded(row)) => return self.is_of_another(row),
            Ok(ClaimAnswer::Run { held, .. }) => held.claim().is_none_or(|claim| claim.taken_over),
            Ok(ClaimAnswer::OwnerLost) => true,
            Ok(ClaimAnswer::Completed { .. } | ClaimAnswer::InFlight(_) | ClaimAnswer::Mismatch) => false,
            Err(error) => {
                let is_down = matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut(_));
                if !is_down || storage.on_error != OnError::Run {
                    return self.without_an_answer(error);
                }
                true
            }
        };
        let asked = if is_settled {
            question.ledger.settle(question.id, patience).await
        } else if matches!(answer, Ok(ClaimAnswer::Run { .. })) {
            question.ledger.look_and_keep(question.id, patience).await.map(|(look, kept)| {
                if let Some(run) = self.operation.ledger.as_ref().filter(|_| look.row.is_none()) {
                    run.keeps(kept);
                }
                look
            })
        } else {
            question.ledger.look(question.id, patience).await
        };
        let row = asked.as_ref().ok().and_then(|look| look.row.as_ref());
        let decision =
            row.map(|row| if question.is_answered_by(row) { self.replay_row(row) } else { self.is_of_another(row) });
        match answer {
            Ok(ClaimAnswer::Run { held, .. }) => match (decision, asked) {
                (Some(decision), _) => {
                    held.ended();
                    decision
                }
                (None, Ok(look)) => {
                    let claim = held.claim().cloned();
                    let is_lost = claim.as_ref().is_some_and(|claim| claim.taken_over);
                    if is_lost && self.config.settings.on_unknown == OnUnknown::Reject {
                        held.fail().await;
                        return Decision::Refuse(Problem::OutcomeUnknown);
                    }
                    self.records(&question, look, claim.map_or(1, |claim| claim.attempt));
                    Decision::Run { held, previous: None }
                }
                (None, Err(error)) => {
                    held.release().await;
                    without_the_ledger(&error)
                }
            },
            Ok(ClaimAnswer::InFlight(grace)) => decision.unwrap_or(Decision::Refuse(Problem::InFlight { grace })),
            Ok(other) => match (decision, asked) {
                (Some(decision), _) => decision,
                (None, Err(error)) => without_the_ledger(&error),
                (None, Ok(_)) => match other {
                    ClaimAnswer::Completed { record, remaining } => match self.replay(&record, remaining) {
                        Ok(response) => Decision::Replay(response),
                        Err(unreadable) => self.without_an_answer(&unreadable.into()),
                    },
                    ClaimAnswer::OwnerLost => Decision::Refuse(Problem::OutcomeUnknown),
                    _ => Decision::Refuse(Problem::KeyReused),
                },
            },
            Err(error) => match (decision, asked) {
                (Some(decision), _) => decision,
                (None, Ok(look)) => {
                    self.records(&question, look, 1);
                    self.without_an_answer(&error)
                }
                (None, Err(error)) => without_the_ledger(&error),
            },
        }
    }

    /// The row under the key is that of another operation.
    #[cfg_attr(not(feature = "encryption"), expect(clippy::unused_self, reason = "the feature uses it"))]
    fn is_of_another(&mut self, row: &Row) -> Decision<B> {
        #[cfg(feature = "encryption")]
        self.differs_from(row);
        #[cfg(not(feature = "encryption"))]
        let _ = row;
        Decision::Refuse(Problem::KeyReused)
    }

    /// Prepares the run: its answer will be recorded in the ledger.
    fn records(&self, question: &Question, look: Look, attempt: u32) {
        let Some(run) = &self.operation.ledger else { return };
        let storage = &self.config.settings.storage;
        let lending = Lending {
            config: self.config.clone(),
            info: self.info.clone(),
            is_anonymous: self.is_anonymous,
            held: HeldBytes::none(&self.config.in_flight).into(),
        };
        run.records(Recorded {
            #[cfg(feature = "encryption")]
            ledger: question.ledger.clone(),
            id: question.id,
            fingerprint: question.fingerprint,
            principal_tag: question.principal_tag,
            // Tokens of claims in memory are told apart within their process only.
            token: OwnerToken::random().into(),
            attempt,
            patience: storage.timeout,
            look: look.into(),
            most: storage.max_response_body,
            lent: Box::new(lending),
            #[cfg(feature = "encryption")]
            pairs: std::cell::OnceCell::new(),
            is_in_transition: self.config.is_in_transition,
        });
    }
}

fn without_the_ledger<B: MessageBody + 'static>(error: &LedgerError) -> Decision<B> {
    tracing::error!(error = error as &dyn std::error::Error, "the ledger can't answer");
    Decision::Refuse(Problem::StoreUnavailable)
}

/// What a ledger needs to know of responses.
struct Lending {
    config: std::rc::Rc<WrapConfig>,
    info: IdempotencyInfo,
    is_anonymous: bool,
    held: RefCell<HeldBytes>,
}

impl Lent for Lending {
    fn record(&self, head: &ResponseHead, body: Option<&[u8]>) -> Record {
        record_of(head, body, &self.config.settings)
    }

    fn keep(&self, extensions: &Extensions) -> Duration {
        self.config.keep_of(extensions)
    }

    fn is_recordable(&self, head: &ResponseHead, extensions: &Extensions, has_principal: bool) -> bool {
        let is_of_somebody = self.is_anonymous && has_principal;
        !self.info.is_late_exempt()
            && !is_of_somebody
            && extensions.get::<StoreOverride>() != Some(&StoreOverride::Never)
            && is_replayable(head.status, head)
    }

    fn is_endless(&self, head: &ResponseHead) -> bool {
        is_event_stream(&head.headers)
    }

    fn holds(&self, bytes: usize) -> bool {
        self.held.borrow_mut().hold(bytes)
    }
}
