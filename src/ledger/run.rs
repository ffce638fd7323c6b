//! One request's work with a ledger: its transaction, and what becomes of it.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody as _},
};

use tokio::runtime::Handle;

use super::{
    AnyKept, AnyLedger, AnyTx, Ledger, LedgerEntry, LedgerError, NewRow, Recorded, Row, TransactionError, Verdict, Why,
    any::{Task, begin_as, gone},
    finish::commit_with_row,
};
use crate::{key::Principal, record::Record};

/// One request's work with a ledger. In the request's extensions, where [`Tx`](super::Tx) and
/// [`Transactions`](super::Transactions) find it.
pub(crate) struct LedgerRun {
    ledger: AnyLedger,
    /// The same ledger, for the operation of this request, whose rows are sealed.
    #[cfg(feature = "encryption")]
    of_operation: std::cell::OnceCell<AnyLedger>,
    /// How long a transaction may be idle.
    max_run: Duration,
    purpose: RefCell<Purpose>,
    state: RefCell<State>,
    /// The connection that the look before this run has kept for its transaction.
    kept: RefCell<Option<AnyKept>>,
    /// Whether the handler asked for the row, to insert it itself.
    entry_is_out: Cell<bool>,
    /// Whether the request had a principal when the handler asked for a transaction.
    has_principal: Cell<bool>,
    /// Whether the handler has returned. What comes back then is rolled back.
    has_returned: Cell<bool>,
}

/// The purpose of a request's transaction.
enum Purpose {
    /// Nothing was decided yet, or no key protects the request: there is no transaction.
    Nothing,
    /// An ordinary transaction that is committed with a success, without a row.
    Ordinary,
    /// The rows of a transaction and the answer are committed together.
    Recorded(Rc<Recorded>),
}

/// The state of a request's transaction.
pub(crate) enum State {
    /// No transaction was begun.
    Idle,
    /// The transaction is being begun. The extractor that asked for it may have been dropped.
    Beginning(Task<Result<AnyTx, LedgerError>>),
    /// The handler has it.
    Lent,
    /// The handler has dropped it.
    Returned(AnyTx),
    /// The transaction is being rolled back, or committed without a row.
    Ending(Task<()>),
    /// The transaction is being committed by [`Transactions`](super::Transactions), with this response.
    Committing(Task<Verdict>, Box<Answered>),
    /// The transaction was committed by [`Transactions`](super::Transactions), with this response.
    Committed(Box<Answered>),
    /// Another run was committed first.
    Superseded(Box<Row>),
    /// Whether it was committed is not known.
    Unsettled,
}

/// The answer of a closure, and its record.
pub(crate) struct Answered {
    pub(crate) response: HttpResponse,
    pub(crate) record: Record,
    /// How long its row is kept.
    pub(crate) keep: Duration,
}

impl LedgerRun {
    pub(crate) fn new(ledger: &AnyLedger, max_run: Duration) -> Rc<Self> {
        Rc::new(Self {
            ledger: ledger.clone(),
            #[cfg(feature = "encryption")]
            of_operation: std::cell::OnceCell::new(),
            max_run,
            purpose: RefCell::new(Purpose::Nothing),
            state: RefCell::new(State::Idle),
            kept: RefCell::default(),
            entry_is_out: Cell::new(false),
            has_principal: Cell::new(false),
            has_returned: Cell::new(false),
        })
    }

    pub(crate) fn ledger(&self) -> &AnyLedger {
        #[cfg(feature = "encryption")]
        if let Some(ledger) = self.of_operation.get() {
            return ledger;
        }
        &self.ledger
    }

    pub(crate) const fn max_run(&self) -> Duration {
        self.max_run
    }

    /// Whether a transaction is open, or is being begun or ended.
    pub(crate) fn is_open(&self) -> bool {
        match &*self.state.borrow() {
            State::Idle | State::Committed(_) | State::Superseded(_) => false,
            State::Beginning(_)
            | State::Lent
            | State::Returned(_)
            | State::Ending(_)
            | State::Committing(..)
            | State::Unsettled => true,
        }
    }

