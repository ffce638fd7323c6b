//! The transaction of a handler.

use std::{
    fmt,
    future::poll_fn,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use futures_util::future::LocalBoxFuture;

use super::{AnyTx, Ledger, TransactionError, run::LedgerRun};
use crate::observe::metrics::OpenTransaction;

/// The transaction of a handler, which the middleware commits together with the answer: an extractor in handlers under a
/// wrap with [`ledger`](crate::IdempotencyKey::ledger).
///
/// The extractor begins the transaction, which ends when the handler has answered: a success is committed with its record
/// as the last row; an `Err`, a 4xx, a 5xx and a panic roll back. A handler that keeps the transaction (in a task, in the
/// body of its answer) gets a 500 `transaction-misused`. The transaction holds a connection meanwhile: call other services
/// before, or use [`Transactions`](super::Transactions).
///
/// ```
/// use actix_idempotency::ledger::{MemoryLedger, Tx};
/// use actix_web::HttpResponse;
///
/// async fn pay(mut tx: Tx<MemoryLedger>) -> HttpResponse {
///     tx.on_commit(|| println!("paid"));
///     HttpResponse::Created().body("paid")
/// }
/// ```
pub struct Tx<L: Ledger> {
    /// `None` only in the drop.
    open: Option<(Box<L::Tx>, OpenTransaction)>,
    run: Rc<LedgerRun>,
    /// Whether it is the transaction of a closure, which alone can have it committed.
    is_of_closure: bool,
}

impl<L: Ledger> Tx<L> {
    /// As [`begin`](Self::begin), for a closure.
    pub(super) async fn begin_for_closure(
        run: Rc<LedgerRun>,
        ledger: L,
        options: L::Options,
    ) -> Result<Self, TransactionError> {
        let guard = BeginGuard(run.clone());
        let mut tx = Self::begin(run, ledger, options).await?;
        tx.is_of_closure = true;
        drop(guard);
        Ok(tx)
    }

    pub(super) async fn begin(run: Rc<LedgerRun>, ledger: L, options: L::Options) -> Result<Self, TransactionError> {
        run.begin(ledger, options)?;
        let begun = poll_fn(|cx| run.poll_begun(cx)).await?;
        match begun.open::<L>() {
            Some(tx) => Ok(Self { open: Some(tx), run, is_of_closure: false }),
            None => Err(TransactionError::Misused("the wrap has a ledger of another type")),
        }
    }

    /// Takes the transaction out, to end it.
    pub(super) fn into_any(mut self) -> AnyTx {
        let (tx, open) = self.open.take().expect("a transaction is there until it is dropped");
        AnyTx::of::<L>(tx, open)
    }
}

/// Gives up a BEGIN whose closure is dropped meanwhile. Does nothing once the transaction is there.
struct BeginGuard(Rc<LedgerRun>);

impl Drop for BeginGuard {
    fn drop(&mut self) {
        self.0.give_up_begin();
    }
}

impl<L: Ledger> FromRequest for Tx<L> {
    type Error = TransactionError;
    type Future = LocalBoxFuture<'static, Result<Self, TransactionError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let run = LedgerRun::of::<L>(request);
        Box::pin(async move {
            let (run, ledger) = run?;
            Self::begin(run, ledger, L::Options::default()).await
        })
    }
}

impl<L: Ledger> Deref for Tx<L> {
    type Target = L::Tx;

    fn deref(&self) -> &L::Tx {
        &self.open.as_ref().expect("a transaction is there until it is dropped").0
    }
}

impl<L: Ledger> DerefMut for Tx<L> {
    fn deref_mut(&mut self) -> &mut L::Tx {
        &mut self.open.as_mut().expect("a transaction is there until it is dropped").0
    }
}

impl<L: Ledger> Drop for Tx<L> {
    /// Gives the transaction back to the middleware.
    fn drop(&mut self) {
        if let Some((tx, open)) = self.open.take() {
            let tx = AnyTx::of::<L>(tx, open);
            if self.is_of_closure { self.run.roll_back_dropped(tx) } else { self.run.take_back(tx) }
        }
    }
}

impl<L: Ledger> fmt::Debug for Tx<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tx")
    }
}
