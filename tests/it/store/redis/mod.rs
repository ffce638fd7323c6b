//! The Redis store, and several processes that share it. Each test starts its own redis-server on a free port, and
//! kills it by its process id.

mod cluster;
mod connections;
mod crashes;
pub(crate) mod fixture;
mod formats;
#[cfg(feature = "testing")]
mod model;
mod outages;
mod processes;
mod sentinel;
mod stalls;
mod start;
mod store;
mod topologies;
