//! Transactions as closures, which are tried again where the database asks for that.

use std::{
    any::Any,
    fmt,
    future::{Ready, poll_fn, ready},
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{FromRequest, HttpRequest, HttpResponse, body::BoxBody, dev::Payload};

use tokio::sync::oneshot;

use super::{
    Ledger, LedgerError, TransactionError, Tx, Why,
    finish::commit_without_row,
    recorded::Recorded,
    run::{Ended, LedgerRun},
};
use crate::record::{Buffered, buffer};

/// Transactions as closures: an extractor in handlers under a wrap with [`ledger`](crate::IdempotencyKey::ledger).
///
/// [`run`](Self::run) takes a connection, begins, calls the closure, and commits its response as the last row. Nothing is
/// held before and after, so a handler can call other services there. Where the database says that another transaction
/// stood in the way (a serialization failure, a deadlock), the closure is called again in a new transaction.
///
/// ```
/// use actix_idempotency::ledger::{MemoryLedger, TransactionError, Transactions};
/// use actix_web::HttpResponse;
///
/// async fn pay(db: Transactions<MemoryLedger>) -> Result<HttpResponse, TransactionError> {
///     db.run(async |tx| {
///         tx.on_commit(|| println!("paid"));
///         Ok(HttpResponse::Created().body("paid"))
///     })
///     .await
/// }
/// ```
pub struct Transactions<L: Ledger> {
    ledger: L,
    run: Rc<LedgerRun>,
    options: L::Options,
    tries: u32,
    pause: Duration,
    retry_if: Option<RetryIf>,
}

/// Whether an error of a closure, as it is, says that another try may succeed.
type RetryIf = Box<dyn Fn(&dyn Any) -> bool>;

/// A try that did not commit.
struct Failure<E> {
    error: E,
    /// Whether another try may succeed.
    is_passing: bool,
}

impl<L: Ledger> Transactions<L> {
    /// Chooses what is special about the transactions: their isolation level, say.
    #[must_use]
    pub fn with(mut self, options: L::Options) -> Self {
        self.options = options;
        self
    }

    /// Sets how often a closure is called at most. Default: 5. Once `limits.max_run` is over, it is not called again.
    #[must_use]
    pub const fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Sets the pause before the second try. It doubles with every further one, and half of it is random. Default: 10 ms.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Says which errors of a closure mean that another try may succeed. Errors of the database's library need no word, if
    /// the closure returns them as they are.
    #[must_use]
    pub fn retry_if<E: 'static>(mut self, retry_if: impl Fn(&E) -> bool + 'static) -> Self {
        self.retry_if = Some(Box::new(move |error| error.downcast_ref().is_some_and(&retry_if)));
        self
    }

    /// Runs a closure in a transaction and commits its response, if it is a success (2xx, 3xx). Every other answer rolls
    /// back and is returned as it is; the handler may call `run` again then. After a commit that response is the answer of
    /// the request, whatever the handler does.
    ///
    /// # Errors
    /// The closure's own error, after its rows were rolled back; and [`TransactionError`].
    pub async fn run<E>(
        &self,
        mut work: impl AsyncFnMut(&mut L::Tx) -> Result<HttpResponse, E>,
    ) -> Result<HttpResponse, E>
    where
        E: From<TransactionError> + 'static,
    {
        let (recorded, begun) = (self.run.recorded(), Instant::now());
        for attempt in 1.. {
            let Failure { error, is_passing } = match self.once(recorded.as_deref(), &mut work).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if !is_passing || attempt >= self.tries || begun.elapsed() >= self.run.max_run() {
                return Err(error);
            }
            tokio::time::sleep(self.pause_after(attempt)).await;
            if let Some(recorded) = &recorded {
                self.look_again(recorded).await?;
            }
        }
        unreachable!("a try ends or is followed by another one")
    }

    async fn once<E>(
        &self,
        recorded: Option<&Recorded>,
        work: &mut impl AsyncFnMut(&mut L::Tx) -> Result<HttpResponse, E>,
    ) -> Result<HttpResponse, Failure<E>>
    where
        E: From<TransactionError> + 'static,
    {
        let begun = Tx::begin_for_closure(self.run.clone(), self.ledger.clone(), self.options.clone()).await;
        let mut tx = begun.map_err(Failure::from)?;
        let response = match work(&mut *tx).await {
            Ok(response) => response,
            Err(error) => {
                self.roll_back(tx).await;
                let is_passing = self.is_passing(&error);
                return Err(Failure { error, is_passing });
            }
        };
        if !is_success(&response) {
            self.roll_back(tx).await;
            return Ok(response);
        }
        if let Some(recorded) = recorded {
            return self.commit(tx, recorded, response).await.map_err(Failure::from);
        }
        let (ledger, tx) = (self.run.ledger().clone(), tx.into_any());
        let (send, committed) = oneshot::channel();
        let commit = async move {
            let _ = send.send(commit_without_row(&ledger, tx).await);
        };
        self.run.end(commit).await;
        let committed = committed.await.unwrap_or_else(|_| Err(LedgerError::Unknown("its task is gone".into())));
        match committed {
            Ok(()) => Ok(response),
            Err(error) => {
                // Without a row nothing tells what became of a COMMIT whose answer was lost.
                let is_passing = matches!(error, LedgerError::Conflict(_));
                Err(Failure { error: TransactionError::of_commit_without_row(error).into(), is_passing })
            }
        }
    }

    async fn commit(
        &self,
        tx: Tx<L>,
        recorded: &Recorded,
        response: HttpResponse,
    ) -> Result<HttpResponse, FailedCommit> {
        let has_principal = self.run.has_principal();
        let is_recordable = recorded.lent.is_recordable(response.head(), &response.extensions(), has_principal);
        if !is_recordable {
            self.roll_back(tx).await;
            return Err(TransactionError::NotRecorded.into());
        }
        if recorded.lent.is_endless(response.head()) {
            self.roll_back(tx).await;
            return Err(TransactionError::Misused("its answer is a stream of events").into());
        }
        let (head, body) = response.into_parts();
        let (kept, body) = match buffer(body, recorded.most, |bytes| recorded.lent.holds(bytes)).await {
            Buffered::Whole(bytes) => (Some(bytes.clone()), BoxBody::new(bytes)),
            Buffered::TooLarge(started) => (None, BoxBody::new(started)),
            Buffered::Failed(error) => {
                tracing::error!(error = &*error, "the body of an answer failed");
                self.roll_back(tx).await;
                return Err(TransactionError::Failed("the body of its answer failed".into()).into());
            }
        };
        let (record, keep) =
            (recorded.lent.record(head.head(), kept.as_deref()), recorded.lent.keep(&head.extensions()));
        let row = recorded.row(record, keep, self.run.max_run());
        self.run.commit(tx.into_any(), row, head.set_body(body));
        match poll_fn(|cx| self.run.poll_committed(cx)).await {
            Some(Ended::Committed) => Ok(self.run.committed_response()),
            Some(Ended::RolledBack(why)) => Err(why.into()),
            Some(Ended::Superseded) | None => Err(TransactionError::Superseded.into()),
            Some(Ended::Unsettled) => {
                Err(TransactionError::Unavailable("the answer of a COMMIT was lost".into()).into())
            }
        }
    }

    async fn roll_back(&self, tx: Tx<L>) {
        self.run.end(self.run.ledger().rollback(tx.into_any())).await;
    }

    /// Another run may have been committed since.
    async fn look_again(&self, recorded: &Recorded) -> Result<(), TransactionError> {
        let look = self.run.ledger().look(recorded.id, recorded.patience).await?;
        if let Some(row) = look.row {
            self.run.is_superseded_by(row);
            return Err(TransactionError::Superseded);
        }
        recorded.look.replace(look);
        Ok(())
    }

    fn is_passing(&self, error: &dyn Any) -> bool {
        self.ledger.may_retry(error) || self.retry_if.as_ref().is_some_and(|retry_if| retry_if(error))
    }

    fn pause_after(&self, attempt: u32) -> Duration {
        let whole = self.pause.saturating_mul(1 << attempt.clamp(1, 10) >> 1);
        let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
        whole / 2 + (whole / 2).mul_f64(random)
    }
}

