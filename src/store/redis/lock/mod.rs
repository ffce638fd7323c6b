//! A lock that processes share through Redis.

use std::{sync::LazyLock, time::Duration};

use bb8_redis::redis::Script;

use super::connections::Connections;
use crate::store::{Location, LocationError, Lock, OwnerToken, StoreError};

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("acquire.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
static FENCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("fence.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// A lock per name in Redis (`lock.class = redis`), for custom storages that several processes share.
///
/// One string per held lock, with the owner's token and a TTL. A lock whose TTL is over is free at once; its last owner
/// does not hold it any more.
#[derive(Clone, Debug)]
pub struct RedisLock {
    connections: Connections,
}

impl RedisLock {
    /// `location` (setting `lock.location`): host, host:port or URL. Connects when first used; each call is given
    /// `timeout`.
    ///
    /// # Errors
    /// [`LocationError`] when the location is no address of a Redis.
    pub fn new(location: impl Into<Location>, timeout: Duration) -> Result<Self, LocationError> {
        Ok(Self { connections: Connections::new(&location.into(), timeout)? })
    }

    fn run(
        &self,
        script: &'static Script,
        name: &str,
        token: OwnerToken,
        ttl: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send + use<> {
        let mut script = script.key(name);
        script.arg(token.as_bytes()).arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50));
        self.connections.run(script)
    }
}

impl Lock for RedisLock {
    async fn acquire(&self, name: &str, token: OwnerToken, ttl: Duration) -> Result<bool, StoreError> {
        self.run(&ACQUIRE, name, token, ttl).await
    }

    async fn renew(&self, name: &str, token: OwnerToken, ttl: Duration) -> Result<bool, StoreError> {
        self.run(&RENEW, name, token, ttl).await
    }

    async fn release(&self, name: &str, token: OwnerToken) -> Result<(), StoreError> {
        self.run(&RELEASE, name, token, Duration::ZERO).await.map(drop)
    }

    async fn fence(&self) -> Result<Option<u64>, StoreError> {
        self.connections.run(FENCE.key("idempotency:lock-fence")).await.map(Some)
    }
}