    /// From now on the request has ordinary transactions.
    pub(crate) fn is_ordinary(&self) {
        self.purpose.replace(Purpose::Ordinary);
    }

    /// From now on the request's answer is recorded.
    pub(crate) fn records(&self, recorded: Recorded) {
        #[cfg(feature = "encryption")]
        let _ = self.of_operation.set(recorded.ledger.clone());
        self.purpose.replace(Purpose::Recorded(Rc::new(recorded)));
    }

    /// Keeps the connection of the look for a transaction that the handler wants at once.
    pub(crate) fn keeps(&self, kept: Option<AnyKept>) {
        self.kept.replace(kept);
    }

    /// Gives the connection of the look back: it must not wait for a handler that may never want it.
    pub(crate) fn keeps_no_more(&self) {
        drop(self.kept.take());
    }

    /// The operation, if its answer is recorded.
    pub(crate) fn recorded(&self) -> Option<Rc<Recorded>> {
        match &*self.purpose.borrow() {
            Purpose::Recorded(recorded) => Some(recorded.clone()),
            Purpose::Nothing | Purpose::Ordinary => None,
        }
    }

    /// Whether the handler asked for the row, to insert it itself.
    pub(crate) const fn entry_is_out(&self) -> bool {
        self.entry_is_out.get()
    }

    /// The row with this response, for a handler that inserts it itself.
    pub(crate) fn give_entry(&self, response: &mut HttpResponse) -> Result<LedgerEntry, TransactionError> {
        if matches!(*self.purpose.borrow(), Purpose::Ordinary) {
            return Ok(LedgerEntry::unrecorded(response.status()));
        }
        let recorded = self.recorded().ok_or(TransactionError::Misused("no key protects this request"))?;
        let most = recorded.most;
        let (head, body) = mem::replace(response, HttpResponse::Ok().finish()).into_parts();
        let bytes = body.try_into_bytes();
        let kept = bytes.as_ref().ok().filter(|bytes| bytes.len() <= most).cloned();
        let record = recorded.lent.record(head.head(), kept.as_deref());
        let keep = recorded.lent.keep(&head.extensions());
        *response = match bytes {
            Ok(bytes) => head.set_body(BoxBody::new(bytes)),
            Err(stream) => {
                *response = head.set_body(stream);
                return Err(TransactionError::Misused("the body of an answer with an entry is a stream"));
            }
        };
        self.entry_is_out.set(true);
        let row = recorded.row(record, keep, self.max_run);
        #[cfg(feature = "encryption")]
        let row = match self.ledger().1.seal(&row) {
            Ok(sealed) => sealed.into_owned(),
            Err(error) => return Err(TransactionError::Unavailable(error.into())),
        };
        Ok(LedgerEntry::new(row))
    }

    /// Whether the request had a principal when the handler asked for a transaction.
    pub(super) const fn has_principal(&self) -> bool {
        self.has_principal.get()
    }

    /// The run of this request, if its wrap has a ledger of this type.
    pub(super) fn of<L: Ledger>(request: &HttpRequest) -> Result<(Rc<Self>, L), TransactionError> {
        let run = request.extensions().get::<Rc<Self>>().cloned();
        let Some(run) = run.filter(|run| !matches!(*run.purpose.borrow(), Purpose::Nothing)) else {
            tracing::error!(
                path = request.path(),
                "a handler asks for a transaction, and no key protects its request, or its wrap has no ledger"
            );
            return Err(TransactionError::Misused("no key protects this request, or its wrap has no ledger"));
        };
        run.has_principal.set(request.extensions().contains::<Principal>());
        let Some(ledger) = run.ledger.of_type::<L>().cloned() else {
            return Err(TransactionError::Misused("the wrap has a ledger of another type"));
        };
        Ok((run, ledger))
    }

