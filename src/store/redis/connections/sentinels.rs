//! The primary that sentinels name.
//!
//! A fail-over by hand, or of a primary that was only stalled, leaves the old primary taking writes for some ten seconds,
//! and a connection to it works. So the sentinels are asked all the time, and a connection is used only while they have
//! named its server within the last second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bb8_redis::redis::{
    self, AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{address::with_host, tls::Tls, topology::client};
use crate::store::background::Background;

/// How often the sentinels are asked.
const EVERY: Duration = Duration::from_millis(100);

/// How long the answer counts. A process that was stalled for longer asks before it uses a connection.
const COUNTS: Duration = Duration::from_secs(1);

/// How long one sentinel may take.
const PATIENCE: Duration = Duration::from_millis(250);

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
            let _ = timeout(PATIENCE * 3, heard.wait_for(is_fresh)).await;
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
                let mut connections = HashMap::new();
                while let Some(shared) = shared.upgrade() {
                    shared.ask(&mut connections).await;
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
    /// Asks all sentinels. The answer counts when most have answered, or when no more will.
    async fn ask(&self, connections: &mut HashMap<usize, MultiplexedConnection>) {
        let asked = Instant::now();
        let asks = self.sentinels.iter().enumerate().map(|(at, client)| {
            let connection = connections.remove(&at);
            let ask = timeout(PATIENCE, ask(client, connection, &self.name));
            async move { (at, ask.await.unwrap_or_else(|_| Err((ErrorKind::Io, "no answer in time").into()))) }
        });
        let mut asks: FuturesUnordered<_> = asks.collect();
        let (mut named, mut answers, mut error) = (None::<Primary>, 0, None);
        while let Some((at, answer)) = asks.next().await {
            match answer {
                Ok((connection, primary)) => {
                    connections.insert(at, connection);
                    answers += 1;
                    if named.as_ref().is_none_or(|named| named.epoch < primary.epoch) {
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

/// Asks one sentinel, over its last connection if there is one.
async fn ask(
    client: &Client,
    connection: Option<MultiplexedConnection>,
    name: &str,
) -> RedisResult<(MultiplexedConnection, Primary)> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
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
