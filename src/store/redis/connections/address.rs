//! The address of a Redis, taken apart.

use bb8_redis::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, io::tcp::TcpSettings};
use socket2::TcpKeepalive;

use super::tls::{self, Tls};
use crate::store::{Location, LocationError};

/// After so much silence the operating system asks whether the other side of a connection is still there.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(30);

/// The address of a Redis, taken apart.
pub(super) struct Address {
    pub(super) servers: Servers,
    pub(super) tls: Tls,
}

/// The servers of one Redis.
pub(super) enum Servers {
    /// One primary.
    Single(ConnectionInfo),
    /// Some nodes of a cluster. They name the others.
    Cluster(Vec<ConnectionInfo>),
    /// A primary that sentinels name.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        /// The name of the primary at the sentinels.
        name: String,
        /// The primary, but for its host and port.
        primary: ConnectionInfo,
    },
}

/// The topology that a scheme names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Cluster,
    Sentinel,
}

impl Address {
    /// `location`: host, host:port or URL.
    pub(super) fn of(location: &Location) -> Result<Self, LocationError> {
        Self::parse(location.as_str()).map_err(|why| LocationError::new(location, why))
    }

    fn parse(location: &str) -> Result<Self, String> {
        // Django's setting accepts `host` and `host:port`.
        let (scheme, rest) = location.split_once("://").unwrap_or(("redis", location));
        let (kind, plain) = match scheme {
            "redis-cluster" => (Kind::Cluster, "redis"),
            "rediss-cluster" => (Kind::Cluster, "rediss"),
            "redis-sentinel" => (Kind::Sentinel, "redis"),
            "rediss-sentinel" => (Kind::Sentinel, "rediss"),
            other => (Kind::Single, other),
        };
        // A password may have any character in it, and a query may have an `@`: only what follows the last one counts.
        let after = rest.rfind('@').map_or(0, |at| at + 1);
        let (rest, query) = match rest[after..].find('?') {
            Some(at) => (&rest[..after + at], &rest[after + at + 1..]),
            None => (rest, ""),
        };
        if let Some(name) = tls::PARAMETERS.iter().find(|name| rest.contains(&format!("{name}="))) {
            return Err(format!("in `{name}`, `@` is written `%40`"));
        }
        let mut query = Query::of(query);
        let tls = Tls::of(&mut query, plain == "rediss")?;
        if kind == Kind::Single {
            let rest = if rest.contains('/') || plain.contains("unix") { rest.to_owned() } else { format!("{rest}/") };
            let info = connection_info(&format!("{plain}://{rest}{}", query.rest()))?;
            return Ok(Self { servers: Servers::Single(info), tls });
        }
        let (credentials, rest) = rest.rsplit_once('@').map_or(("", rest), |(of, rest)| (of, rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let node = |credentials: &str, host: &str| {
            let at = if credentials.is_empty() { "" } else { "@" };
            connection_info(&format!("{plain}://{credentials}{at}{host}/"))
        };
        let servers = if kind == Kind::Cluster {
            if !matches!(path, "" | "0") || query.take("db").is_some_and(|database| database != "0") {
                return Err("a cluster has the database 0 only".into());
            }
            Servers::Cluster(hosts.split(',').map(|host| node(credentials, host)).collect::<Result<_, _>>()?)
        } else {
            if path.is_empty() || path.contains('/') {
                return Err(
                    "the name of the primary is missing, as in `redis-sentinel://a:26379,b:26379/mymaster`".into()
                );
            }
            let database = query.take("db").unwrap_or_else(|| "0".into());
            let database = database.parse().map_err(|_| "`db` is no number of a database")?;
            let (user, password) = (query.take("sentinel_user"), query.take("sentinel_password"));
            let sentinel = |host: &str| {
                let host = if host.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
                    host.to_owned()
                } else {
                    format!("{host}:26379")
                };
                let info = node("", &host)?;
                let mut settings = info.redis_settings().clone();
                if let Some(user) = &user {
                    settings = settings.set_username(user);
                }
                if let Some(password) = &password {
                    settings = settings.set_password(password);
                }
                Ok::<_, String>(info.set_redis_settings(settings))
            };
            // The sentinels will say what its host is.
            let primary = node(credentials, "sentinels-will-say")?;
            let settings = primary.redis_settings().clone().set_db(database);
            Servers::Sentinel {
                sentinels: hosts.split(',').map(sentinel).collect::<Result<_, _>>()?,
                name: path.to_owned(),
                primary: primary.set_redis_settings(settings),
            }
        };
        match query.rest().strip_prefix('?') {
            Some(unknown) => Err(format!("`{}` means nothing here", unknown.split('=').next().unwrap_or_default())),
            None => Ok(Self { servers, tls }),
        }
    }
}

/// The same connection to another server.
pub(super) fn with_host(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    info.clone().set_addr(addr)
}

fn connection_info(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|error| error.to_string())?;
    if !info.addr().is_supported() {
        return Err("TLS needs the crate's feature `redis-tls`".into());
    }
    // Without TCP_NODELAY: calls that are under way at the same time then travel in one packet, which gives a third more
    // calls a second.
    Ok(info.set_tcp_settings(tcp_settings()))
}

