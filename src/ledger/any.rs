//! A ledger of whatever type, and the tasks in which its methods run.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{runtime::Handle, task::JoinHandle};

#[cfg(feature = "encryption")]
use super::sealed::RowSeals;
use super::{Ledger, LedgerError, Look, NewRow, Row, Write};
use crate::{key::RecordId, observe::metrics::OpenTransaction, store::background::Background};

/// A ledger of whatever type.
///
/// A database call that is cancelled half way leaves a connection in a state that its pool does not expect (sqlx#4385). So
/// each call is a [`Task`], which goes on when the request that waits for it is dropped.
#[derive(Clone)]
pub(crate) struct AnyLedger(Arc<Shared>, #[cfg(feature = "encryption")] pub(super) RowSeals);

struct Shared {
    ledger: Box<dyn Erased>,
    name: String,
    /// The greatest `limits.max_run` of its wraps, in milliseconds.
    max_run: AtomicU64,
    /// The thread for calls that must go on while workers are busy.
    background: Background,
}

/// The connection that a look has kept for the transaction of the same request, of whatever type.
pub(crate) struct AnyKept(Option<Box<dyn Any + Send>>);

/// An open transaction of whatever type.
pub(crate) struct AnyTx {
    tx: Box<dyn Any + Send>,
    open: OpenTransaction,
}

impl AnyLedger {
    pub(crate) fn new(ledger: &impl Ledger) -> Self {
        let name = Ledger::name(ledger);
        Self::of(Arc::new(Shared {
            ledger: Box::new(ledger.clone()),
            name,
            max_run: AtomicU64::new(0),
            background: Background::default(),
        }))
    }

    fn of(shared: Arc<Shared>) -> Self {
        Self(
            shared,
            #[cfg(feature = "encryption")]
            RowSeals::default(),
        )
    }

    /// The ledger itself, if it is of this type.
    pub(super) fn of_type<L: Ledger>(&self) -> Option<&L> {
        self.0.ledger.as_any().downcast_ref()
    }

    /// Whether the two are one ledger: values of one type and name.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let kind = |ledger: &Self| ledger.0.ledger.as_any().type_id();
        kind(self) == kind(other) && self.0.name == other.0.name
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// A wrap uses the ledger whose runs may be so old.
    pub(crate) fn is_used_for(&self, max_run: Duration) {
        let millis = u64::try_from(max_run.as_millis()).unwrap_or(u64::MAX);
        self.0.max_run.fetch_max(millis, Relaxed);
    }

    /// Checks the table once, and deletes expired rows every minute, as long as the ledger is used.
    pub(crate) fn look_after(&self) {
        const EVERY: Duration = Duration::from_secs(60);
        let shared = Arc::downgrade(&self.0);
        self.0.background.spawn(async move {
            let ledger = || shared.upgrade().map(Self::of);
            if let Some(ledger) = ledger()
                && let Err(error) = ledger.0.ledger.check().await
            {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    ledger = ledger.name(),
                    "the ledger can't be used"
                );
            }
            loop {
                tokio::time::sleep(EVERY).await;
                let Some(ledger) = ledger() else { return };
                ledger.sweep_all().await;
            }
        });
    }

    async fn sweep_all(&self) {
        let max_run = Duration::from_millis(self.0.max_run.load(Relaxed));
        loop {
            match self.0.ledger.sweep(max_run).await {
                Ok(0) => return,
                Ok(rows) => tracing::debug!(rows, ledger = self.name(), "expired rows were deleted"),
                Err(error) => {
                    tracing::warn!(%error, ledger = self.name(), "expired rows can't be deleted");
                    return;
                }
            }
        }
    }

    pub(crate) async fn look(&self, id: RecordId, within: Duration) -> Result<Look, LedgerError> {
        #[cfg(feature = "encryption")]
        Box::pin(self.check_keys(within)).await?;
        self.opened(self.within(within, Task::in_place(self.0.ledger.look(id))).await)
    }

    /// Opens the row that the ledger has.
    #[cfg(feature = "encryption")]
    fn opened(&self, looked: Result<Look, LedgerError>) -> Result<Look, LedgerError> {
        self.1.look(looked?)
    }

    #[cfg(not(feature = "encryption"))]
    #[inline]
    #[expect(clippy::unused_self, reason = "the feature uses it")]
    fn opened(&self, looked: Result<Look, LedgerError>) -> Result<Look, LedgerError> {
        looked
    }

    pub(crate) async fn look_and_keep(
        &self,
        id: RecordId,
        within: Duration,
    ) -> Result<(Look, Option<AnyKept>), LedgerError> {
        #[cfg(feature = "encryption")]
        self.check_keys(within).await?;
        let (look, kept) = self.within(within, Task::in_place(self.0.ledger.look_and_keep(id))).await?;
        Ok((self.opened(Ok(look))?, kept))
    }

    pub(crate) fn begin(&self, max_run: Duration) -> Task<Result<AnyTx, LedgerError>> {
        Task::in_place(self.0.ledger.begin(max_run))
    }

    pub(super) fn write<'a>(&'a self, tx: &'a mut AnyTx, row: &'a NewRow) -> BoxFuture<'a, Result<Write, LedgerError>> {
        #[cfg(feature = "encryption")]
        if self.1.seals().is_some() {
            return Box::pin(async move {
                let row = self.1.seal(row)?;
                self.1.written(self.0.ledger.write(tx, &row).await?)
            });
        }
        self.0.ledger.write(tx, row)
    }

    pub(super) fn probe<'a>(&'a self, tx: &'a mut AnyTx) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.0.ledger.probe(tx)
    }

    pub(super) fn commit(&self, tx: AnyTx) -> BoxFuture<'static, Result<(), LedgerError>> {
        self.0.ledger.commit(tx)
    }

    pub(crate) fn rollback(&self, tx: AnyTx) -> BoxFuture<'static, ()> {
        self.0.ledger.rollback(tx)
    }

    pub(crate) async fn settle(&self, id: RecordId, patience: Duration) -> Result<Look, LedgerError> {
        let call = self.on_background(self.0.ledger.settle(id, patience));
        #[cfg(feature = "encryption")]
        self.check_keys(patience).await?;
        self.opened(self.within(patience.saturating_add(patience), call).await)
    }

    pub(crate) async fn forget(&self, id: RecordId) -> Result<bool, LedgerError> {
        self.on_background(self.0.ledger.forget(id)).await.unwrap_or_else(|| Err(gone()))
    }

    pub(crate) async fn list(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        #[cfg(feature = "encryption")]
        if self.1.seals().is_some() {
            let rows = self.rows_of_requests(after, limit).await?;
            return rows.into_iter().map(|row| self.1.open(row)).collect();
        }
        self.list_all(after, limit).await
    }

    pub(super) async fn list_all(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        self.on_background(self.0.ledger.list(after, limit)).await.unwrap_or_else(|| Err(gone()))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Option<Result<T, LedgerError>>>,
    ) -> Result<T, LedgerError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.unwrap_or_else(|| Err(gone())),
            Err(late) => Err(LedgerError::Unavailable(late.into())),
        }
    }

    /// Runs a call on the background thread. `None`: the thread is gone, or the call panicked.
    fn on_background<T: Send + 'static>(
        &self,
        call: BoxFuture<'static, T>,
    ) -> impl Future<Output = Option<T>> + use<T> {
        let (send, answer) = tokio::sync::oneshot::channel();
        self.0.background.spawn(async move {
            let _ = send.send(call.await);
        });
        async move { answer.await.ok() }
    }
}

