//! The operation of a request, as its row needs it.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use actix_web::dev::{Extensions, ResponseHead};

use super::{Look, NewRow};
use crate::{
    key::{Fingerprint, PrincipalTag, RecordId},
    record::Record,
    store::OwnerToken,
};

/// The operation whose answer is recorded.
pub(crate) struct Recorded {
    /// The ledger, which seals the row.
    #[cfg(feature = "encryption")]
    pub(crate) ledger: super::AnyLedger,
    pub(crate) id: RecordId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) principal_tag: PrincipalTag,
    /// The token of the last row that was made. Each has its own: a row of this run that was committed without its knowledge
    /// and has expired may be replaced by others, and must not be taken for a later row.
    pub(crate) token: Cell<OwnerToken>,
    pub(crate) attempt: u32,
    pub(crate) patience: Duration,
    /// The ledger's last answer.
    pub(crate) look: RefCell<Look>,
    /// How large a kept body may be.
    pub(crate) most: usize,
    pub(crate) lent: Box<dyn Lent>,
    /// The pairs that explain a later mismatch, for the row's record.
    #[cfg(feature = "encryption")]
    pub(crate) pairs: std::cell::OnceCell<Box<[u8]>>,
    /// Whether claims are completed as well, for processes that don't know the ledger yet.
    pub(crate) is_in_transition: bool,
}

/// The middleware's knowledge of responses, lent to a ledger: which ones are recorded, and how.
pub(crate) trait Lent {
    /// The record of a response. `body` is `None` when it is not kept.
    fn record(&self, head: &ResponseHead, body: Option<&[u8]>) -> Record;

    /// How long the row of a response with these extensions is kept.
    fn keep(&self, extensions: &Extensions) -> Duration;

    /// Whether a success with these extensions may be recorded. `has_principal`: whether the request has one now.
    fn is_recordable(&self, head: &ResponseHead, extensions: &Extensions, has_principal: bool) -> bool;

    /// Whether the body is a stream of events, which may never end.
    fn is_endless(&self, head: &ResponseHead) -> bool;

    /// Accounts for bytes of a body that are held until the COMMIT. `false`: the process holds too many already.
    fn holds(&self, bytes: usize) -> bool;
}

impl Recorded {
    /// The record of the row gets the pairs that explain a later mismatch.
    #[cfg(feature = "encryption")]
    pub(crate) fn explained_by(&self, pairs: &[u8]) {
        let _ = self.pairs.set(pairs.into());
    }

    /// The row of this run with this record, which is kept for this long.
    pub(crate) fn row(&self, record: Record, keep: Duration, max_run: Duration) -> NewRow {
        #[cfg(feature = "encryption")]
        let record = match self.pairs.get() {
            Some(pairs) => record.with_pairs(pairs),
            None => record,
        };
        let look = self.look.borrow();
        self.token.set(OwnerToken::random());
        NewRow {
            attempt: self.attempt,
            principal_tag: self.principal_tag,
            keep,
            max_run,
            patience: self.patience,
            ..NewRow::new(self.id, self.fingerprint, self.token.get(), record, &look)
        }
    }
}
