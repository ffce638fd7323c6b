//! Claims: which request runs, which ones wait, and what becomes of a claim when a call, a process or a store fails.

mod asking;
mod concurrency;
#[cfg(feature = "testing")]
mod faults;
#[cfg(feature = "testing")]
mod leases;
mod ledger_protocol;
mod orphans;
#[cfg(feature = "testing")]
mod protocol;
mod shutdown;
#[cfg(feature = "testing")]
mod steps_protocol;
mod unlocked;