impl AnyKept {
    /// The connection, if a ledger of this type has kept it.
    pub(super) fn open<L: Ledger>(mut self) -> Option<L::Kept> {
        self.0.take()?.downcast().ok().map(|kept| *kept)
    }
}

impl Drop for AnyKept {
    fn drop(&mut self) {
        if let Some(kept) = self.0.take() {
            give_back(kept);
        }
    }
}

/// Drops what may need a runtime, and panics without one. Its connection is then left to the database.
pub(super) fn give_back<T>(value: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::error!("a connection could not be given back to its pool");
    }
}

impl AnyTx {
    /// The transaction of a ledger of this type.
    pub(super) fn open<L: Ledger>(self) -> Option<(Box<L::Tx>, OpenTransaction)> {
        Some((self.tx.downcast().ok()?, self.open))
    }

    pub(super) fn of<L: Ledger>(tx: Box<L::Tx>, open: OpenTransaction) -> Self {
        Self { tx, open }
    }
}

/// A call that goes on when nobody waits for it. Resolves to `None` if it panicked or its runtime is gone.
pub(crate) struct Task<T: Send + 'static>(Call<T>);

enum Call<T> {
    /// A task of its own from the beginning.
    Spawned(JoinHandle<T>),
    /// Polled by whoever waits, which saves waking a thread. Becomes a task when it is dropped. `None`: it has ended.
    InPlace(Option<BoxFuture<'static, Option<T>>>),
}

impl<T: Send + 'static> Task<T> {
    /// For a call that must go on while nobody polls it.
    pub(crate) fn spawn(call: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Call::Spawned(tokio::spawn(call)))
    }

    /// For a call whose caller waits, or drops it.
    pub(crate) fn in_place(call: impl Future<Output = T> + Send + 'static) -> Self {
        let caught = AssertUnwindSafe(call).catch_unwind().map(Result::ok);
        Self(Call::InPlace(Some(Box::pin(caught))))
    }
}

impl<T: Send + 'static> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut self.0 {
            Call::Spawned(task) => Pin::new(task).poll(cx).map(Result::ok),
            Call::InPlace(call) => {
                let Some(polled) = call.as_mut() else { return Poll::Ready(None) };
                let ended = ready!(polled.as_mut().poll(cx));
                *call = None;
                Poll::Ready(ended)
            }
        }
    }
}

impl<T: Send + 'static> Drop for Task<T> {
    /// Without a runtime the call ends here, as a task would.
    fn drop(&mut self) {
        let Call::InPlace(call) = &mut self.0 else { return };
        let Some(rest) = call.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(rest)),
            Err(_) => give_back(rest),
        }
    }
}