    /// Begins a transaction in a task. [`poll_begun`](Self::poll_begun) waits for it.
    pub(super) fn begin<L: Ledger>(&self, ledger: L, options: L::Options) -> Result<(), TransactionError> {
        if self.has_returned.get() {
            return Err(TransactionError::Misused("the handler has returned"));
        }
        let mut state = self.state.borrow_mut();
        match &*state {
            State::Idle | State::Ending(_) => {
                // A closure that was dropped half way may still be rolled back.
                let before = match mem::replace(&mut *state, State::Idle) {
                    State::Ending(task) => Some(task),
                    _ => None,
                };
                let max_run = self.max_run;
                let kept = self.kept.take().and_then(AnyKept::open::<L>);
                *state = State::Beginning(Task::in_place(async move {
                    if let Some(before) = before {
                        before.await;
                    }
                    begin_as(ledger, kept, options, max_run).await
                }));
                Ok(())
            }
            State::Committed(_) | State::Committing(..) => {
                Err(TransactionError::Misused("its answer is committed already"))
            }
            State::Superseded(_) => Err(TransactionError::Superseded),
            State::Unsettled => Err(TransactionError::Unavailable("an earlier COMMIT is not settled".into())),
            State::Beginning(_) | State::Lent | State::Returned(_) => {
                Err(TransactionError::Misused("a request has one transaction"))
            }
        }
    }

    pub(super) fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<Result<AnyTx, TransactionError>> {
        let mut state = self.state.borrow_mut();
        let State::Beginning(task) = &mut *state else {
            return Poll::Ready(Err(TransactionError::Misused("the handler has returned")));
        };
        let begun = ready!(Pin::new(task).poll(cx)).unwrap_or_else(|| Err(gone()));
        *state = if begun.is_ok() { State::Lent } else { State::Idle };
        Poll::Ready(begun.map_err(Into::into))
    }

    /// The handler has dropped its transaction.
    pub(super) fn take_back(&self, tx: AnyTx) {
        let mut state = self.state.borrow_mut();
        match &*state {
            State::Lent if !self.has_returned.get() => *state = State::Returned(tx),
            _ => self.ledger.rollback_detached(tx),
        }
    }

    /// A closure was dropped half way, and so was its transaction.
    pub(super) fn roll_back_dropped(&self, tx: AnyTx) {
        if matches!(*self.state.borrow(), State::Lent) && Handle::try_current().is_ok() {
            *self.state.borrow_mut() = State::Ending(self.ledger.rollback_in_task(tx));
        } else {
            self.ledger.rollback_detached(tx);
        }
    }

