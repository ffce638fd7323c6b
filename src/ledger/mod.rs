#![doc = include_str!("../docs/links.md")]
#![doc = ""]
#![doc = include_str!("../../docs/exactly-once.md")]

mod any;
mod contract;
mod entry;
mod error;
mod finish;
mod memory;
mod recorded;
mod run;
#[cfg(feature = "encryption")]
mod sealed;
mod transactions;
mod tx;

pub(crate) use self::{
    any::{AnyKept, AnyLedger, AnyTx, Task, gone},
    error::OwnAnswer,
    finish::{Settled, Verdict, Why, commit_with_row, commit_without_row, settle},
    recorded::{Lent, Recorded},
    run::{Answered, LedgerRun, Left, State},
    transactions::is_success,
};
pub use self::{
    contract::{Cause, Ledger, LedgerError, Look, NewRow, Row, Write},
    entry::{Dialect, LedgerEntry},
    error::TransactionError,
    memory::{MemoryLedger, MemoryTx},
    transactions::Transactions,
    tx::Tx,
};
