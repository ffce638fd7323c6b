//! Explains a mismatch: what of a JSON body differs from the body of the first request.

use std::{borrow::Cow, sync::Arc};

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};

use super::{decide::Decision, service::Governed};
use crate::{
    client::problem::Problem,
    key::{Leaf, is_json, leaves},
    ledger::Row,
    record::Record,
    sealing::Sealing,
};

/// The parts of a request that explain a mismatch, with `fingerprint.differences`.
#[derive(Default)]
pub(super) struct Explanation {
    /// Opens the record of the first request.
    sealing: Option<Arc<Sealing>>,
    /// The record of the first request, if it was in a ledger.
    recorded: Option<Record>,
    /// The pointers to the members that differ. `None`: they are not known.
    pub(super) differences: Option<Vec<String>>,
}

impl Explanation {
    pub(super) fn new(sealing: Option<Arc<Sealing>>) -> Self {
        Self { sealing, ..Self::default() }
    }
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// The row of another operation under the same key was found in a ledger.
    pub(super) fn differs_from(&mut self, row: &Row) {
        if let Some(explanation) = &mut self.explanation {
            explanation.recorded = Some(row.record.clone());
        }
    }

    /// A request that runs leaves the pairs of its body with its record. One that is refused as a mismatch is told what
    /// differs, if its record has such pairs. A request in flight has none yet.
    pub(super) async fn explain(&mut self, decision: &mut Decision<B>) {
        let is_mismatch = match decision {
            Decision::Run { .. } | Decision::RunUnprotected => false,
            Decision::Refuse(Problem::KeyReused) => true,
            _ => return,
        };
        let (Some((_, id)), Some(leaves)) = (&self.asked, self.leaves()) else { return };
        let ids = &self.config.stored_ids;
        let id = ids.of(*id);
        if !is_mismatch {
            let Some(pairs) = ids.index.pairs(&id, &leaves) else { return };
            if let Some(recorded) = self.operation.ledger.as_ref().and_then(|run| run.recorded()) {
                recorded.explained_by(&pairs);
            }
            if let Decision::Run { held, .. } = decision {
                held.explained_by(pairs);
            }
            return;
        }
        let Some(explanation) = &mut self.explanation else { return };
        let record = match explanation.recorded.take() {
            Some(record) => Some(record),
            None => self.config.claims.stored(&id, explanation.sealing.as_deref()).await,
        };
        let pairs = record.as_ref().and_then(Record::pairs);
        explanation.differences = pairs.and_then(|pairs| ids.index.differences(&id, &leaves, pairs));
    }

    /// The leaves of the body, if it is JSON.
    fn leaves(&self) -> Option<Vec<Leaf>> {
        if !is_json(self.pending.head().headers) {
            return None;
        }
        let body = match self.body.pieces() {
            [one] => Cow::Borrowed(&one[..]),
            pieces => Cow::Owned(pieces.concat()),
        };
        leaves(&body, &self.config.comparison.ignored)
    }
}