/// Begins a transaction with these options.
pub(super) async fn begin_as<L: Ledger>(
    ledger: L,
    kept: Option<L::Kept>,
    options: L::Options,
    max_run: Duration,
) -> Result<AnyTx, LedgerError> {
    Ok(AnyTx { tx: Box::new(ledger.begin(kept, &options, max_run).await?), open: OpenTransaction::begins() })
}

/// The error of a call whose task is gone.
pub(crate) fn gone() -> LedgerError {
    LedgerError::Unavailable("a call to the database panicked, or its runtime has ended".into())
}

/// The methods of a [`Ledger`], of one type for all.
trait Erased: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn look(&self, id: RecordId) -> BoxFuture<'static, Result<Look, LedgerError>>;
    fn look_and_keep(&self, id: RecordId) -> BoxFuture<'static, Result<(Look, Option<AnyKept>), LedgerError>>;
    fn begin(&self, max_run: Duration) -> BoxFuture<'static, Result<AnyTx, LedgerError>>;
    fn write<'a>(&'a self, tx: &'a mut AnyTx, row: &'a NewRow) -> BoxFuture<'a, Result<Write, LedgerError>>;
    fn probe<'a>(&'a self, tx: &'a mut AnyTx) -> BoxFuture<'a, Result<(), LedgerError>>;
    fn commit(&self, tx: AnyTx) -> BoxFuture<'static, Result<(), LedgerError>>;
    fn rollback(&self, tx: AnyTx) -> BoxFuture<'static, ()>;
    fn settle(&self, id: RecordId, patience: Duration) -> BoxFuture<'static, Result<Look, LedgerError>>;
    fn forget(&self, id: RecordId) -> BoxFuture<'static, Result<bool, LedgerError>>;
    fn list(&self, after: Option<RecordId>, limit: usize) -> BoxFuture<'static, Result<Vec<Row>, LedgerError>>;
    fn sweep(&self, max_run: Duration) -> BoxFuture<'static, Result<u64, LedgerError>>;
    fn check(&self) -> BoxFuture<'static, Result<(), LedgerError>>;
}

impl<L: Ledger> Erased for L {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn look(&self, id: RecordId) -> BoxFuture<'static, Result<Look, LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { Ledger::look(&ledger, &id).await })
    }

    fn look_and_keep(&self, id: RecordId) -> BoxFuture<'static, Result<(Look, Option<AnyKept>), LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move {
            let (look, kept) = Ledger::look_and_keep(&ledger, &id).await?;
            Ok((look, kept.map(|kept| AnyKept(Some(Box::new(kept))))))
        })
    }

    fn begin(&self, max_run: Duration) -> BoxFuture<'static, Result<AnyTx, LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { begin_as(ledger, None, L::Options::default(), max_run).await })
    }

    fn write<'a>(&'a self, tx: &'a mut AnyTx, row: &'a NewRow) -> BoxFuture<'a, Result<Write, LedgerError>> {
        Box::pin(async move {
            match tx.tx.downcast_mut::<L::Tx>() {
                Some(tx) => Ledger::write(self, tx, row).await,
                None => Ok(Write::Misused),
            }
        })
    }

    fn probe<'a>(&'a self, tx: &'a mut AnyTx) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async move {
            match tx.tx.downcast_mut::<L::Tx>() {
                Some(tx) => Ledger::probe(self, tx).await,
                None => Err(LedgerError::Refused("a transaction of another ledger".into())),
            }
        })
    }

    fn commit(&self, tx: AnyTx) -> BoxFuture<'static, Result<(), LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move {
            match tx.open::<L>() {
                // The count of open transactions falls once it is answered.
                Some((tx, _open)) => Ledger::commit(&ledger, *tx).await,
                None => Err(LedgerError::Refused("a transaction of another ledger".into())),
            }
        })
    }

    fn rollback(&self, tx: AnyTx) -> BoxFuture<'static, ()> {
        let ledger = self.clone();
        Box::pin(async move {
            if let Some((tx, _open)) = tx.open::<L>() {
                Ledger::rollback(&ledger, *tx).await;
            }
        })
    }

    fn settle(&self, id: RecordId, patience: Duration) -> BoxFuture<'static, Result<Look, LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { Ledger::settle(&ledger, &id, patience).await })
    }

    fn forget(&self, id: RecordId) -> BoxFuture<'static, Result<bool, LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { Ledger::forget(&ledger, &id).await })
    }

    fn list(&self, after: Option<RecordId>, limit: usize) -> BoxFuture<'static, Result<Vec<Row>, LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { Ledger::list(&ledger, after, limit).await })
    }

    fn sweep(&self, max_run: Duration) -> BoxFuture<'static, Result<u64, LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { Ledger::sweep(&ledger, max_run).await })
    }

    fn check(&self) -> BoxFuture<'static, Result<(), LedgerError>> {
        let ledger = self.clone();
        Box::pin(async move { Ledger::check(&ledger).await })
    }
}

impl fmt::Debug for AnyLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnyLedger").field(&self.0.name).finish()
    }
}
