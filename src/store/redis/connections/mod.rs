//! Connections to a Redis, of one server or several: a small pool per thread. A broken connection is replaced by the call that finds it broken.
//!
//! A multiplexed connection serves any number of calls at once, so a pool need not hold one per call. A connection
//! lives on the runtime that made it, so each thread has its own pool, and a blocked worker stalls no other worker's
//! calls.

mod address;
mod sentinels;
mod tls;
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
    redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ScriptInvocation, ServerErrorKind},
};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use self::topology::{Call, Server};
use self::topology::{Link, Topology, Verdict};
use crate::store::{Location, LocationError, StoreError};

/// Connections per thread. Two, so that one large record does not hold up all other calls.
const PER_THREAD: u32 = 2;

/// Connections per thread that wait for replicas, each for one call at a time.
const WAITING: u32 = 16;

/// After so many unanswered calls in a row a connection is given up: the network may have dropped it silently.
const SUSPECT: u32 = 3;

/// A server that can't do what was asked is not asked for another connection more often than this.
const RECONSIDERED: Duration = Duration::from_secs(1);

/// Writes fields with the values that they have. `0`: one of them has another value.
const WRITE_AGAIN: &str = "
for n = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[n]) ~= ARGV[n + 1] then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1";

/// A Redis, by its address.
#[derive(Clone)]
pub(crate) struct Connections {
    manager: Manager,
    /// The key of the pools of these connections, in the table of each thread.
    id: u64,
    /// The key of the pools whose connections wait for replicas.
    waiting_id: u64,
    /// Ends the pools of all threads when the last clone is dropped.
    alive: Arc<()>,
}

#[derive(Clone)]
struct Manager {
    topology: Topology,
    timeout: Duration,
    /// Why the last attempt to connect failed. The pool does not tell.
    failure: Arc<Mutex<Option<String>>>,
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
    /// How long one node of a cluster may take for an answer.
    patience: Duration,
}

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let link = self.topology.connect(self.timeout).await;
        *self.failure.lock() = link.as_ref().err().map(ToString::to_string);
        let link = link?;
        let state = State {
            made: Instant::now(),
            is_broken: AtomicBool::new(false),
            unanswered: AtomicU32::new(0),
            patience: self.timeout / 2,
        };
        Ok(Connection { link, state: Arc::new(state) })
    }

    /// No ping: it would double the cost of every call. A broken connection shows when it is used.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        if connection.state.is_broken.load(Relaxed) || !self.topology.still_leads_to(&connection.link).await {
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
    failure: Arc<Mutex<Option<String>>>,
    alive: Weak<()>,
}

thread_local! {
    static POOLS: RefCell<HashMap<u64, Pool>> = RefCell::default();
}

impl Connections {
    /// `location`: host, host:port or URL, of one server, of nodes of a cluster, or of sentinels.
    pub(crate) fn new(location: &Location, timeout: Duration) -> Result<Self, LocationError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let manager = Manager { topology: Topology::of(location, timeout)?, timeout, failure: Arc::default() };
        let next = || NEXT.fetch_add(1, Relaxed);
        Ok(Self { manager, id: next(), waiting_id: next(), alive: Arc::default() })
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

    /// Runs a command at one of the [`servers`](Self::servers), as [`run`](Self::run).
    pub(crate) fn command_at<T: FromRedisValue + Send>(
        &self,
        server: &Server,
        command: Cmd,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        self.ask(Call::At(server.clone(), command))
    }

    /// The servers that hold records: one, or the primaries of a cluster.
    pub(crate) fn servers(&self) -> impl Future<Output = Result<Vec<Server>, StoreError>> + Send + use<> {
        let pool = self.pool(self.id, self.shared_size());
        async move { pool.connection().await.map_err(of_redis)?.link.servers().await.map_err(of_redis) }
    }

    /// Whether another server takes a primary's place when it fails.
    pub(crate) const fn fails_over(&self) -> bool {
        !self.manager.topology.is_single()
    }

    pub(crate) const fn is_cluster(&self) -> bool {
        self.manager.topology.is_cluster()
    }

