//! How the servers of a Redis are found, and one connection to them.

use std::time::Duration;

use bb8_redis::redis::{
    self, AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, RedisError,
    RedisResult, ScriptInvocation, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
};

use super::{
    address::{Address, Servers, tcp_settings},
    sentinels::{Primary, Sentinels},
    tls::Tls,
};
use crate::store::{Location, LocationError};

/// The client's own limit for an answer, for writes that no request waits for: large records travel slowly.
const PATIENT: Duration = Duration::from_secs(10);

/// How often a node of a cluster is asked again, or another one in its place.
const CLUSTER_RETRIES: u32 = 3;

/// How the servers of one Redis are found.
#[derive(Clone)]
pub(super) enum Topology {
    /// One primary.
    Single(Box<Client>),
    /// The primaries of a cluster, which share the records among them.
    Cluster(Box<ClusterClient>),
    /// The primary that sentinels name.
    Sentinel(Sentinels),
}

/// A connection to a Redis. A clone is the same connection, which serves any number of calls at once.
#[derive(Clone)]
pub(super) enum Link {
    Single(MultiplexedConnection),
    /// Connections to all nodes, which follow the cluster's changes by themselves.
    Cluster(ClusterConnection),
    Sentinel(MultiplexedConnection, Primary),
}

/// A call to a Redis, which can be made more than once.
pub(crate) enum Call {
    Script(ScriptInvocation<'static>),
    Command(Cmd),
    /// Several commands for one server.
    Pipeline(Pipeline),
    /// A command for one server of several.
    At(Server, Cmd),
}

/// One of the servers that hold records.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    /// The only one.
    Only,
    /// A node of a cluster.
    Node { host: String, port: u16 },
}

/// The state of a connection after an error on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The connection is broken.
    Broken,
    /// The connection works, and its server can't do what was asked: another connection may reach another server.
    Misplaced,
    /// The connection works.
    Works,
}

/// A client of one server.
pub(super) fn client(info: ConnectionInfo, tls: &Tls) -> RedisResult<Client> {
    #[cfg(feature = "redis-tls")]
    if let Some(certificates) = &tls.certificates {
        return Client::build_with_tls(info, certificates.clone());
    }
    let _ = tls;
    Client::open(info)
}

impl Topology {
    pub(super) fn of(location: &Location, timeout: Duration) -> Result<Self, LocationError> {
        let refused = |error: RedisError| LocationError::new(location, error);
        let Address { servers, tls } = Address::of(location)?;
        Ok(match servers {
            Servers::Single(info) => Self::Single(Box::new(client(info, &tls).map_err(refused)?)),
            Servers::Cluster(nodes) => {
                let builder = ClusterClient::builder(nodes)
                    .retries(CLUSTER_RETRIES)
                    .max_retry_wait(100)
                    // A node that does not answer must leave time for another one.
                    .connection_timeout(timeout / 2)
                    .response_timeout(timeout / 2)
                    .tcp_settings(tcp_settings());
                #[cfg(feature = "redis-tls")]
                let builder = match tls.certificates {
                    Some(certificates) => builder.certs(certificates),
                    None => builder,
                };
                Self::Cluster(Box::new(builder.build().map_err(refused)?))
            }
            Servers::Sentinel { sentinels, name, primary } => {
                Self::Sentinel(Sentinels::new(sentinels, name, primary, tls).map_err(refused)?)
            }
        })
    }

    pub(super) const fn is_single(&self) -> bool {
        matches!(self, Self::Single(_))
    }

    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) async fn connect(&self, timeout: Duration) -> RedisResult<Link> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(PATIENT));
        match self {
            Self::Single(client) => {
                Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Self::Cluster(client) => Ok(Link::Cluster(client.get_async_connection().await?)),
            Self::Sentinel(sentinels) => {
                let named = sentinels.primary().await?;
                match connect_to_primary(sentinels, &named, &config).await {
                    Ok(link) => Ok(link),
                    Err(error) => match sentinels.primary_now().await {
                        Ok(now) if now != named => connect_to_primary(sentinels, &now, &config).await,
                        _ => Err(error),
                    },
                }
            }
        }
    }

    /// Whether a connection leads where records are now.
    pub(super) async fn still_leads_to(&self, link: &Link) -> bool {
        match (self, link) {
            (Self::Sentinel(sentinels), Link::Sentinel(_, to)) => {
                sentinels.primary().await.is_ok_and(|primary| primary == *to)
            }
            _ => true,
        }
    }
}

impl Link {
    pub(super) async fn ask<T: FromRedisValue>(&mut self, call: &Call) -> RedisResult<T> {
        match self {
            Self::Single(connection) | Self::Sentinel(connection, _) => ask(connection, call).await,
            Self::Cluster(connection) => match call {
                Call::At(Server::Node { host, port }, command) => {
                    let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                    let answer = connection.route_command(command.clone(), RoutingInfo::SingleNode(node)).await?;
                    Ok(redis::from_redis_value(answer)?)
                }
                _ => ask(connection, call).await,
            },
        }
    }

    /// The servers that hold records.
    pub(super) async fn servers(&mut self) -> RedisResult<Vec<Server>> {
        let Self::Cluster(connection) = self else { return Ok(vec![Server::Only]) };
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let Value::Map(answers) = connection.route_command(redis::cmd("PING"), all).await? else {
            return Err((ErrorKind::UnexpectedReturnType, "a cluster answers in another way").into());
        };
        let server = |address: Value| {
            let address: String = redis::from_redis_value(address)?;
            let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
            let (host, port) = parts.ok_or((ErrorKind::UnexpectedReturnType, "an address without a port"))?;
            Ok(Server::Node { host: host.to_owned(), port })
        };
        answers.into_iter().map(|(address, _)| server(address)).collect()
    }
}

async fn connect_to_primary(
    sentinels: &Sentinels,
    primary: &Primary,
    config: &AsyncConnectionConfig,
) -> RedisResult<Link> {
    let client = sentinels.client(primary)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    // A server that the sentinels have just replaced, or not promoted yet.
    let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
    if !matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") {
        return Err((ErrorKind::Io, "the server that the sentinels name is no primary").into());
    }
    Ok(Link::Sentinel(connection, primary.clone()))
}

async fn ask<T: FromRedisValue>(connection: &mut impl ConnectionLike, call: &Call) -> RedisResult<T> {
    match call {
        Call::Script(script) => script.invoke_async(connection).await,
        Call::Command(command) | Call::At(_, command) => command.query_async(connection).await,
        Call::Pipeline(pipeline) => pipeline.query_async(connection).await,
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
