//! Databases, servers, and waiting for conditions.

mod cluster;

pub(crate) use self::cluster::{Bouncer, Cluster, connect};

use std::time::Duration;

/// How long a condition may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
