//! The primary that sentinels name.
//!
//! A fail-over by hand, or of a primary that was only stalled, leaves the old primary taking writes for some ten seconds,
//! and a connection to it works. So the sentinels are asked all the time, and a connection is used only while they have
//! named its server within the last second and none of them replaces it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bb8_redis::redis::{
    self, AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{address::with_host, tls::Tls, topology::client};
use crate::store::background::Background;

/// How often the sentinels are asked.
pub(super) const EVERY: Duration = Duration::from_millis(100);

/// How long the answer counts. A process that was stalled for longer asks before it uses a connection.
const COUNTS: Duration = Duration::from_secs(1);

/// How long one sentinel may take.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long one sentinel may take that there is no connection to. With TLS that is several round trips.
const CONNECTING: Duration = Duration::from_millis(750);

/// How long the others may take once one has answered.
const AFTER_THE_FIRST: Duration = Duration::from_millis(100);

/// A primary, as sentinels name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    host: String,
    port: u16,
    /// Grows with each fail-over. The sentinels learn of one at different moments, and the greatest epoch is right.
    epoch: u64,
}

/// The sentinels of a primary. Clones are the same.
#[derive(Clone)]
pub(super) struct Sentinels(Arc<Shared>);

struct Shared {
    sentinels: Vec<Client>,
    name: String,
    /// The primary, but for its host and port.
    primary: ConnectionInfo,
    tls: Tls,
    heard: watch::Sender<Heard>,
    ask_now: Arc<Notify>,
    /// The thread that asks. Its connections live there.
    background: Background,
    is_asking: std::sync::Once,
}

/// What the sentinels said last.
#[derive(Clone, Default)]
struct Heard {
    primary: Option<Primary>,
    /// The server that the primary has replaced in this epoch. The sentinel that leads a fail-over names it for a moment with
    /// the new epoch.
    replaced: Option<(String, u16)>,
    /// Whether one of them says that it is down, or replaces it. What is written to it then is lost.
    is_failing: bool,
    /// When they were asked last, whether they answered or not.
    asked: Option<Instant>,
    /// Why none of them named a primary, if so.
    error: Option<String>,
}

impl Sentinels {
    pub(super) fn new(
        sentinels: Vec<ConnectionInfo>,
        name: String,
        primary: ConnectionInfo,
        tls: Tls,
    ) -> RedisResult<Self> {
        let sentinels = sentinels.into_iter().map(|info| client(info, &tls)).collect::<RedisResult<_>>()?;
        Ok(Self(Arc::new(Shared {
            sentinels,
            name,
            primary,
            tls,
            heard: watch::Sender::default(),
            ask_now: Arc::default(),
            background: Background::default(),
            is_asking: std::sync::Once::new(),
        })))
    }

    /// A client of this primary.
    pub(super) fn client(&self, primary: &Primary) -> RedisResult<Client> {
        client(with_host(&self.0.primary, &primary.host, primary.port), &self.0.tls)
    }

    /// The primary, as of the last second. While no sentinel can be reached it is the last one that was named.
    pub(super) async fn primary(&self) -> RedisResult<Primary> {
        self.primary_if(|asked| asked.elapsed() < COUNTS).await
    }

    /// The primary, as of now.
    pub(super) async fn primary_now(&self) -> RedisResult<Primary> {
        let now = Instant::now();
        self.primary_if(move |asked| asked >= now).await
    }

    /// The primary, by an answer of this age.
    async fn primary_if(&self, is_fresh: impl Fn(Instant) -> bool) -> RedisResult<Primary> {
        self.asks();
        let mut heard = self.0.heard.subscribe();
        let is_fresh = |heard: &Heard| heard.asked.is_some_and(&is_fresh);
        if !is_fresh(&heard.borrow()) {
            self.0.ask_now.notify_one();
            let _ = timeout(CONNECTING + PATIENCE, heard.wait_for(is_fresh)).await;
        }
        let heard = heard.borrow().clone();
        if heard.is_failing {
            return Err((ErrorKind::Io, "the sentinels replace the primary", self.0.name.clone()).into());
        }
        heard.primary.ok_or_else(|| {
            let why = heard.error.unwrap_or_else(|| "they did not answer".into());
            let detail = format!("`{}`: {why}", self.0.name);
            RedisError::from((ErrorKind::Io, "the sentinels name no primary", detail))
        })
    }