    /// A closure was dropped while its transaction was being begun.
    pub(super) fn give_up_begin(&self) {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, State::Idle) {
            State::Beginning(task) if Handle::try_current().is_ok() => {
                let ledger = self.ledger.clone();
                *state = State::Ending(Task::spawn(async move {
                    if let Some(Ok(tx)) = task.await {
                        ledger.rollback(tx).await;
                    }
                }));
            }
            other => *state = other,
        }
    }

    /// Ends a transaction without a row, in a task that nothing cancels. The handler may begin another one then.
    pub(crate) async fn end(&self, ending: impl Future<Output = ()> + Send + 'static) {
        *self.state.borrow_mut() = State::Ending(Task::in_place(ending));
        poll_fn(|cx| self.poll_settled(cx)).await;
    }

    /// Rolls back the transaction that the handler has dropped.
    pub(crate) async fn roll_back(&self) {
        if let Some(tx) = self.take_tx() {
            self.end(self.ledger.rollback(tx)).await;
        }
    }

    /// The transaction that the handler has dropped.
    pub(crate) fn take_tx(&self) -> Option<AnyTx> {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, State::Idle) {
            State::Returned(tx) => Some(tx),
            other => {
                *state = other;
                None
            }
        }
    }

    /// The handler has returned. Waits for what is under way, without taking it away, so that an operation that is dropped
    /// meanwhile still finds it.
    pub(crate) async fn handler_returns(&self) {
        self.has_returned.set(true);
        poll_fn(|cx| self.poll_settled(cx)).await;
    }

    /// Ready when nothing is under way.
    fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut state = self.state.borrow_mut();
            match &mut *state {
                State::Beginning(task) => {
                    // The extractor was dropped, because another one failed.
                    let begun = ready!(Pin::new(task).poll(cx));
                    *state = match begun {
                        Some(Ok(tx)) => State::Ending(self.ledger.rollback_in_task(tx)),
                        Some(Err(_)) | None => State::Idle,
                    };
                }
                State::Ending(task) => {
                    ready!(Pin::new(task).poll(cx));
                    *state = State::Idle;
                }
                State::Committing(..) => {
                    drop(state);
                    ready!(self.poll_committed(cx));
                }
                _ => return Poll::Ready(()),
            }
        }
    }

    /// The transaction that the handler has left, if any. A transaction stays here until it is [taken](Self::take_tx).
    pub(crate) fn left(&self) -> Left {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, State::Idle) {
            State::Committed(answered) => Left::Committed(answered),
            State::Superseded(row) => Left::Superseded(row),
            State::Unsettled => Left::Unsettled,
            State::Lent => Left::Kept,
            other => {
                *state = other;
                if matches!(*state, State::Returned(_)) { Left::Tx } else { Left::Nothing }
            }
        }
    }

    /// Commits with this response, in a task. [`poll_committed`](Self::poll_committed) waits for it.
    pub(super) fn commit(&self, tx: AnyTx, row: NewRow, response: HttpResponse) {
        let (ledger, record, keep) = (self.ledger().clone(), row.record.clone(), row.keep);
        let task = Task::in_place(async move { commit_with_row(&ledger, tx, &row).await });
        *self.state.borrow_mut() = State::Committing(task, Box::new(Answered { response, record, keep }));
    }

    /// Waits for the verdict. `None`: the handler has returned.
    pub(super) fn poll_committed(&self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        let mut state = self.state.borrow_mut();
        let State::Committing(task, _) = &mut *state else { return Poll::Ready(None) };
        let verdict = ready!(Pin::new(task).poll(cx)).unwrap_or(Verdict::Unsettled);
        let State::Committing(_, answered) = mem::replace(&mut *state, State::Idle) else { return Poll::Ready(None) };
        let (now, ended) = match verdict {
            Verdict::Committed => (State::Committed(answered), Ended::Committed),
            Verdict::Superseded(row) => (State::Superseded(row), Ended::Superseded),
            Verdict::RolledBack(why) => (State::Idle, Ended::RolledBack(why)),
            Verdict::Unsettled => (State::Unsettled, Ended::Unsettled),
        };
        *state = now;
        Poll::Ready(Some(ended))
    }

    /// Another run was committed first.
    pub(super) fn is_superseded_by(&self, row: Row) {
        *self.state.borrow_mut() = State::Superseded(Box::new(row));
    }

    /// The committed response, for the handler to look at.
    pub(super) fn committed_response(&self) -> HttpResponse {
        match &*self.state.borrow() {
            State::Committed(answered) => {
                let response = &answered.response;
                let mut copy = HttpResponse::new(response.status());
                for (name, value) in response.headers() {
                    copy.headers_mut().append(name.clone(), value.clone());
                }
                copy
            }
            _ => HttpResponse::Ok().finish(),
        }
    }

    /// Ends this work, and takes what is open. Called once, when the operation is dropped.
    pub(crate) fn close(&self) -> State {
        self.has_returned.set(true);
        self.keeps_no_more();
        self.purpose.replace(Purpose::Nothing);
        self.state.replace(State::Idle)
    }
}

/// The transaction that a handler has left when it returned.
pub(crate) enum Left {
    /// No transaction: it opened none, or ended it.
    Nothing,
    /// A transaction that can be committed.
    Tx,
    /// A transaction that something still holds.
    Kept,
    /// A transaction that is committed, with this response.
    Committed(Box<Answered>),
    /// Another run was committed first.
    Superseded(Box<Row>),
    /// A COMMIT whose answer was lost.
    Unsettled,
}

/// The verdict on a closure's transaction.
pub(super) enum Ended {
    Committed,
    Superseded,
    RolledBack(Why),
    Unsettled,
}

impl fmt::Debug for LedgerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerRun")
    }
}
