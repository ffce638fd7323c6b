//! Checks a Redis before the server starts.

use std::time::Duration;

use bb8_redis::redis;

use super::{RedisStore, connections::is_denied};
use crate::{
    key::RecordId,
    store::{StartupCheck, StoreError},
};

impl RedisStore {
    /// Refuses a server whose configuration would break promises, or warns of it.
    pub(super) async fn checked(&self) -> Result<(), StoreError> {
        let info = match self.info().await {
            Ok(Some(info)) => info,
            Ok(None) => {
                tracing::warn!("this Redis does not show its settings: make sure that maxmemory-policy is noeviction");
                return self.inspected(RecordId::from_bytes([0; 32])).await.map(drop);
            }
            Err(error) if self.on_unreachable == StartupCheck::Warn => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "Redis can't be reached: protected requests are answered 503 until it can"
                );
                return Ok(());
            }
            Err(error) => {
                return Err(StoreError::unavailable(format!(
                    "Redis at {} can't be reached: {}. To start without it, set storage.on_unreachable = warn",
                    self.location,
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
                )));
            }
        };
        let said = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or_default()
        };
        let policy = said("maxmemory_policy");
        if !matches!(policy, "noeviction" | "") {
            let danger = format!(
                "maxmemory-policy is `{policy}`: at maxmemory this Redis evicts claims and responses, and what was evicted \
                 runs a second time. Set it to `noeviction`, or set storage.on_evicting = warn"
            );
            if self.on_evicting == StartupCheck::Reject {
                return Err(StoreError::unavailable(danger));
            }
            tracing::warn!("{danger}");
        }
        if policy.is_empty() {
            tracing::warn!("this Redis does not show its maxmemory-policy: make sure that it is noeviction");
        }
        if said("cluster_enabled") == "1" {
            return Err(StoreError::unavailable("this Redis is a cluster: the client speaks to one primary"));
        }
        let version = said("redis_version");
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(u32::MAX));
        if !version.is_empty() && (numbers.next(), numbers.next()) < (Some(6), Some(2)) {
            return Err(StoreError::unavailable(format!("this Redis is {version}: 6.2 is the oldest that will do")));
        }
        if said("role") == "slave" {
            return Err(StoreError::unavailable("this Redis is a replica: claims need a primary"));
        }
        if said("aof_enabled") == "0" {
            tracing::warn!("this Redis has no append-only file: if it dies, claims and responses are lost");
        }
        // Everything else is made of scripts, so one is tried.
        self.inspected(RecordId::from_bytes([0; 32])).await.map(drop)
    }

    /// The answer to `INFO`. `None`: this user may not ask.
    async fn info(&self) -> Result<Option<String>, StoreError> {
        let ask = async {
            match self.connections.command::<String>(redis::cmd("INFO")).await {
                Ok(info) => Ok(Some(info)),
                Err(error) if is_denied(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let patience = Duration::from_secs(5);
        tokio::time::timeout(patience, ask).await.unwrap_or(Err(StoreError::TimedOut(patience)))
    }
}
