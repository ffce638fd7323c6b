//! Where a Redis is, and one connection to it.

use std::time::Duration;

use bb8_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError, RedisResult,
    ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use socket2::TcpKeepalive;

use crate::store::{Location, LocationError};

/// The client's own limit for an answer, for writes that no request waits for: large records travel slowly.
const PATIENT: Duration = Duration::from_secs(10);

/// After so much silence the operating system asks whether the other side of a connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How the servers of one Redis are found.
#[derive(Clone)]
pub(super) enum Topology {
    /// One primary.
    Single(Client),
}

/// A connection to a Redis. A clone is the same connection, which serves any number of calls at once.
#[derive(Clone)]
pub(super) enum Link {
    Single(MultiplexedConnection),
}

/// A call to a Redis, which can be made more than once.
pub(crate) enum Call {
    Script(ScriptInvocation<'static>),
    Command(Cmd),
}

/// What an error means for the connection on which it arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The connection is broken.
    Broken,
    /// The connection works, and its server can't do what was asked: another connection may reach another server.
    Misplaced,
    /// The connection works.
    Works,
}

impl Topology {
    /// `location`: host, host:port or URL.
    pub(super) fn of(location: &Location) -> Result<Self, LocationError> {
        let refused = |error: RedisError| LocationError::new(location, error);
        let info = url(location.as_str()).into_connection_info().map_err(refused)?;
        // Without TCP_NODELAY: calls that are under way at the same time then travel in one packet, which gives a third
        // more calls a second.
        let tcp = TcpSettings::default().set_keepalive(TcpKeepalive::new().with_time(KEEP_ALIVE));
        Ok(Self::Single(Client::open(info.set_tcp_settings(tcp)).map_err(refused)?))
    }

    pub(super) async fn connect(&self, timeout: Duration) -> RedisResult<Link> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(PATIENT));
        match self {
            Self::Single(client) => {
                Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
        }
    }
}

impl Link {
    pub(super) async fn ask<T: FromRedisValue>(&mut self, call: &Call) -> RedisResult<T> {
        match (self, call) {
            (Self::Single(connection), Call::Script(script)) => script.invoke_async(connection).await,
            (Self::Single(connection), Call::Command(command)) => command.query_async(connection).await,
        }
    }
}

impl Verdict {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            // The answer may still come.
            ErrorKind::Io if error.is_timeout() => Self::Works,
            ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => Self::Broken,
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => Self::Misplaced,
            ErrorKind::Extension if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Self::Misplaced,
            _ => Self::Works,
        }
    }
}

/// Turns `host` and `host:port`, which Django's setting accepts, into a URL.
fn url(location: &str) -> String {
    if location.contains("://") { location.to_owned() } else { format!("redis://{location}/") }
}
