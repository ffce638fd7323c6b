//! Claims: how a request gets one, waits for one, holds one, and ends it.
//!
//! [`ask`] turns a request into a claim or another answer of the store; [`wait`] is where duplicates wait meanwhile;
//! [`hold`] is the claim in the hands of a running operation. [`renewal`] keeps its lease alive, and [`write_behind`]
//! finishes the writes that the store could not take in time. Stores need not limit or repeat calls: [`call`] does.

mod ask;
mod call;
mod caught;
mod config;
mod first_runs;
mod hold;
mod in_flight;
mod local;
mod renewal;
#[cfg(feature = "encryption")]
mod sealed;
mod settle_behind;
mod steps;
mod store_handle;
mod unlocked;
mod wait;
mod waiting_room;
mod write_behind;

#[cfg(all(feature = "encryption", feature = "testing"))]
pub(crate) use self::sealed::Sealed;
pub(crate) use self::{
    ask::{ClaimAnswer, ClaimRequest, Claims},
    caught::Caught,
    config::at_most_a_century,
    first_runs::FirstRuns,
    hold::{HeldClaim, Written},
    in_flight::{HeldBytes, InFlight, InFlightGuard, Refused},
    store_handle::StoreHandle,
};
