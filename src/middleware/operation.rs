//! The obligations of a running operation, and the order in which they are met.

use std::rc::Rc;

use super::{recorder::OutcomeRecorder, request::Upload, response::abandon};
use crate::{
    claim::{HeldClaim, InFlightGuard},
    ledger::LedgerRun,
};

/// The obligations of a running operation. The struct is moved whole: from the future of the request into the body of a
/// streamed response.
///
/// The order of the fields is the order in which they are dropped, and promises depend on it:
///
/// 1. The claim is given up, which frees the key.
/// 2. The operation is no longer in flight. Shutdown waits for this, so it comes after the key is free.
/// 3. The outcome is reported. Whoever hears of it finds the key free.
#[derive(Default)]
pub(super) struct Operation {
    /// `None`: the operation runs unprotected, because the store could not answer and `storage.on_error = run`; or its
    /// claim has ended.
    pub(super) held: Option<Box<HeldClaim>>,
    /// `None`: shutdown does not wait for the operation.
    pub(super) in_flight: Option<InFlightGuard>,
    pub(super) recorder: OutcomeRecorder,
    /// The request's body, while it is not known what it was (`body = stream`).
    pub(super) upload: Option<Upload>,
    /// The work with a ledger. While a transaction is open, it and the claim end in a task: the former is rolled back, then
    /// the latter is given up.
    pub(super) ledger: Option<Rc<LedgerRun>>,
}

impl Operation {
    pub(super) const fn new(recorder: OutcomeRecorder, ledger: Option<Rc<LedgerRun>>) -> Self {
        Self { held: None, in_flight: None, recorder, upload: None, ledger }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(run) = self.ledger.take() {
            abandon(&run, &mut self.held, &mut self.in_flight);
        }
    }
}
