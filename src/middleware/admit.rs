//! Refuses new operations of a principal that begins too many: `limits.fresh_per_principal`.

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};

use super::{decide::Decision, service::Governed};
use crate::{claim::FirstRuns, client::problem::Problem};

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Counts a first run, or releases its claim and refuses it. The store was asked before, because nobody else knows which
    /// request is a first run; every other decision stays, and is not counted.
    ///
    /// A run that takes over from a lost owner, or that has steps or a completed record, goes on with work that was
    /// admitted already.
    pub(super) async fn admit(&self, decision: Decision<B>, first_runs: &FirstRuns) -> Decision<B> {
        let Some(principal) = self.counted else { return decision };
        let (wait, held) = match decision {
            Decision::Run { held, previous: None } if held.is_first_run() => match first_runs.admit(principal) {
                Ok(()) => return Decision::Run { held, previous: None },
                Err(wait) => (wait, held),
            },
            decision => return decision,
        };
        if let Some(run) = &self.operation.ledger {
            run.keeps_no_more();
        }
        if self.config.settings.is_observed() {
            held.free();
        } else {
            held.release().await;
        }
        Decision::Refuse(Problem::TooManyKeys { wait })
    }
}
