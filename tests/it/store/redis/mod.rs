//! The Redis store, and several processes that share it. Each test starts its own redis-server on a free port, and
//! kills it by its process id.

mod connections;
mod crashes;
pub(crate) mod fixture;
mod formats;
#[cfg(feature = "testing")]
mod model;
mod outages;
mod processes;
mod stalls;
mod start;
mod store;
