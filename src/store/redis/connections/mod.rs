//! Connections to a Redis: a small pool per thread. A broken connection is replaced by the call that finds it broken.
//!
//! A multiplexed connection serves any number of calls at once, so a pool need not hold one per call. A connection
//! lives on the runtime that made it, so each thread has its own pool, and a blocked worker stalls no other worker's
//! calls.

mod topology;

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::{
    bb8,
    redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind},
};
use tokio::time::Instant;

pub(crate) use self::topology::Call;
use self::topology::{Link, Topology, Verdict};
use crate::store::{Location, LocationError, StoreError};

/// Connections per thread. Two, so that one large record does not hold up all other calls.
const PER_THREAD: u32 = 2;

/// After so many unanswered calls in a row a connection is given up: the network may have dropped it silently.
const SUSPECT: u32 = 3;

/// A server that can't do what was asked is not asked for another connection more often than this.
const RECONSIDERED: Duration = Duration::from_secs(1);

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
    topology: Topology,
    timeout: Duration,
}

/// A connection with what is known of it. Clones are the same connection.
#[derive(Clone)]
struct Connection {
    link: Link,
    state: Arc<State>,
}

struct State {
    made: Instant,
    is_broken: AtomicBool,
    /// How many calls since the last answer ended without one.
    unanswered: AtomicU32,
}

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let link = self.topology.connect(self.timeout).await?;
        let state = State { made: Instant::now(), is_broken: AtomicBool::new(false), unanswered: AtomicU32::new(0) };
        Ok(Connection { link, state: Arc::new(state) })
    }

    /// No ping: it would double the cost of every call. A broken connection shows when it is used.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        if connection.state.is_broken.load(Relaxed) {
            return Err((ErrorKind::Io, "the connection is broken").into());
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.state.is_broken.load(Relaxed)
    }
}

/// The connections of one thread.
#[derive(Clone)]
struct Pool {
    connections: bb8::Pool<Manager>,
    alive: Weak<()>,
}

thread_local! {
    static POOLS: RefCell<HashMap<u64, Pool>> = RefCell::default();
}

impl Connections {
    /// `location`: host, host:port or URL.
    pub(crate) fn new(location: &Location, timeout: Duration) -> Result<Self, LocationError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let manager = Manager { topology: Topology::of(location)?, timeout };
        Ok(Self { manager, id: NEXT.fetch_add(1, Relaxed), alive: Arc::default() })
    }

    /// Runs a script. Must be called on a thread of a runtime; the future may not leave it.
    pub(crate) fn run<T: FromRedisValue + Send>(
        &self,
        script: ScriptInvocation<'static>,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        self.ask(Call::Script(script))
    }

    /// Runs a command, as [`run`](Self::run).
    pub(crate) fn command<T: FromRedisValue + Send>(
        &self,
        command: Cmd,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        self.ask(Call::Command(command))
    }

    fn ask<T: FromRedisValue + Send>(&self, call: Call) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let pool = self.pool();
        async move { pool.ask(&call).await.map_err(of_redis) }
    }

    fn pool(&self) -> Pool {
        POOLS.with_borrow_mut(|pools| {
            if let Some(pool) = pools.get(&self.id) {
                return pool.clone();
            }
            // A pool is made, so pools whose store is gone are dropped here too.
            pools.retain(|_, pool| pool.alive.strong_count() > 0);
            let connections = bb8::Pool::builder()
                .max_size(PER_THREAD)
                .test_on_check_out(true)
                .retry_connection(false)
                .max_lifetime(None)
                .idle_timeout(None)
                .connection_timeout(self.manager.timeout)
                .build_unchecked(self.manager.clone());
            let pool = Pool { connections, alive: Arc::downgrade(&self.alive) };
            pools.insert(self.id, pool.clone());
            pool
        })
    }
}

impl Pool {
    /// Makes a call. The one policy of repair: a call that meets a broken connection is made again on a fresh one, because
    /// all calls may be repeated. A fresh connection that fails too is an answer: the server is down.
    async fn ask<T: FromRedisValue>(&self, call: &Call) -> Result<T, RedisError> {
        let begun = Instant::now();
        loop {
            let mut connection = self.connection().await?;
            let made = connection.state.made;
            let error = match connection.ask(call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_old = made < begun;
            match Verdict::of(&error) {
                Verdict::Broken => connection.give_up(),
                Verdict::Misplaced if made.elapsed() > RECONSIDERED => connection.give_up(),
                Verdict::Misplaced | Verdict::Works => return Err(error),
            }
            if !is_old {
                return Err(error);
            }
            tracing::debug!(%error, "a connection to Redis is broken; the call is made again on a fresh one");
        }
    }

    /// Clones a connection and gives it back to the pool at once, so that no call waits for the pool.
    async fn connection(&self) -> Result<Connection, RedisError> {
        match self.connections.get().await {
            Ok(pooled) => Ok(pooled.clone()),
            Err(bb8::RunError::User(error)) => Err(error),
            Err(bb8::RunError::TimedOut) => Err((ErrorKind::Io, "no connection in time").into()),
        }
    }
}

impl Connection {
    async fn ask<T: FromRedisValue>(&mut self, call: &Call) -> Result<T, RedisError> {
        let unanswered = Unanswered(&self.state);
        let answer = self.link.ask(call).await;
        if !answer.as_ref().err().is_some_and(RedisError::is_timeout) {
            unanswered.answered();
        }
        answer
    }

    /// The pool replaces the connection when it is next asked for one.
    fn give_up(&self) {
        self.state.is_broken.store(true, Relaxed);
    }
}

/// A call that has no answer yet. It may never get one, or be dropped by a caller that waits no longer.
struct Unanswered<'a>(&'a State);

impl Unanswered<'_> {
    fn answered(self) {
        self.0.unanswered.store(0, Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.0.unanswered.fetch_add(1, Relaxed) + 1 >= SUSPECT {
            self.0.is_broken.store(true, Relaxed);
        }
    }
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
pub(crate) fn is_denied(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    source.downcast_ref::<RedisError>().is_some_and(|error| {
        error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
            || error.detail().is_some_and(|detail| detail.starts_with("unknown command"))
    })
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
        for location in [
            "http://h",
            "redis://user:secret@h:port/0",
            "user:secret@h:port",
            "redis+unix:relative?pass=secret",
            "redis://:se?cret@h:port",
            "redis://:se/cret@h:port",
            "http://h?password=a@secret",
        ] {
            let error = Connections::new(&location.into(), timeout).unwrap_err().to_string();
            assert!(!error.contains("secret") && !error.contains("cret@"), "{error}");
        }
    }
}