    /// Starts to ask, once.
    fn asks(&self) {
        self.0.is_asking.call_once(|| {
            let (shared, ask_now) = (Arc::downgrade(&self.0), self.0.ask_now.clone());
            self.0.background.spawn(async move {
                let mut questions = Questions::default();
                while let Some(shared) = shared.upgrade() {
                    shared.ask(&mut questions).await;
                    drop(shared);
                    tokio::select! {
                        () = sleep(EVERY) => {}
                        () = ask_now.notified() => {}
                    }
                }
            });
        });
    }
}

impl Heard {
    /// Which of several names counts: that of the greatest epoch. Within one epoch, it is the server that took over, and not
    /// the one that was replaced.
    fn rank(&self, primary: &Primary) -> (u64, bool, bool) {
        let known = self.primary.as_ref().filter(|known| known.epoch == primary.epoch);
        let was_replaced = known.is_some() && self.replaced.as_ref().is_some_and(|replaced| primary.is_at(replaced));
        (primary.epoch, !was_replaced, self.primary.as_ref().is_some_and(|known| !primary.is_at(&known.address())))
    }

    fn hears(&mut self, named: Primary) {
        if let Some(known) = &self.primary {
            // A sentinel that was cut off may know of an earlier primary only.
            if *known == named || self.rank(&named) < self.rank(known) {
                return;
            }
            tracing::warn!(host = named.host, port = named.port, "the sentinels name another primary");
            // Of an earlier fail-over nothing is known any more: this one may lead back.
            self.replaced = (!named.is_at(&known.address())).then(|| known.address());
        }
        self.primary = Some(named);
    }
}

