//! Asks the service what became of a lost run, before the next one begins.

use std::{panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use actix_service::Service;
use actix_web::{
    Error, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use bytes::BytesMut;
use futures_util::{FutureExt as _, future::LocalBoxFuture};

use super::{decide::Decision, response, service::Governed};
use crate::{
    claim::HeldClaim,
    client::problem::Problem,
    handler::{
        Stage,
        lost::{Lost, LostRequest, Verdict},
    },
    settings::OnDisconnect,
};

/// Finds out what became of a lost run.
pub(super) type ReconcileFn = Arc<dyn Fn(Rc<Lost>) -> LocalBoxFuture<'static, Verdict> + Send + Sync>;

/// How many times `storage.timeout` the hook may take.
const PATIENCE: u32 = 10;

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Asks about the lost run that a decision to run takes over. Other decisions stay.
    ///
    /// | verdict | decision |
    /// |---|---|
    /// | done | its response is stored (in the ledger, where the wrap has one), and answered |
    /// | not done | run; the record forgets the lost owner |
    /// | unknown, a panic, a time-out | refuse: `outcome-unknown`. The record stays that of a lost owner |
    pub(super) async fn reconcile(&mut self, decision: Decision<B>, ask: ReconcileFn) -> Decision<B> {
        let (held, previous) = match decision {
            Decision::Run { held, previous } if held.claim().is_some_and(|claim| claim.taken_over) => (held, previous),
            decision => return decision,
        };
        let Some(lost) = self.lost(&held).await else { return Decision::Run { held, previous } };
        // In the operation, so that whatever drops the request gives the claim up as that of a lost owner.
        self.operation.held = Some(held);
        if self.config.settings.on_disconnect == OnDisconnect::Finish {
            self.info.set_stage(Stage::Running);
        }
        let asked = AssertUnwindSafe(async move { ask(lost).await }).catch_unwind();
        let verdict = match tokio::time::timeout(self.config.settings.storage.timeout * PATIENCE, asked).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => {
                tracing::error!("the hook of `.on_unknown` panicked");
                Verdict::Unknown
            }
            Err(_) => {
                tracing::error!("the hook of `.on_unknown` took longer than ten times `storage.timeout`");
                Verdict::Unknown
            }
        };
        let decision = match (verdict, self.operation.held.take()) {
            (Verdict::NotDone, Some(mut held)) => {
                held.clear_lost_owner(previous.is_some());
                Decision::Run { held, previous }
            }
            (Verdict::Done(response), Some(held)) => self.is_done(response, held).await,
            (Verdict::Unknown, Some(held)) => {
                held.fail().await;
                Decision::Refuse(Problem::OutcomeUnknown)
            }
            (_, None) => Decision::Refuse(Problem::OutcomeUnknown),
        };
        self.info.set_stage(Stage::Governing);
        decision
    }

    /// Stores the response of a run that was done.
    async fn is_done(&mut self, response: HttpResponse, held: Box<HeldClaim>) -> Decision<B> {
        if !response::is_replayable(response.status(), response.head()) {
            tracing::error!(status = %response.status(), "the verdict of `.on_unknown` has a status that can't be replayed");
            held.fail().await;
            return Decision::Refuse(Problem::OutcomeUnknown);
        }
        self.operation.recorder.claims(held.claim());
        self.operation.held = Some(held);
        if let Err(problem) = Box::pin(self.settle_unread()).await {
            return Decision::Refuse(problem);
        }
        let Some(held) = self.operation.held.take() else { return Decision::Refuse(Problem::OutcomeUnknown) };
        match self.operation.ledger.clone() {
            Some(run) => {
                self.operation.held = Some(held);
                Decision::Answer(response::commit::verdict(response, self, &run).await)
            }
            None => match response::capture::verdict(response, held, self).await {
                Some(response) => Decision::Answer(response),
                None => Decision::Refuse(Problem::OutcomeUnknown),
            },
        }
    }

    /// The lost run, as the store knows it. `None`: the store was not asked.
    async fn lost(&self, held: &HeldClaim) -> Option<Rc<Lost>> {
        let (Some(claim), Some((_, id))) = (held.claim(), &self.asked) else { return None };
        let request = self.pending.head();
        let mut body = BytesMut::new();
        self.body.pieces().iter().for_each(|piece| body.extend_from_slice(piece));
        let headers = request.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(Rc::new(Lost {
            record: claim.id,
            attempt: claim.attempt.saturating_sub(1),
            since: held.first_seen().await,
            steps: held.steps().to_vec(),
            request: LostRequest::new(request.method.clone(), request.uri.clone(), headers, body.freeze()),
            id: *id,
            completions: claim.completions,
        }))
    }
}