pub(super) fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_keepalive(TcpKeepalive::new().with_time(KEEP_ALIVE))
}

/// The parameters at the end of a URL.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (n.into(), v.into())).collect())
    }

    /// Takes a parameter out. Percent-encoded bytes are decoded.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        let value = self.0.remove(at).1;
        Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
    }

    /// The parameters that were not taken, as they were.
    fn rest(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(location: &str) -> Servers {
        Address::of(&location.into()).unwrap_or_else(|error| panic!("{location}: {error}")).servers
    }

    #[test]
    fn locations_are_hosts_or_urls() {
        for location in [
            "localhost",
            "localhost:6379",
            "redis://h:1/2",
            "redis://user:secret@h/0",
            "127.0.0.1:1",
            "redis://[::1]:1/0",
        ] {
            assert!(matches!(parsed(location), Servers::Single(_)), "{location}");
        }
    }

    #[test]
    fn nodes_of_a_cluster_have_one_user() {
        let Servers::Cluster(nodes) = parsed("redis-cluster://app:p%40ss@a:7000,b:7001,[::1]:7002/0") else { panic!() };
        let addresses: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
        assert_eq!(addresses, ["a:7000", "b:7001", "::1:7002"]);
        for node in nodes {
            let settings = node.redis_settings();
            assert_eq!((settings.username(), settings.password()), (Some("app"), Some("p@ss")));
        }
    }

    #[test]
    fn sentinels_have_their_own_credentials_and_port() {
        let location = "redis-sentinel://app:pw@a,b:7/mymaster?db=3&sentinel_user=watch&sentinel_password=s%26t";
        let Servers::Sentinel { sentinels, name, primary } = parsed(location) else { panic!() };
        assert_eq!((&*name, primary.redis_settings().db()), ("mymaster", 3));
        assert_eq!(primary.redis_settings().password(), Some("pw"));
        let addresses: Vec<String> = sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        assert_eq!(addresses, ["a:26379", "b:7"]);
        for sentinel in sentinels {
            let settings = sentinel.redis_settings();
            assert_eq!((settings.username(), settings.password(), settings.db()), (Some("watch"), Some("s&t"), 0));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for location in [
            "http://h",
            "redis://user:secret@h:port/0",
            "user:secret@h:port",
            "redis+unix:relative?pass=secret",
            "redis://:se?cret@h:port",
            "redis://:se/cret@h:port",
            "http://h?password=a@secret",
            "redis-cluster://app:secret@a:1,b:port",
            "redis-cluster://app:secret@a:1/3",
            "redis-cluster://app:secret@a:1?db=3",
            "redis-cluster://",
            "redis-cluster://a:1,",
            "redis-sentinel://app:secret@a:1",
            "redis-sentinel://app:secret@a:1/m/3",
            "redis-sentinel://a:1/m?db=secret",
            "redis-sentinel://a:1/m?sentinel_pasword=secret",
        ] {
            let Err(error) = Address::of(&location.into()) else { panic!("{location}") };
            let error = error.to_string();
            assert!(!error.contains("secret") && !error.contains("cret@"), "{error}");
        }
    }
}
