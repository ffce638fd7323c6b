//! Servers of a Redis that fails over: a cluster of three primaries with a replica each, or a primary with two replicas
//! behind three sentinels. Primaries are replaced by hand, killed and frozen.
//!
//! Replication is asynchronous, so a fail-over may lose the newest claims. The moments at which that could happen are kept,
//! and `verdict` counts second runs across them apart.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    SERVERS,
    outages::signal,
    random::Random,
    servers::{Servers, Span, now},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster,
    Sentinel,
}

pub(crate) struct Topology {
    kind: Kind,
    folder: PathBuf,
    nodes: Vec<Mutex<Node>>,
    /// Only with [`Kind::Sentinel`].
    sentinels: Vec<Mutex<Node>>,
    /// From the beginning of each fail-over until all nodes had their roles again.
    losses: Mutex<Vec<Span>>,
}

struct Node {
    child: Child,
    port: u16,
    arguments: Vec<String>,
}

impl Node {
    fn start(port: u16, arguments: Vec<String>) -> Result<Self, String> {
        let child = spawn(&arguments)?;
        let node = Self { child, port, arguments };
        until("a server listens", || ask(port, &["PING"]).contains("PONG"))?;
        Ok(node)
    }

    fn restart(&mut self) -> Result<(), String> {
        let _ = (self.child.kill(), self.child.wait());
        self.child = spawn(&self.arguments)?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

fn spawn(arguments: &[String]) -> Result<Child, String> {
    let mut command = Command::new("redis-server");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| format!("redis-server: {error}"))
}

/// What a server answers to a command, by redis-cli.
fn ask(port: u16, command: &[&str]) -> String {
    // A frozen server never answers.
    let output = Command::new("timeout").args(["2", "redis-cli", "-p", &port.to_string()]).args(command).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!("chaos: in vain waited until {what}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A free port whose port for the cluster's bus is free as well.
fn free_port() -> Result<u16, String> {
    for _ in 0..1000 {
        let free = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = free.local_addr().map_err(|error| error.to_string())?.port();
        if port < 55_536 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

impl Topology {
    pub(crate) fn start(kind: Kind, seed: u64) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("chaos-topology-{}-{seed}", std::process::id()));
        let mut this = Self { kind, folder, nodes: Vec::new(), sentinels: Vec::new(), losses: Mutex::default() };
        match kind {
            Kind::Cluster => this.form_a_cluster()?,
            Kind::Sentinel => this.form_sentinels()?,
        }
        Ok(this)
    }

    fn node(&self, name: &str, more: &[&str]) -> Result<Node, String> {
        let (port, folder) = (free_port()?, self.folder.join(name));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let (port_text, folder) = (port.to_string(), folder.display().to_string());
        let arguments = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--dir", &folder];
        let arguments = arguments.iter().chain(more).map(|argument| (*argument).to_owned()).collect();
        Node::start(port, arguments)
    }

    fn form_a_cluster(&mut self) -> Result<(), String> {
        let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0"];
        for n in 0..6 {
            self.nodes.push(Mutex::new(self.node(&format!("node-{n}"), &more)?));
        }
        let addresses: Vec<String> = self.ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(&addresses).args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created = create.stdout(Stdio::null()).status().map_err(|error| format!("redis-cli: {error}"))?;
        if !created.success() {
            return Err("redis-cli could not form a cluster".into());
        }
        self.is_whole()
    }

    fn form_sentinels(&mut self) -> Result<(), String> {
        let primary = self.node("node-0", &["--repl-diskless-sync-delay", "0"])?;
        let port = primary.port;
        self.nodes.push(Mutex::new(primary));
        for n in 1..3 {
            let more = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port.to_string()];
            self.nodes.push(Mutex::new(self.node(&format!("node-{n}"), &more)?));
        }
        for n in 0..3 {
            let (own, file) = (free_port()?, self.folder.join(format!("sentinel-{n}.conf")));
            let settings = format!(
                "port {own}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            );
            fs::write(&file, settings).map_err(|error| error.to_string())?;
            self.sentinels.push(Mutex::new(Node::start(own, vec![file.display().to_string(), "--sentinel".into()])?));
        }
        self.is_whole()
    }

    fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.lock().unwrap_or_else(PoisonError::into_inner).port).collect()
    }

    /// The location for the servers under test.
    pub(crate) fn location(&self) -> String {
        let of = |ports: &[u16]| ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        match self.kind {
            Kind::Cluster => format!("redis-cluster://{}", of(&self.ports()[..3])),
            Kind::Sentinel => {
                let ports: Vec<u16> =
                    self.sentinels.iter().map(|one| one.lock().unwrap_or_else(PoisonError::into_inner).port).collect();
                format!("redis-sentinel://{}/main", of(&ports))
            }
        }
    }

    /// When claims may have been lost.
    pub(crate) fn losses(&self) -> Vec<Span> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The indices of nodes that say that they have this role.
    fn with_role(&self, role: &str) -> Vec<usize> {
        let wanted = format!("role:{role}\r");
        let has =
            |port: u16| ask(port, &["INFO", "replication"]).lines().any(|line| line.trim_end() == wanted.trim_end());
        self.ports().into_iter().enumerate().filter(|(_, port)| has(*port)).map(|(n, _)| n).collect()
    }

    /// Waits until each node is a primary with its replicas, or a replica with a link.
    fn is_whole(&self) -> Result<(), String> {
        let (primaries, replicas) = if self.kind == Kind::Cluster { (3, 1) } else { (1, 2) };
        until("all nodes have their roles", || {
            let ports = self.ports();
            let texts: Vec<String> = ports.iter().map(|port| ask(*port, &["INFO", "replication"])).collect();
            let lead = texts.iter().filter(|text| text.contains("role:master")).count();
            let whole = texts.iter().all(|text| {
                text.contains("master_link_status:up") || text.contains(&format!("connected_slaves:{replicas}\r"))
            });
            let works = self.kind != Kind::Cluster
                || ports.iter().all(|port| ask(*port, &["CLUSTER", "INFO"]).contains("cluster_state:ok"));
            lead == primaries && whole && works
        })
    }

    /// Replaces a primary every few seconds until `stop` is set, and pauses servers under test.
    pub(crate) fn fail_over(
        self: Arc<Self>,
        servers: Arc<Servers>,
        mut random: Random,
        stop: Arc<AtomicBool>,
    ) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            while !stop.load(SeqCst) {
                thread::sleep(Duration::from_millis(500 + random.below(2500)));
                if random.below(4) == 0 {
                    servers.pause(random.index(SERVERS), Duration::from_millis(1000 + random.below(3000)));
                    continue;
                }
                let begins = now();
                if let Err(error) = self.replace_a_primary(&mut random) {
                    println!("chaos: {error}");
                }
                self.losses.lock().unwrap_or_else(PoisonError::into_inner).push((begins, now()));
            }
        })
    }

    fn replace_a_primary(&self, random: &mut Random) -> Result<(), String> {
        let primaries = self.with_role("master");
        let Some(&primary) = primaries.get(random.index(primaries.len().max(1))) else { return Ok(()) };
        let others = |this: &Self| this.with_role("master").into_iter().filter(|n| *n != primary).count();
        let before = others(self);
        match random.below(3) {
            0 => self.ask_for_a_fail_over(primary),
            1 => {
                let mut node = self.nodes[primary].lock().unwrap_or_else(PoisonError::into_inner);
                let _ = (node.child.kill(), node.child.wait());
                drop(node);
                until("a replica has taken over", || others(self) > before)?;
                self.nodes[primary].lock().unwrap_or_else(PoisonError::into_inner).restart()?;
            }
            _ => {
                let pid = self.nodes[primary].lock().unwrap_or_else(PoisonError::into_inner).child.id();
                signal("STOP", pid);
                let replaced = until("a replica has taken over", || others(self) > before);
                signal("CONT", pid);
                replaced?;
            }
        }
        self.is_whole()
    }

    /// By hand, as for maintenance.
    fn ask_for_a_fail_over(&self, primary: usize) {
        let ports = self.ports();
        if self.kind == Kind::Sentinel {
            let sentinel = self.sentinels[0].lock().unwrap_or_else(PoisonError::into_inner).port;
            ask(sentinel, &["SENTINEL", "FAILOVER", "main"]);
            // It is refused for some time after another one.
            thread::sleep(Duration::from_secs(1));
            return;
        }
        let of_it = format!("master_port:{}\r", ports[primary]);
        let is_its = |port: &&u16| ask(**port, &["INFO", "replication"]).contains(&of_it);
        let Some(replica) = ports.iter().find(is_its) else { return };
        ask(*replica, &["CLUSTER", "FAILOVER"]);
        let _ = until("the replica is a primary", || ask(*replica, &["INFO", "replication"]).contains("role:master"));
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.nodes.clear();
        self.sentinels.clear();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
