//! Several processes on one real redis-server, which each test starts for itself on a free port and kills by its id.

mod crashes;
pub(crate) mod fixture;
mod model;
mod outages;
mod processes;
mod start;
mod store;
