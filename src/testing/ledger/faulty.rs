//! A ledger whose calls fail, lose their answer or wait on demand.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    key::RecordId,
    ledger::{Cause, Ledger, LedgerError, Look, NewRow, Row, Write},
};

/// A method of [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LedgerCall {
    /// [`Ledger::look`].
    Look,
    /// [`Ledger::begin`].
    Begin,
    /// [`Ledger::write`].
    Write,
    /// [`Ledger::probe`].
    Probe,
    /// [`Ledger::commit`].
    Commit,
    /// [`Ledger::rollback`]. It can wait and can't fail.
    Rollback,
    /// [`Ledger::settle`].
    Settle,
    /// [`Ledger::forget`].
    Forget,
    /// [`Ledger::list`].
    List,
    /// [`Ledger::sweep`].
    Sweep,
    /// [`Ledger::check`].
    Check,
}

/// The way in which a call to a ledger goes wrong.
///
/// A COMMIT that is not applied rolls its transaction back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerFault {
    /// The call is not applied, and fails with [`LedgerError::Unavailable`].
    Unavailable,
    /// The call is not applied, and fails with [`LedgerError::Conflict`].
    Conflict,
    /// The call is not applied, and fails with [`LedgerError::Refused`].
    Refused,
    /// The call is not applied, and fails with [`LedgerError::Unreadable`].
    Unreadable,
    /// The call is not applied, and fails with [`LedgerError::Unknown`]: a COMMIT that got lost.
    Unknown,
    /// The call is applied, and fails with [`LedgerError::Unknown`]: a COMMIT whose answer got lost.
    LoseAnswer,
}

/// Wraps a ledger and lets chosen calls go wrong. Without faults it answers as the ledger does, and it has the same
/// transactions.
///
/// ```
/// use actix_idempotency::{IdempotencyKey, ledger::MemoryLedger};
/// use actix_idempotency::testing::{FaultyLedger, LedgerCall, LedgerFault};
///
/// let (ledger, faults) = FaultyLedger::new(MemoryLedger::default());
/// // The next COMMIT arrives, and its answer does not.
/// faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
/// let wrap = IdempotencyKey::default().ledger(&ledger);
/// # let _ = wrap;
/// ```
#[derive(Clone, Debug)]
pub struct FaultyLedger<L> {
    ledger: L,
    faults: LedgerFaults,
}

/// Plans the faults of a [`FaultyLedger`], and counts its calls. Clones share the plan.
#[derive(Clone, Debug, Default)]
pub struct LedgerFaults(Arc<Mutex<LedgerPlan>>);

#[derive(Debug, Default)]
struct LedgerPlan {
    next: HashMap<LedgerCall, VecDeque<LedgerFault>>,
    always: HashMap<LedgerCall, LedgerFault>,
    gates: HashMap<LedgerCall, VecDeque<Arc<watch::Sender<Passage>>>>,
    calls: HashMap<LedgerCall, usize>,
    /// Transactions that were begun, and neither committed nor rolled back by a call.
    open: usize,
}

/// How far the call at a gate is.
#[derive(Clone, Copy, Debug, Default)]
struct Passage {
    is_reached: bool,
    is_open: bool,
}

/// A gate at which one call waits, before it is applied. Its drop opens it.
#[derive(Debug)]
pub struct LedgerGate(Arc<watch::Sender<Passage>>);

impl LedgerFaults {
    /// Plans a fault for the next call of this method that has none yet.
    pub fn next(&self, call: LedgerCall, fault: LedgerFault) {
        self.0.lock().next.entry(call).or_default().push_back(fault);
    }

    /// Plans one fault for the next `n` calls of this method.
    pub fn next_calls(&self, n: usize, call: LedgerCall, fault: LedgerFault) {
        for _ in 0..n {
            self.next(call, fault);
        }
    }

    /// From now on every call of this method goes wrong, until [`heal`](Self::heal).
    pub fn always(&self, call: LedgerCall, fault: LedgerFault) {
        self.0.lock().always.insert(call, fault);
    }

    /// Forgets all planned faults.
    pub fn heal(&self) {
        let mut plan = self.0.lock();
        plan.next.clear();
        plan.always.clear();
    }

    /// The next call of this method waits at the gate, before it is applied or goes wrong.
    #[must_use]
    pub fn gate(&self, call: LedgerCall) -> LedgerGate {
        let gate = Arc::new(watch::Sender::new(Passage::default()));
        self.0.lock().gates.entry(call).or_default().push_back(gate.clone());
        LedgerGate(gate)
    }

    /// How many calls of this method there were.
    #[must_use]
    pub fn calls(&self, call: LedgerCall) -> usize {
        self.0.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many planned faults have not happened yet, without those of [`always`](Self::always).
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.lock().next.values().map(VecDeque::len).sum()
    }

