//! A Redis Cluster of one test: three primaries and a replica of each.

use std::time::{Duration, Instant};

use super::{
    access::Access,
    fixture::{Redis, free_port, server_at},
};
use crate::common::{RunLog, Server, eventually};

/// How long a server is silent before the others take it for dead.
const NODE_TIMEOUT: &str = "2000";

const SHARDS: usize = 3;

/// All slots are below this number.
const SLOTS: usize = 16_384;

/// Nodes are named by their index in `nodes`: the three that are primaries at first, then the replica of each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
    access: Access,
}

/// What a node says of itself.
struct Own {
    id: String,
    /// The id of its primary. `None`: the node is a primary.
    primary: Option<String>,
    /// Grows with each fail-over, so the highest one is right when two nodes claim a slot.
    epoch: u64,
    slots: Vec<(usize, usize)>,
}

/// A port below 55,536. The bus of a node has the port that is 10,000 higher.
fn port_with_bus() -> u16 {
    loop {
        let port = free_port();
        if port < 55_536 && std::net::TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

/// The line of `CLUSTER NODES` about the node that was asked.
fn parse(nodes: &str) -> Option<Own> {
    let line = nodes.lines().find(|line| line.contains("myself"))?;
    let words: Vec<&str> = line.split(' ').collect();
    Some(Own {
        id: words[0].to_owned(),
        primary: (words[3] != "-").then(|| words[3].to_owned()),
        epoch: words[6].parse().ok()?,
        slots: slots(line).collect(),
    })
}

/// The ranges of slots of a node, in a line of `CLUSTER NODES`.
fn slots(line: &str) -> impl Iterator<Item = (usize, usize)> {
    line.split(' ').skip(8).filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        // A slot that is half moved has another form, and is also in a range.
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

fn cluster(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg(words);
    command
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(Access::default(), &[])
    }

    pub(super) fn start_with(access: Access, more: &[&str]) -> Self {
        let mut arguments = vec![
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            NODE_TIMEOUT,
            "--repl-diskless-sync-delay",
            "0",
        ];
        arguments.extend(more);
        let start = |_| Redis::start_at(port_with_bus, &arguments, access.clone());
        let this = Self { nodes: (0..2 * SHARDS).map(start).collect(), access };
        this.form();
        this
    }

    fn form(&self) {
        let must = |node: usize, words: &[&str]| {
            self.nodes[node].ask::<()>(&cluster(words)).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        };
        for node in 0..2 * SHARDS {
            // Equal epochs would be told apart by a vote first.
            must(node, &["SET-CONFIG-EPOCH", &(node + 1).to_string()]);
            if node < SHARDS {
                let slots: Vec<String> =
                    (SLOTS * node / SHARDS..SLOTS * (node + 1) / SHARDS).map(|slot| slot.to_string()).collect();
                let words: Vec<&str> = ["ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
                must(node, &words);
            }
            if node > 0 {
                must(0, &["MEET", "127.0.0.1", &self.nodes[node].port.to_string()]);
            }
        }
        self.until("all nodes know each other", |node| {
            let known: String = node.ask(&cluster(&["NODES"])).unwrap_or_default();
            known.lines().count() == 2 * SHARDS && !known.contains("handshake")
        });
        for replica in SHARDS..2 * SHARDS {
            let primary = self.own(replica - SHARDS).expect("a primary").id;
            must(replica, &["REPLICATE", &primary]);
        }
        self.settled();
    }

    /// Waits until each node that is up says `condition`.
    fn until(&self, what: &str, condition: impl Fn(&Redis) -> bool) {
        for node in self.nodes.iter().filter(|node| node.is_up()) {
            eventually(what, || if condition(node) { Ok(()) } else { Err(node.port) });
        }
    }

    /// Waits until all nodes that are up say that the cluster works.
    fn works(&self) {
        self.until("the cluster works", |node| {
            let info: String = node.ask(&cluster(&["INFO"])).unwrap_or_default();
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        });
    }

    /// Waits until the cluster works, and each primary has its replica. All nodes must be up.
    pub(crate) fn settled(&self) {
        self.works();
        self.until("replicas have what their primaries have", |node| match node.info("replication", "role").as_str() {
            "master" => node.info("replication", "connected_slaves") == "1",
            _ => node.info("replication", "master_link_status") == "up",
        });
        // Replicas vote and are voted for only where they are known as replicas.
        self.until("the replicas are known", |node| {
            let known: String = node.ask(&cluster(&["NODES"])).unwrap_or_default();
            known.lines().filter(|line| line.contains("slave")).count() == SHARDS
        });
    }

    /// Waits until a client that asks the nodes sees a primary of a slot, and all nodes say that the cluster works.
    pub(crate) fn recovered(&self, slot: usize) {
        eventually("a primary of the slot", || self.owner_of(slot).map(drop).ok_or(slot));
        self.works();
    }

    /// Waits until a node that was a primary is a replica with a link to the new one.
    pub(crate) fn is_replica(&self, node: usize) {
        let link = || self.nodes[node].info("replication", "master_link_status");
        eventually("the old primary is a replica", || if link() == "up" { Ok(()) } else { Err(link()) });
    }

    fn own(&self, node: usize) -> Option<Own> {
        let node = &self.nodes[node];
        if node.is_up() { parse(&node.ask::<String>(&cluster(&["NODES"])).ok()?) } else { None }
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes[..SHARDS].iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let scheme = self.access.scheme("redis-cluster");
        format!("{scheme}://{}{}/{}", self.access.credentials(), hosts.join(","), self.access.query())
    }

    /// Starts a conformance server that keeps its records in this cluster.
    pub(crate) fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        server_at(&self.url(), log, more)
    }

    pub(crate) fn slot_of(&self, name: &str) -> usize {
        let up = self.nodes.iter().find(|node| node.is_up()).expect("a node");
        up.ask(&cluster(&["KEYSLOT", name])).expect("a slot")
    }

    /// The primary that has a slot, if one that is up has it.
    pub(crate) fn owner_of(&self, slot: usize) -> Option<usize> {
        let owners = (0..self.nodes.len()).filter_map(|node| Some((node, self.own(node)?)));
        let owners = owners.filter(|(_, own)| {
            own.primary.is_none() && own.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
        });
        owners.max_by_key(|(_, own)| own.epoch).map(|(node, _)| node)
    }

    /// The primary that has the record of a name.
    pub(crate) fn primary_of(&self, name: &str) -> usize {
        self.owner_of(self.slot_of(name)).expect("a primary that is up has the slot")
    }

    /// The nodes that are up and say that they are primaries with slots.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary =
            |node: &usize| self.own(*node).is_some_and(|own| own.primary.is_none() && !own.slots.is_empty());
        (0..self.nodes.len()).filter(is_primary).collect()
    }

    pub(crate) fn replica_of(&self, primary: usize) -> usize {
        let id = self.own(primary).expect("it is up").id;
        let is_its = |node: &usize| self.own(*node).is_some_and(|own| own.primary.as_deref() == Some(&id));
        (0..self.nodes.len()).find(is_its).expect("a replica that is up")
    }

    /// The names of all records, with the primary of each.
    pub(crate) fn names(&self) -> Vec<(usize, String)> {
        let names = self.primaries().into_iter().flat_map(|node| {
            let names: Vec<String> = self.nodes[node].ask(redis::cmd("KEYS").arg("*")).expect("names");
            names.into_iter().map(move |name| (node, name))
        });
        names.collect()
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    pub(crate) fn run_again(&mut self, node: usize) {
        self.nodes[node].run_again();
    }

    pub(crate) fn freeze(&self, node: usize) {
        self.nodes[node].freeze();
    }

    pub(crate) fn thaw(&self, node: usize) {
        self.nodes[node].thaw();
    }

    /// Makes the replica of a primary the primary, as before maintenance. No record is lost.
    pub(crate) fn fail_over(&self, primary: usize) {
        let replica = self.replica_of(primary);
        let mut asked: Option<Instant> = None;
        eventually("the fail-over", || {
            if self.own(replica).is_some_and(|own| own.primary.is_none()) {
                return Ok(());
            }
            // It is refused while another one runs, and has no effect when its time is over.
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(5)) {
                self.nodes[replica].ask::<()>(&cluster(&["FAILOVER"])).map_err(|error| error.to_string())?;
                asked = Some(Instant::now());
            }
            Err("still a replica".to_owned())
        });
    }

    pub(crate) fn flush_scripts(&self) {
        for node in &self.nodes {
            node.ask::<()>(redis::cmd("SCRIPT").arg("FLUSH")).expect("no scripts");
        }
    }

    /// Begins to move a slot. Its records stay where they are; new ones are made at the destination.
    pub(crate) fn begin_move(&self, slot: usize, to: usize) {
        let from = self.owner_of(slot).expect("a primary has the slot");
        let [from_id, to_id] = [from, to].map(|node| self.own(node).expect("it is up").id);
        let slot = slot.to_string();
        self.nodes[to].ask::<()>(&cluster(&["SETSLOT", &slot, "IMPORTING", &from_id])).expect("an importing node");
        self.nodes[from].ask::<()>(&cluster(&["SETSLOT", &slot, "MIGRATING", &to_id])).expect("a migrating node");
    }

    /// Moves the records of a slot whose move has begun. Their old primary then sends clients to the new one (`ASK`).
    pub(crate) fn move_records(&self, slot: usize, to: usize) {
        let from = self.owner_of(slot).expect("a primary has the slot");
        let port = self.nodes[to].port.to_string();
        loop {
            let names: Vec<String> =
                self.nodes[from].ask(&cluster(&["GETKEYSINSLOT", &slot.to_string(), "100"])).expect("names");
            if names.is_empty() {
                return;
            }
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg(&["127.0.0.1", &port, "", "0", "2000", "KEYS"]).arg(names);
            self.nodes[from].ask::<()>(&migrate).expect("a move of records");
        }
    }

    /// Ends a move. The old primary then says `MOVED`.
    pub(crate) fn end_move(&self, slot: usize, to: usize) {
        self.move_records(slot, to);
        let from = self.owner_of(slot).expect("a primary has the slot");
        let id = self.own(to).expect("it is up").id;
        let others = self.primaries().into_iter().filter(|node| ![from, to].contains(node));
        for node in [to, from].into_iter().chain(others) {
            self.nodes[node].ask::<()>(&cluster(&["SETSLOT", &slot.to_string(), "NODE", &id])).expect("a new owner");
        }
        // A replica that has not heard of the move yet can give the slot back to its old owner for a moment.
        self.until("all nodes know the new owner", |node| {
            let known: String = node.ask(&cluster(&["NODES"])).unwrap_or_default();
            known
                .lines()
                .any(|line| line.starts_with(&id) && slots(line).any(|(first, last)| (first..=last).contains(&slot)))
        });
    }

    pub(crate) fn move_slot(&self, slot: usize, to: usize) {
        self.begin_move(slot, to);
        self.end_move(slot, to);
    }
}

#[test]
fn a_cluster_is_formed() {
    let cluster = Cluster::start();
    assert_eq!(cluster.primaries(), [0, 1, 2]);
    for primary in 0..SHARDS {
        assert_eq!(cluster.replica_of(primary), SHARDS + primary);
    }
    let slot = cluster.slot_of("name");
    let owner = cluster.owner_of(slot).unwrap();
    cluster.nodes[owner].ask::<()>(redis::cmd("SET").arg("name").arg(1)).unwrap();
    let to = (owner + 1) % SHARDS;
    cluster.move_slot(slot, to);
    assert_eq!(cluster.names(), [(to, "name".to_owned())]);
    cluster.fail_over(to);
    assert_eq!(cluster.primary_of("name"), SHARDS + to);
}