    /// Waits until `replicas` replicas have what was written to this name before, `within` this time. `is_there`: fields of
    /// the name with their values, without which the server does not have it itself.
    ///
    /// WAIT blocks its connection, so these connections are not those of other calls. Since Redis 7.2 it waits for what its
    /// own connection wrote, so the fields are written again, and only where they have these values already: another server
    /// would have its own idea of "before".
    pub(crate) fn have_replicas(
        &self,
        name: &str,
        is_there: &[(&str, &[u8])],
        replicas: usize,
        within: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send + use<> {
        let pool = self.pool(self.waiting_id, WAITING);
        let mut pipeline = Pipeline::with_capacity(2);
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
        pipeline.cmd("EVAL").arg(WRITE_AGAIN).arg(1).arg(name).arg(is_there);
        pipeline.cmd("WAIT").arg(replicas).arg(millis);
        async move {
            let (is_there, have): (bool, usize) = pool.ask_alone(&Call::Pipeline(pipeline)).await.map_err(of_redis)?;
            Ok(is_there && have >= replicas)
        }
    }

    fn ask<T: FromRedisValue + Send>(&self, call: Call) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let pool = self.pool(self.id, self.shared_size());
        async move { pool.ask(&call).await.map_err(of_redis) }
    }

    /// How many connections serve all calls of a thread.
    const fn shared_size(&self) -> u32 {
        // One to a cluster is several already.
        if self.is_cluster() { 1 } else { PER_THREAD }
    }

    fn pool(&self, id: u64, size: u32) -> Pool {
        POOLS.with_borrow_mut(|pools| {
            if let Some(pool) = pools.get(&id) {
                return pool.clone();
            }
            // A pool is made, so pools whose store is gone are dropped here too.
            pools.retain(|_, pool| pool.alive.strong_count() > 0);
            let connections = bb8::Pool::builder()
                .max_size(size)
                .test_on_check_out(true)
                .retry_connection(false)
                .max_lifetime(None)
                .idle_timeout(None)
                .connection_timeout(self.manager.timeout)
                .build_unchecked(self.manager.clone());
            let failure = self.manager.failure.clone();
            let pool = Pool { connections, failure, alive: Arc::downgrade(&self.alive) };
            pools.insert(id, pool.clone());
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
                // The client of a cluster has asked other nodes already, and mends its connections itself.
                Err(error) if matches!(connection.link, Link::Cluster(_)) => return Err(error),
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

    /// Makes a call on a connection that no other call uses meanwhile.
    async fn ask_alone<T: FromRedisValue>(&self, call: &Call) -> Result<T, RedisError> {
        let mut connection = self.connections.get().await.map_err(|error| self.refused(error))?;
        let answer = connection.ask(call).await;
        if answer.as_ref().is_err_and(|error| Verdict::of(error) != Verdict::Works || error.is_timeout()) {
            connection.give_up();
        }
        answer
    }

    /// Clones a connection and gives it back to the pool at once, so that no call waits for the pool.
    async fn connection(&self) -> Result<Connection, RedisError> {
        match self.connections.get().await {
            Ok(pooled) => Ok(pooled.clone()),
            Err(error) => Err(self.refused(error)),
        }
    }

    fn refused(&self, error: bb8::RunError<RedisError>) -> RedisError {
        const WHAT: &str = "no connection in time";
        match (error, self.failure.lock().clone()) {
            (bb8::RunError::User(error), _) => error,
            (bb8::RunError::TimedOut, Some(why)) => (ErrorKind::Io, WHAT, why).into(),
            (bb8::RunError::TimedOut, None) => (ErrorKind::Io, WHAT).into(),
        }
    }
}

impl Connection {
    async fn ask<T: FromRedisValue>(&mut self, call: &Call) -> Result<T, RedisError> {
        if matches!(self.link, Link::Cluster(_)) {
            let unanswered = UnansweredByNode(&self.state, Instant::now());
            let answer = self.link.ask(call).await;
            if !answer.as_ref().err().is_some_and(RedisError::is_timeout) {
                std::mem::forget(unanswered);
            }
            return answer;
        }
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

/// A call to a cluster that has no answer yet, and when it was made.
///
/// The client of a cluster follows nodes that answer and leaves those that are gone. It may go on asking a frozen node after
/// another one has taken over the slots, so the connection is replaced: a new one asks for the slots again.
struct UnansweredByNode<'a>(&'a State, Instant);

impl Drop for UnansweredByNode<'_> {
    fn drop(&mut self) {
        if self.1.elapsed() >= self.0.patience && self.0.made.elapsed() > RECONSIDERED {
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
