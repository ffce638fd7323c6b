//! A primary with replicas, and three sentinels that watch it.

use std::time::{Duration, Instant};

use super::{
    access::Access,
    fixture::{Redis, free_port, server_at},
};
use crate::common::{RunLog, Server, eventually};

/// What the sentinels call the primary.
const NAME: &str = "mymaster";

/// On a busy machine no sentinel may get most votes in time. They vote again after ten seconds.
const ELECTIONS: Duration = Duration::from_secs(40);

/// The parameter of a location with the password of the sentinels.
const SENTINEL_PASSWORD: &str = "sentinel_password";

pub(crate) struct Sentinels {
    /// The first one is the primary at first.
    pub(crate) servers: Vec<Redis>,
    /// The sentinels.
    pub(crate) watchers: Vec<Redis>,
    to_servers: Access,
    to_watchers: Access,
}

fn settings(port: u16, servers: &Access, watchers: &Access) -> String {
    let mut lines = vec![
        format!("sentinel monitor {NAME} 127.0.0.1 {port} 2"),
        format!("sentinel down-after-milliseconds {NAME} 1000"),
        format!("sentinel failover-timeout {NAME} 5000"),
    ];
    if !servers.password().is_empty() {
        lines.push(format!("sentinel auth-pass {NAME} {}", servers.password()));
    }
    if !watchers.password().is_empty() {
        // The second line is for the talk of sentinels with each other.
        lines.push(format!("requirepass {}", watchers.password()));
        lines.push(format!("sentinel sentinel-pass {}", watchers.password()));
    }
    lines.join("\n") + "\n"
}

fn sentinel(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("SENTINEL");
    command.arg(words);
    command
}

/// Waits until a sentinel knows the others and all replicas, without which it holds no election.
fn knows_all(node: &Redis, replicas: usize) {
    eventually("a sentinel knows the others", || {
        let said: Vec<String> = node.ask(&sentinel(&["MASTER", NAME])).map_err(|error| error.to_string())?;
        let said = |name: &str| said.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
        let known = [said("num-other-sentinels"), said("num-slaves"), said("flags")];
        let wanted = ["2", &replicas.to_string(), "master"].map(|text| Some(text.to_owned()));
        if known == wanted { Ok(()) } else { Err(format!("{known:?}")) }
    });
}

impl Sentinels {
    /// With one replica and without passwords.
    pub(crate) fn start() -> Self {
        Self::start_with(1, "", "")
    }

    pub(crate) fn start_with(replicas: usize, to_servers: impl Into<Access>, to_watchers: impl Into<Access>) -> Self {
        let (to_servers, to_watchers) = (to_servers.into(), to_watchers.into());
        let password = to_servers.password();
        let mut arguments = vec!["--repl-diskless-sync-delay", "0"];
        if !password.is_empty() {
            arguments.extend(["--requirepass", password, "--masterauth", password]);
        }
        let mut servers = vec![Redis::start_at(free_port, &arguments, to_servers.clone())];
        let port = servers[0].port;
        let of = port.to_string();
        arguments.extend(["--replicaof", "127.0.0.1", &of]);
        servers.extend((0..replicas).map(|_| Redis::start_at(free_port, &arguments, to_servers.clone())));
        for replica in &servers[1..] {
            let link = || replica.info("replication", "master_link_status");
            eventually("the link of a replica", || if link() == "up" { Ok(()) } else { Err(link()) });
        }
        let settings = settings(port, &to_servers, &to_watchers);
        let watchers = (0..3).map(|_| Redis::start_sentinel(&settings, to_watchers.clone())).collect();
        let this = Self { servers, watchers, to_servers, to_watchers };
        for sentinel in &this.watchers {
            knows_all(sentinel, replicas);
        }
        this
    }

    fn hosts(&self) -> String {
        let hosts: Vec<String> = self.watchers.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        hosts.join(",")
    }

    pub(crate) fn url(&self) -> String {
        self.url_of(NAME, 0)
    }

    /// The location of a primary with this name, and a number of a database.
    pub(crate) fn url_of(&self, name: &str, database: u8) -> String {
        let (servers, password) = (&self.to_servers, self.to_watchers.password());
        let password = if password.is_empty() { String::new() } else { format!("&{SENTINEL_PASSWORD}={password}") };
        let (scheme, credentials) = (servers.scheme("redis-sentinel"), servers.credentials());
        let more = servers.query().replacen('?', "&", 1);
        format!("{scheme}://{credentials}{}/{name}?db={database}{password}{more}", self.hosts())
    }

