//! The SQLite store, and several processes that share its file. Each test has a file of its own.

mod bounds;
mod clock;
mod crashes;
mod damage;
mod disk;
pub(crate) mod fixture;
#[cfg(feature = "testing")]
mod model;
mod outages;
mod processes;
mod rules;
mod sessions;
mod start;