/// Why a commit failed, and whether another try may succeed.
struct FailedCommit {
    error: TransactionError,
    is_passing: bool,
}

impl From<TransactionError> for FailedCommit {
    fn from(error: TransactionError) -> Self {
        Self { error, is_passing: false }
    }
}

impl From<Why> for FailedCommit {
    fn from(why: Why) -> Self {
        Self { is_passing: matches!(why, Why::Passing(_)), error: why.into() }
    }
}

impl<E: From<TransactionError>> From<FailedCommit> for Failure<E> {
    fn from(FailedCommit { error, is_passing }: FailedCommit) -> Self {
        Self { error: error.into(), is_passing }
    }
}

impl<E: From<TransactionError>> From<TransactionError> for Failure<E> {
    fn from(error: TransactionError) -> Self {
        FailedCommit::from(error).into()
    }
}

impl<E: From<TransactionError>> From<Why> for Failure<E> {
    fn from(why: Why) -> Self {
        FailedCommit::from(why).into()
    }
}

/// Whether an answer commits: 2xx and 3xx.
pub(crate) fn is_success<B>(response: &HttpResponse<B>) -> bool {
    response.status().is_success() || response.status().is_redirection()
}

impl<L: Ledger> FromRequest for Transactions<L> {
    type Error = TransactionError;
    type Future = Ready<Result<Self, TransactionError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(LedgerRun::of::<L>(request).map(|(run, ledger)| Self {
            ledger,
            run,
            options: L::Options::default(),
            tries: 5,
            pause: Duration::from_millis(10),
            retry_if: None,
        }))
    }
}

impl<L: Ledger> fmt::Debug for Transactions<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions").field("tries", &self.tries).finish_non_exhaustive()
    }
}
