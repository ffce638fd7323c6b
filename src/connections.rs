//! Connections to a Redis: few, self-healing, cloned out of a pool per thread.
//!
//! A multiplexed connection serves any number of calls at once, so a pool need not hold one per call; and it lives on
//! the runtime that made it, so each thread has a pool of its own: a worker that is blocked stalls nobody else's calls.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bb8_redis::{
    bb8,
    redis::{
        Client, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind,
        aio::{ConnectionManager, ConnectionManagerConfig},
    },
};

use crate::{ConfigError, StoreError};

/// Connections per thread. Two, so that a large record does not hold up all others.
const PER_THREAD: u32 = 2;

/// A Redis, by its address.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    manager: Manager,
    /// Tells the pools of one thread apart.
    id: u64,
}

#[derive(Clone, Debug)]
struct Manager {
    client: Client,
    timeout: Duration,
}

impl bb8::ManageConnection for Manager {
    type Connection = ConnectionManager;
    type Error = RedisError;

    async fn connect(&self) -> Result<ConnectionManager, RedisError> {
        // The manager connects by itself, again and again; a call meanwhile fails as soon as an attempt does.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(1))
            .set_max_delay(Duration::from_millis(10));
        ConnectionManager::new_lazy_with_config(self.client.clone(), config)
    }

    async fn is_valid(&self, _: &mut ConnectionManager) -> Result<(), RedisError> {
        // No ping: it would double the cost of every call. A broken connection shows when it is used, and heals.
        Ok(())
    }

    fn has_broken(&self, _: &mut ConnectionManager) -> bool {
        false
    }
}

impl Connections {
    /// `location`: host, host:port or URL.
    pub(crate) fn new(setting: &str, location: &str, timeout: Duration) -> Result<Self, ConfigError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let client = Client::open(url(location)).map_err(|error| ConfigError::InvalidValue {
            setting: setting.to_owned(),
            layer: "settings".into(),
            value: without_password(location),
            accepted: format!("a host, host:port or redis:// URL ({error})"),
        })?;
        Ok(Self { manager: Manager { client, timeout }, id: NEXT.fetch_add(1, Relaxed) })
    }

    /// Runs a script. Must be called on a thread of a runtime; the future may not leave it.
    pub(crate) fn run<T: FromRedisValue + Send>(
        &self,
        script: ScriptInvocation<'static>,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let pool = self.pool();
        async move {
            let mut connection = connection(pool).await?;
            script.invoke_async(&mut connection).await.map_err(of_redis)
        }
    }

    /// A connection of this thread.
    pub(crate) fn connection(&self) -> impl Future<Output = Result<ConnectionManager, StoreError>> + Send + use<> {
        connection(self.pool())
    }

    fn pool(&self) -> bb8::Pool<Manager> {
        thread_local! {
            static POOLS: RefCell<HashMap<u64, bb8::Pool<Manager>>> = RefCell::default();
        }
        POOLS.with_borrow_mut(|pools| {
            let make = || {
                bb8::Pool::builder()
                    .max_size(PER_THREAD)
                    .test_on_check_out(false)
                    .max_lifetime(None)
                    .idle_timeout(None)
                    .connection_timeout(self.manager.timeout)
                    .build_unchecked(self.manager.clone())
            };
            pools.entry(self.id).or_insert_with(make).clone()
        })
    }
}

/// Cloned out and given back at once: the pool is never what calls wait for.
async fn connection(pool: bb8::Pool<Manager>) -> Result<ConnectionManager, StoreError> {
    let pooled = pool.get().await.map_err(StoreError::unavailable)?;
    Ok(pooled.clone())
}

/// What an error of Redis means for a store.
pub(crate) fn of_redis(error: RedisError) -> StoreError {
    match error.code() {
        Some("OOM") => StoreError::Full,
        Some("WRONGTYPE") => StoreError::foreign("a value of another type"),
        _ if error.kind() == ErrorKind::UnexpectedReturnType => StoreError::foreign("an answer of another shape"),
        _ => StoreError::unavailable(error),
    }
}

/// Whether an answer says that the caller may not ask.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// `host` and `host:port` as URLs, as Django's setting has them.
fn url(location: &str) -> String {
    if location.contains("://") { location.to_owned() } else { format!("redis://{location}/") }
}

/// For messages.
fn without_password(location: &str) -> String {
    match (location.find("://"), location.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}…{}", &location[..scheme + 3], &location[at..]),
        _ => location.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_hosts_or_urls() {
        let timeout = Duration::from_secs(1);
        for location in ["localhost", "localhost:6379", "redis://h:1/2", "redis://user:secret@h/0", "127.0.0.1:1"] {
            assert!(Connections::new("s", location, timeout).is_ok(), "{location}");
        }
        for location in ["http://h", "redis://user:secret@h:port/0"] {
            let error = Connections::new("caches.default.location", location, timeout).unwrap_err().to_string();
            assert!(error.contains("caches.default.location") && !error.contains("secret"), "{error}");
        }
    }
}
