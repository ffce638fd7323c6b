//! Connections to a Redis: a small pool per thread, of connections that heal themselves.
//!
//! A multiplexed connection serves any number of calls at once, so a pool need not hold one per call. A connection
//! lives on the runtime that made it, so each thread has its own pool, and a blocked worker stalls no other worker's
//! calls.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::{
    bb8,
    redis::{
        Client, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind,
        aio::{ConnectionManager, ConnectionManagerConfig},
    },
};

use crate::store::{Location, LocationError, StoreError};

/// Connections per thread. Two, so that one large record does not hold up all other calls.
const PER_THREAD: u32 = 2;

/// After so many unanswered calls in a row a connection is suspect: the network may have dropped it silently.
const SUSPECT: u32 = 3;

/// The client's own limit for an answer, for writes that no request waits for: large records travel slowly.
const PATIENT: Duration = Duration::from_secs(10);

/// A Redis, by its address.
#[derive(Clone)]
pub(crate) struct Connections {
    manager: Manager,
    /// The key of the pools of these connections, in the table of each thread.
    id: u64,
    /// Ends the pools of all threads when the last clone is dropped.
    alive: Arc<()>,
}

#[derive(Clone)]
struct Manager {
    client: Client,
    timeout: Duration,
}

impl bb8::ManageConnection for Manager {
    type Connection = ConnectionManager;
    type Error = RedisError;

    async fn connect(&self) -> Result<ConnectionManager, RedisError> {
        // The manager reconnects by itself; meanwhile a call fails as soon as an attempt does. Callers limit the time
        // that an answer may take.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(PATIENT))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(1))
            .set_max_delay(Duration::from_millis(10));
        ConnectionManager::new_lazy_with_config(self.client.clone(), config)
    }

    async fn is_valid(&self, _: &mut ConnectionManager) -> Result<(), RedisError> {
        // No ping: it would double the cost of every call. A broken connection shows when it is used.
        Ok(())
    }

    fn has_broken(&self, _: &mut ConnectionManager) -> bool {
        false
    }
}

/// The connections of one thread.
#[derive(Clone)]
struct Pool {
    connections: bb8::Pool<Manager>,
    alive: Weak<()>,
    /// How many calls since the last answer ended without one.
    unanswered: Arc<AtomicU32>,
}

thread_local! {
    static POOLS: RefCell<HashMap<u64, Pool>> = RefCell::default();
}

impl Connections {
    /// `location`: host, host:port or URL.
    pub(crate) fn new(location: &Location, timeout: Duration) -> Result<Self, LocationError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Without TCP_NODELAY: calls that are under way at the same time then travel in one packet, which gives a third
        // more calls a second.
        let client = Client::open(url(location.as_str())).map_err(|error| LocationError::new(location, error))?;
        Ok(Self { manager: Manager { client, timeout }, id: NEXT.fetch_add(1, Relaxed), alive: Arc::default() })
    }

    /// Runs a script. Must be called on a thread of a runtime; the future may not leave it.
    pub(crate) fn run<T: FromRedisValue + Send>(
        &self,
        script: ScriptInvocation<'static>,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let (pool, id) = (self.pool(), self.id);
        async move {
            let call = PendingCall { pool: &pool, id };
            let mut connection = connection(&pool).await?;
            let answer = script.invoke_async(&mut connection).await;
            call.answered(answer.as_ref().err());
            answer.map_err(of_redis)
        }
    }

    /// A connection of this thread.
    pub(crate) fn connection(&self) -> impl Future<Output = Result<ConnectionManager, StoreError>> + Send + use<> {
        let pool = self.pool();
        async move { connection(&pool).await }
    }

    fn pool(&self) -> Pool {
        POOLS.with_borrow_mut(|pools| {
            if let Some(pool) = pools.get(&self.id)
                && pool.unanswered.load(Relaxed) < SUSPECT
            {
                return pool.clone();
            }
            // A pool is made, so pools whose store is gone are dropped here too.
            pools.retain(|_, pool| pool.alive.strong_count() > 0);
            let connections = bb8::Pool::builder()
                .max_size(PER_THREAD)
                .min_idle(Some(PER_THREAD))
                .test_on_check_out(false)
                .max_lifetime(None)
                .idle_timeout(None)
                .connection_timeout(self.manager.timeout)
                .build_unchecked(self.manager.clone());
            let pool = Pool { connections, alive: Arc::downgrade(&self.alive), unanswered: Arc::default() };
            pools.insert(self.id, pool.clone());
            pool
        })
    }
}

/// A call that has no answer yet. It may never get one, or be dropped by a caller that waits no longer.
struct PendingCall<'a> {
    pool: &'a Pool,
    id: u64,
}

impl PendingCall<'_> {
    fn answered(self, error: Option<&RedisError>) {
        if error.is_some_and(needs_another_connection) {
            let unanswered = &self.pool.unanswered;
            POOLS.with_borrow_mut(|pools| {
                // Only this pool: another call may have replaced it already.
                if pools.get(&self.id).is_some_and(|pool| Arc::ptr_eq(&pool.unanswered, unanswered)) {
                    pools.remove(&self.id);
                }
            });
        }
        if !error.is_some_and(RedisError::is_timeout) {
            self.pool.unanswered.store(0, Relaxed);
            std::mem::forget(self);
        }
    }
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        self.pool.unanswered.fetch_add(1, Relaxed);
    }
}

/// Whether an error stays with its connection. The manager reconnects only after a lost connection: it keeps the errors
/// of a handshake for ever, and the connections to a server that has become a replica.
fn needs_another_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => false,
        ErrorKind::Server(kind) => {
            !matches!(kind, ServerErrorKind::ResponseError | ServerErrorKind::NoScript | ServerErrorKind::NoPerm)
        }
        ErrorKind::Extension => matches!(error.code(), Some("NOAUTH" | "WRONGPASS")),
        _ => true,
    }
}

/// Clones a connection and gives it back to the pool at once, so that no call waits for the pool.
async fn connection(pool: &Pool) -> Result<ConnectionManager, StoreError> {
    let pooled = pool.connections.get().await.map_err(StoreError::unavailable)?;
    Ok(pooled.clone())
}

/// Translates an error of Redis. Redis 6.2 wraps the errors of commands within a script.
pub(crate) fn of_redis(error: RedisError) -> StoreError {
    let detail = error.detail().unwrap_or_default();
    let says = |code: &str| error.code() == Some(code) || detail.contains(&format!("-{code} "));
    if says("OOM") {
        StoreError::Full
    } else if says("WRONGTYPE") {
        StoreError::foreign("a value of another type")
    } else if error.kind() == ErrorKind::UnexpectedReturnType {
        StoreError::foreign("an answer of another shape")
    } else {
        StoreError::unavailable(error)
    }
}

/// Whether the server refuses a command to this user, or does not know the command.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error.detail().is_some_and(|detail| detail.starts_with("unknown command"))
}

/// Turns `host` and `host:port`, which Django's setting accepts, into a URL.
fn url(location: &str) -> String {
    if location.contains("://") { location.to_owned() } else { format!("redis://{location}/") }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_hosts_or_urls() {
        let timeout = Duration::from_secs(1);
        for location in ["localhost", "localhost:6379", "redis://h:1/2", "redis://user:secret@h/0", "127.0.0.1:1"] {
            assert!(Connections::new(&location.into(), timeout).is_ok(), "{location}");
        }
        for location in
            ["http://h", "redis://user:secret@h:port/0", "user:secret@h:port", "redis+unix:relative?pass=secret"]
        {
            let error = Connections::new(&location.into(), timeout).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