    /// Starts a conformance server that keeps its records in the primary.
    pub(crate) fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        server_at(&self.url(), log, more)
    }

    /// The port of the primary, when all sentinels that are up say the same.
    fn agreed(&self) -> Result<u16, String> {
        let mut ports = Vec::new();
        for node in self.watchers.iter().filter(|node| node.is_up()) {
            let said: Vec<String> =
                node.ask(&sentinel(&["GET-MASTER-ADDR-BY-NAME", NAME])).map_err(|error| error.to_string())?;
            ports.push(said.get(1).and_then(|port| port.parse().ok()).ok_or("no port")?);
        }
        ports.dedup();
        if let [port] = ports[..] { Ok(port) } else { Err(format!("{ports:?}")) }
    }

    pub(crate) fn primary_port(&self) -> u16 {
        let mut port = 0;
        eventually("the sentinels agree on a primary", || {
            port = self.agreed()?;
            Ok::<(), String>(())
        });
        port
    }

    pub(crate) fn index_of(&self, port: u16) -> usize {
        self.servers.iter().position(|server| server.port == port).expect("one of the servers")
    }

    pub(crate) fn primary(&self) -> &Redis {
        &self.servers[self.index_of(self.primary_port())]
    }

    /// Waits until a replica has all that the primary has. Nothing else may write meanwhile.
    pub(crate) fn has_all(&self, replica: usize) {
        let (primary, replica) = (self.primary(), &self.servers[replica]);
        let offsets = || [primary, replica].map(|server| server.info("replication", "master_repl_offset"));
        eventually("the replica has all", || {
            let [all, copied] = offsets();
            if all == copied { Ok(()) } else { Err([all, copied]) }
        });
    }

    /// Waits until the sentinels agree on another primary, which takes writes.
    pub(crate) fn wait_for_another_than(&self, port: u16) {
        let is_there = || match self.agreed()? {
            other if other != port => {
                let role = self.servers[self.index_of(other)].info("replication", "role");
                if role == "master" { Ok(()) } else { Err(role) }
            }
            _ => Err("the same primary".to_owned()),
        };
        let start = Instant::now();
        while is_there().is_err() && start.elapsed() < ELECTIONS {
            std::thread::sleep(Duration::from_millis(5));
        }
        eventually("another primary", is_there);
    }

    /// Makes a replica the primary, as before maintenance. The old primary takes writes for about ten seconds more,
    /// which it loses when it becomes a replica.
    pub(crate) fn fail_over(&self) {
        let port = self.primary_port();
        eventually("the fail-over begins", || {
            // Refused for a time after another one, and as long as the sentinel knows of no good replica.
            let asked = self.watchers[0].ask::<()>(&sentinel(&["FAILOVER", NAME]));
            asked.map_err(|error| error.to_string())
        });
        self.wait_for_another_than(port);
    }

    /// Kills the primary, and returns its index.
    pub(crate) fn kill_primary(&mut self) -> usize {
        let primary = self.index_of(self.primary_port());
        self.servers[primary].kill();
        primary
    }

    /// Freezes the primary, and returns its index.
    pub(crate) fn freeze_primary(&self) -> usize {
        let primary = self.index_of(self.primary_port());
        self.servers[primary].freeze();
        primary
    }

    /// Wakes the server that was the primary.
    pub(crate) fn thaw_primary(&self, primary: usize) {
        self.servers[primary].thaw();
    }

    /// Waits until a server that was the primary is a replica with a link to the new one.
    pub(crate) fn is_replica(&self, server: usize) {
        let link = || self.servers[server].info("replication", "master_link_status");
        eventually("the old primary is a replica", || if link() == "up" { Ok(()) } else { Err(link()) });
    }
}

#[test]
fn sentinels_agree_on_a_primary() {
    let sentinels = Sentinels::start();
    assert_eq!(sentinels.primary_port(), sentinels.servers[0].port);
    sentinels.fail_over();
    assert_eq!(sentinels.primary_port(), sentinels.servers[1].port);
    sentinels.is_replica(0);
    sentinels.has_all(0);
}

#[test]
fn sentinels_with_passwords_agree_on_a_primary() {
    let mut sentinels = Sentinels::start_with(2, "secret", "another");
    let killed = sentinels.kill_primary();
    sentinels.wait_for_another_than(sentinels.servers[killed].port);
}
