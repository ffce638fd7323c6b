//! The client and the server processes of the core crate's tests.

#[path = "../../../../tests/it/common/client.rs"]
mod client;
#[path = "../../../../tests/it/common/server.rs"]
mod server;
#[path = "../../../../tests/it/common/together.rs"]
mod together;

pub(crate) use self::{
    client::{Connection, Reply, Request},
    server::Server,
    together::{PATIENCE, at_once, eventually, fresh_key},
};
