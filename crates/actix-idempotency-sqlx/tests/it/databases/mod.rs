//! Databases that tests start and disturb.

mod cluster;
mod proxy;

pub(crate) use self::{
    cluster::{Bouncer, Cluster, connect},
    proxy::{Commits, Proxy},
};
