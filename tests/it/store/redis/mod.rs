//! The Redis store, and several processes that share it. Each test starts its own redis-server on a free port, and
//! kills it by its process id.

mod access;
mod cluster;
mod connections;
mod crashes;
pub(crate) mod fixture;
mod formats;
mod lock;
#[cfg(feature = "testing")]
mod model;
mod outages;
mod processes;
mod sentinel;
mod stalls;
mod start;
mod store;
#[cfg(feature = "redis-tls")]
mod tls;
mod topologies;