    /// How many transactions were begun, and neither committed nor rolled back by a call. A transaction that was merely
    /// dropped counts for ever.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.lock().open
    }

    /// Waits at a gate, if there is one for this call, and tells what goes wrong.
    async fn meet(&self, call: LedgerCall) -> Option<LedgerFault> {
        let (gate, fault) = {
            let mut plan = self.0.lock();
            *plan.calls.entry(call).or_default() += 1;
            let gate = plan.gates.get_mut(&call).and_then(VecDeque::pop_front);
            let planned = plan.next.get_mut(&call).and_then(VecDeque::pop_front);
            (gate, planned.or_else(|| plan.always.get(&call).copied()))
        };
        if let Some(gate) = gate {
            gate.send_modify(|passage| passage.is_reached = true);
            // The sender is held here, so it can't be gone.
            let _ = gate.subscribe().wait_for(|passage| passage.is_open).await;
        }
        fault
    }

    async fn call<T>(
        &self,
        call: LedgerCall,
        inner: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        match self.meet(call).await {
            None => inner.await,
            Some(LedgerFault::LoseAnswer) => {
                inner.await?;
                Err(LedgerFault::LoseAnswer.error(call))
            }
            Some(fault) => Err(fault.error(call)),
        }
    }

    fn begun(&self) {
        self.0.lock().open += 1;
    }

    fn ended(&self) {
        let mut plan = self.0.lock();
        plan.open = plan.open.saturating_sub(1);
    }
}

impl LedgerGate {
    /// Waits until a call has arrived at the gate.
    pub async fn reached(&self) {
        let _ = self.0.subscribe().wait_for(|passage| passage.is_reached).await;
    }

    /// Lets the call pass.
    pub fn open(&self) {
        self.0.send_modify(|passage| passage.is_open = true);
    }
}

impl Drop for LedgerGate {
    fn drop(&mut self) {
        self.open();
    }
}

impl LedgerFault {
    fn error(self, call: LedgerCall) -> LedgerError {
        let cause: Cause = format!("a planned fault of {call:?}").into();
        match self {
            Self::Unavailable => LedgerError::Unavailable(cause),
            Self::Conflict => LedgerError::Conflict(cause),
            Self::Refused => LedgerError::Refused(cause),
            Self::Unreadable => LedgerError::Unreadable(cause),
            Self::Unknown | Self::LoseAnswer => LedgerError::Unknown(cause),
        }
    }
}

impl<L: Ledger> FaultyLedger<L> {
    /// Wraps the ledger. Returns the handle to its faults, too.
    pub fn new(ledger: L) -> (Self, LedgerFaults) {
        let faults = LedgerFaults::default();
        (Self { ledger, faults: faults.clone() }, faults)
    }

    /// The ledger within.
    pub const fn inner(&self) -> &L {
        &self.ledger
    }
}

impl<L: Ledger> Ledger for FaultyLedger<L> {
    type Tx = L::Tx;
    type Options = L::Options;
    type Kept = L::Kept;

    fn name(&self) -> String {
        self.ledger.name()
    }

    async fn look(&self, id: &RecordId) -> Result<Look, LedgerError> {
        self.faults.call(LedgerCall::Look, self.ledger.look(id)).await
    }

    async fn look_and_keep(&self, id: &RecordId) -> Result<(Look, Option<L::Kept>), LedgerError> {
        self.faults.call(LedgerCall::Look, self.ledger.look_and_keep(id)).await
    }

    fn begin(
        &self,
        kept: Option<L::Kept>,
        options: &L::Options,
        max_run: Duration,
    ) -> impl Future<Output = Result<L::Tx, LedgerError>> + Send {
        let begun = self.ledger.begin(kept, options, max_run);
        async move {
            let tx = self.faults.call(LedgerCall::Begin, begun).await?;
            self.faults.begun();
            Ok(tx)
        }
    }

    async fn write(&self, tx: &mut L::Tx, row: &NewRow) -> Result<Write, LedgerError> {
        self.faults.call(LedgerCall::Write, self.ledger.write(tx, row)).await
    }

    async fn probe(&self, tx: &mut L::Tx) -> Result<(), LedgerError> {
        self.faults.call(LedgerCall::Probe, self.ledger.probe(tx)).await
    }

    async fn commit(&self, tx: L::Tx) -> Result<(), LedgerError> {
        let answer = match self.faults.meet(LedgerCall::Commit).await {
            None => self.ledger.commit(tx).await,
            Some(LedgerFault::LoseAnswer) => {
                let committed = self.ledger.commit(tx).await;
                committed.and_then(|()| Err(LedgerFault::LoseAnswer.error(LedgerCall::Commit)))
            }
            Some(fault) => {
                self.ledger.rollback(tx).await;
                Err(fault.error(LedgerCall::Commit))
            }
        };
        self.faults.ended();
        answer
    }

    async fn rollback(&self, tx: L::Tx) {
        self.faults.meet(LedgerCall::Rollback).await;
        self.ledger.rollback(tx).await;
        self.faults.ended();
    }

    async fn settle(&self, id: &RecordId, patience: Duration) -> Result<Look, LedgerError> {
        self.faults.call(LedgerCall::Settle, self.ledger.settle(id, patience)).await
    }

    async fn forget(&self, id: &RecordId) -> Result<bool, LedgerError> {
        self.faults.call(LedgerCall::Forget, self.ledger.forget(id)).await
    }

    async fn list(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        self.faults.call(LedgerCall::List, self.ledger.list(after, limit)).await
    }

    async fn sweep(&self, max_run: Duration) -> Result<u64, LedgerError> {
        self.faults.call(LedgerCall::Sweep, self.ledger.sweep(max_run)).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.faults.call(LedgerCall::Check, self.ledger.check()).await
    }

    fn may_retry(&self, error: &dyn Any) -> bool {
        self.ledger.may_retry(error)
    }
}
