//! What can be seen of a Redis before a server starts.

use std::time::Duration;

use bb8_redis::redis;

use super::{RedisStore, StoreError};
use crate::{AtStart, connections::is_denied};

impl RedisStore {
    /// Refuses what would break promises, or warns of it.
    pub(super) async fn checked(&self) -> Result<(), StoreError> {
        let info = match self.info().await {
            Ok(Some(info)) => info,
            Ok(None) => {
                tracing::warn!("this Redis does not tell its settings: see to it that maxmemory-policy is noeviction");
                return Ok(());
            }
            Err(error) if self.on_unreachable == AtStart::Warn => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "Redis can't be reached: protected requests are answered 503 until it can"
                );
                return Ok(());
            }
            Err(error) => return Err(error),
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
            if self.on_evicting == AtStart::Reject {
                return Err(StoreError::unavailable(danger));
            }
            tracing::warn!("{danger}");
        }
        if said("role") == "slave" {
            return Err(StoreError::unavailable("this Redis is a replica: claims need a primary"));
        }
        if said("aof_enabled") == "0" {
            tracing::warn!("this Redis has no append-only file: if it dies, claims and responses are lost");
        }
        Ok(())
    }

    /// `None`: it may not be asked.
    async fn info(&self) -> Result<Option<String>, StoreError> {
        let ask = async {
            let mut connection = self.connections.connection().await?;
            match redis::cmd("INFO").query_async::<String>(&mut connection).await {
                Ok(info) => Ok(Some(info)),
                Err(error) if is_denied(&error) => Ok(None),
                Err(error) => Err(StoreError::unavailable(error)),
            }
        };
        let patience = Duration::from_secs(5);
        tokio::time::timeout(patience, ask).await.unwrap_or(Err(StoreError::TimedOut(patience)))
    }
}
