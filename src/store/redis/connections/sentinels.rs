//! The primary that sentinels name.
//!
//! A fail-over by hand, or of a primary that was only stalled, leaves the old primary taking writes for some ten seconds,
//! and a connection to it works. So the sentinels are asked all the time, and a connection is used only while they have
//! named its server within the last second.

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
const EVERY: Duration = Duration::from_millis(100);

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

/// The last answer of the sentinels.
#[derive(Clone, Default)]
struct Heard {
    primary: Option<Primary>,
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

impl Shared {
    /// Asks all sentinels. Their answer counts when most have answered, or soon after the first one: the others may be gone.
    async fn ask(&self, questions: &mut Questions) {
        let asked = Instant::now();
        questions.ask(&self.sentinels, &self.name);
        let (mut named, mut answers, mut error) = (None::<Primary>, 0, None);
        let mut until = asked + CONNECTING;
        while let Ok(Some(answer)) = timeout_at(until, questions.under_way.next()).await {
            questions.waiting.remove(&answer.sentinel);
            match answer.said {
                Ok((connection, primary)) => {
                    questions.connections.insert(answer.sentinel, connection);
                    // One to an earlier question may be of before, and may have waited for this process to go on.
                    if answer.asked >= asked {
                        answers += 1;
                        until = until.min(Instant::now() + AFTER_THE_FIRST);
                    }
                    if answer.asked.elapsed() < COUNTS && named.as_ref().is_none_or(|named| named.epoch < primary.epoch)
                    {
                        named = Some(primary);
                    }
                }
                Err(failed) => error = Some(failed.to_string()),
            }
            if answers > self.sentinels.len() / 2 {
                break;
            }
        }
        self.heard.send_modify(|heard| {
            heard.asked = Some(asked);
            // A sentinel that was cut off may know of an earlier primary only.
            let known = heard.primary.as_ref().map_or(0, |known| known.epoch);
            match named {
                Some(named) if named.epoch >= known => {
                    if heard.primary.as_ref().is_some_and(|known| *known != named) {
                        tracing::warn!(host = named.host, port = named.port, "the sentinels name another primary");
                    }
                    heard.primary = Some(named);
                    heard.error = None;
                }
                Some(_) => {}
                None => {
                    if heard.error.is_none() && heard.primary.is_some() {
                        tracing::warn!(error, "no sentinel can be reached: the last primary that they named is used");
                    }
                    heard.error = error.or_else(|| heard.error.take());
                }
            }
        });
    }
}

/// The questions to sentinels. One that is slow is not asked again meanwhile.
#[derive(Default)]
struct Questions {
    /// By the index of the sentinel.
    connections: HashMap<usize, MultiplexedConnection>,
    waiting: HashSet<usize>,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
}

struct Answer {
    sentinel: usize,
    asked: Instant,
    said: RedisResult<(MultiplexedConnection, Primary)>,
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

/// Asks one sentinel, over its last connection if there is one.
async fn ask(
    client: &Client,
    connection: Option<MultiplexedConnection>,
    name: &str,
) -> RedisResult<(MultiplexedConnection, Primary)> {
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
    Ok((connection, Primary { host: field("ip").to_owned(), port, epoch }))
}
