//! How tests talk to a Redis of theirs: with a password, with TLS, or with neither.
#![cfg_attr(
    not(feature = "redis-tls"),
    expect(clippy::unused_self, clippy::needless_update, reason = "nothing to tell apart")
)]

#[cfg(feature = "redis-tls")]
use std::sync::Arc;

use redis::{Client, RedisResult};

#[cfg(feature = "redis-tls")]
use super::tls::Certificates;

#[derive(Clone, Default)]
pub(crate) struct Access {
    /// Empty: there is none.
    password: &'static str,
    #[cfg(feature = "redis-tls")]
    certificates: Option<Arc<Certificates>>,
}

impl From<&'static str> for Access {
    fn from(password: &'static str) -> Self {
        Self { password, ..Self::default() }
    }
}

#[cfg(feature = "redis-tls")]
impl From<&Arc<Certificates>> for Access {
    fn from(certificates: &Arc<Certificates>) -> Self {
        Self { certificates: Some(certificates.clone()), ..Self::default() }
    }
}

impl Access {
    #[cfg(feature = "redis-tls")]
    fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_deref()
    }

    /// Empty: there is none.
    pub(super) fn password(&self) -> &'static str {
        self.password
    }

    /// `start`: `redis`, or `redis-` and a topology. Returns the scheme of a location.
    pub(super) fn scheme(&self, start: &str) -> String {
        #[cfg(feature = "redis-tls")]
        if self.certificates().is_some() {
            return start.replacen("redis", "rediss", 1);
        }
        start.to_owned()
    }

    /// The user's part of a location.
    pub(super) fn credentials(&self) -> String {
        if self.password.is_empty() { String::new() } else { format!(":{}@", self.password) }
    }

    /// The parameters of a location, the first one after `?`.
    pub(super) fn query(&self) -> String {
        #[cfg(feature = "redis-tls")]
        if let Some(certificates) = self.certificates() {
            return certificates.query();
        }
        String::new()
    }

    /// The arguments of a server that listens on `port`.
    pub(super) fn arguments(&self, port: u16) -> Vec<String> {
        let port = port.to_string();
        #[cfg(feature = "redis-tls")]
        if let Some(certificates) = self.certificates() {
            let mut arguments = ["--port", "0", "--tls-port", &port].map(str::to_owned).to_vec();
            arguments.extend(certificates.arguments());
            return arguments;
        }
        vec!["--port".to_owned(), port]
    }

    /// A client of the server on `port`.
    pub(super) fn client(&self, port: u16) -> RedisResult<Client> {
        let url = format!("{}://{}127.0.0.1:{port}/0", self.scheme("redis"), self.credentials());
        #[cfg(feature = "redis-tls")]
        if let Some(certificates) = self.certificates() {
            return Client::build_with_tls(url, certificates.of_a_client());
        }
        Client::open(url)
    }
}