impl Primary {
    pub(super) fn address(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    pub(super) fn is_at(&self, address: &(String, u16)) -> bool {
        (&self.host, self.port) == (&address.0, address.1)
    }
}

impl Shared {
    /// Asks all sentinels. Their answer counts when most have answered, or soon after the first one: the others may be gone.
    async fn ask(&self, questions: &mut Questions) {
        let asked = Instant::now();
        questions.ask(&self.sentinels, &self.name);
        let (mut answers, mut error) = (0, None);
        let mut until = asked + CONNECTING;
        while let Ok(Some(answer)) = timeout_at(until, questions.under_way.next()).await {
            questions.waiting.remove(&answer.sentinel);
            match answer.said {
                Ok((connection, primary, is_failing)) => {
                    questions.connections.insert(answer.sentinel, connection);
                    // One to an earlier question may be of before, and may have waited for this process to go on.
                    if answer.asked >= asked {
                        answers += 1;
                        until = until.min(Instant::now() + AFTER_THE_FIRST);
                    }
                    questions.latest.insert(answer.sentinel, (answer.asked, primary, is_failing));
                }
                Err(failed) => error = Some(failed.to_string()),
            }
            if answers > self.sentinels.len() / 2 {
                break;
            }
        }
        // Also of those that were slower now: the one that leads a fail-over knows of it first.
        questions.latest.retain(|_, (asked, ..)| asked.elapsed() < COUNTS);
        let latest = || questions.latest.values();
        self.heard.send_modify(|heard| {
            heard.asked = Some(asked);
            if let Some(named) = latest().map(|(_, primary, _)| primary).max_by_key(|primary| heard.rank(primary)) {
                heard.hears(named.clone());
                let known = heard.primary.as_ref().map(Primary::address);
                heard.is_failing =
                    latest().any(|(_, primary, is_failing)| *is_failing && Some(primary.address()) == known);
                heard.error = None;
                return;
            }
            if heard.error.is_none() && heard.primary.is_some() {
                tracing::warn!(error, "no sentinel can be reached: the last primary that they named is used");
            }
            heard.error = error.or_else(|| heard.error.take());
            heard.is_failing = false;
        });
    }
}

/// The questions to sentinels. One that is slow is not asked again meanwhile.
#[derive(Default)]
struct Questions {
    /// By the index of the sentinel.
    connections: HashMap<usize, MultiplexedConnection>,
    waiting: HashSet<usize>,
    /// What each sentinel said last, and when it was asked.
    latest: HashMap<usize, (Instant, Primary, bool)>,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
}

struct Answer {
    sentinel: usize,
    asked: Instant,
    /// The primary, and whether it is down or being replaced.
    said: RedisResult<(MultiplexedConnection, Primary, bool)>,
}

impl Questions {
    fn ask(&mut self, sentinels: &[Client], name: &str) {
        for (sentinel, client) in sentinels.iter().enumerate() {
            if !self.waiting.insert(sentinel) {
                continue;
            }
            let connection = self.connections.remove(&sentinel);
            let patience = if connection.is_some() { PATIENCE } else { CONNECTING };
            let (client, name, asked) = (client.clone(), name.to_owned(), Instant::now());
            self.under_way.push(Box::pin(async move {
                let said = timeout(patience, ask(&client, connection, &name)).await;
                let said = said.unwrap_or_else(|_| Err((ErrorKind::Io, "no answer in time").into()));
                Answer { sentinel, asked, said }
            }));
        }
    }
}

/// Asks one sentinel, over its last connection if there is one, for the primary, and whether that is failing.
async fn ask(
    client: &Client,
    connection: Option<MultiplexedConnection>,
    name: &str,
) -> RedisResult<(MultiplexedConnection, Primary, bool)> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECTING)).set_response_timeout(Some(PATIENCE));
    let mut connection = match connection {
        Some(connection) => connection,
        None => client.get_multiplexed_async_connection_with_config(&config).await?,
    };
    let said: HashMap<String, String> =
        redis::cmd("SENTINEL").arg("MASTER").arg(name).query_async(&mut connection).await?;
    let field = |field: &str| said.get(field).map(String::as_str).unwrap_or_default();
    let (Ok(port), Ok(epoch)) = (field("port").parse(), field("config-epoch").parse()) else {
        return Err((ErrorKind::UnexpectedReturnType, "a sentinel answers in another way").into());
    };
    // One sentinel alone may be cut off from a primary that works (`s_down`), so that is not enough.
    let is_failing = field("flags").split(',').any(|flag| matches!(flag, "o_down" | "failover_in_progress"));
    Ok((connection, Primary { host: field("ip").to_owned(), port, epoch }, is_failing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(port: u16, epoch: u64) -> Primary {
        Primary { host: "h".into(), port, epoch }
    }

    fn hears(heard: &mut Heard, names: &[Primary]) -> Primary {
        heard.hears(names.iter().max_by_key(|primary| heard.rank(primary)).unwrap().clone());
        heard.primary.clone().unwrap()
    }

    /// The sentinel that leads a fail-over has the new epoch before it names the new primary.
    #[test]
    fn the_server_that_took_over_counts_and_not_the_one_that_was_replaced() {
        let mut heard = Heard::default();
        assert_eq!(hears(&mut heard, &[named(1, 0), named(1, 0)]), named(1, 0));
        assert_eq!(hears(&mut heard, &[named(1, 1), named(1, 0)]), named(1, 1));
        for names in [[named(1, 1), named(2, 1)], [named(2, 1), named(1, 1)], [named(1, 1), named(1, 1)]] {
            assert_eq!(hears(&mut heard, &names), named(2, 1));
        }
        assert_eq!(hears(&mut heard, &[named(1, 0), named(1, 0)]), named(2, 1), "of before");
        // Back again, first as its leader knows it.
        assert_eq!(hears(&mut heard, &[named(2, 2), named(2, 1)]), named(2, 2));
        for names in [[named(2, 2), named(1, 2)], [named(1, 2), named(2, 2)], [named(2, 2), named(2, 2)]] {
            assert_eq!(hears(&mut heard, &names), named(1, 2));
        }
        assert_eq!(hears(&mut heard, &[named(2, 3), named(1, 2)]), named(2, 3), "back again, known to all at once");
        assert_eq!(hears(&mut heard, &[named(1, 3), named(2, 3)]), named(2, 3));
    }
}
