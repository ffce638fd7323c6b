//! Compares the Redis store with a bare connection that runs the same two scripts: one server, behind a sentinel, and a
//! cluster of three. This bench starts the servers.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use actix_idempotency::{
    record::Record,
    store::{Begin, RedisOptions, RedisStore, Store as _},
};
use actix_web::rt;
use futures_util::future::join_all;
use redis::{Client, Script, Value, aio::ConnectionLike, cluster::ClusterClient};

use crate::{
    common::{ask, record},
    table::{
        ROUNDS, Table,
        Target::{AtLeast, AtMost},
        median, micros,
    },
};

const CONCURRENT: u64 = 64;
const PAIRS_EACH: u64 = 300;

/// A process that ends with this value.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a redis-server, whose files are in a folder of its own.
    fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("bench-redis-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--dir", folder.to_str().expect("a path in UTF-8")]).args(arguments);
        let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        let server = Self { child, port };
        until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    /// Starts a sentinel of this primary.
    fn sentinel(primary: u16) -> Self {
        let port = free_port();
        let file = std::env::temp_dir().join(format!("bench-sentinel-{port}.conf"));
        let settings = format!("port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary} 1\n");
        std::fs::write(&file, settings).expect("a file");
        let mut command = Command::new("redis-server");
        command.arg(file).arg("--sentinel");
        let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        let server = Self { child, port };
        until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// A free port whose port for the bus of a cluster is free, too.
fn free_port() -> u16 {
    loop {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        if port < 55_536 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "the servers don't start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cli(port: u16, command: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output();
    String::from_utf8_lossy(&output.expect("redis-cli is installed").stdout).into_owned()
}

fn store(location: String, replicas: usize) -> RedisStore {
    let mut options = RedisOptions::new(location);
    options.timeout = Duration::from_secs(10);
    options.replicas = replicas;
    RedisStore::new(options).expect("a store")
}

pub(crate) fn redis(table: &Table) {
    rt::System::new().block_on(async {
        let single = Server::start(&[]);
        let client = Client::open(format!("redis://{}/0", single.address())).expect("a URL");
        let bare = client.get_multiplexed_async_connection().await.expect("a connection");
        let one = store(format!("redis://{}/0", single.address()), 0);
        compare(table, "Redis", &bare, &one).await;
        table.row("  round trips of a replay", ["", ""], round_trips(&one, single.port).await, "", &AtMost(1.0));

        let sentinel = Server::sentinel(single.port);
        let watched = store(format!("redis-sentinel://{}/main?db=0", sentinel.address()), 0);
        compare(table, "Sentinel", &bare, &watched).await;

        let nodes = [(); 3].map(|()| Server::start(&["--cluster-enabled", "yes"]));
        let addresses: Vec<String> = nodes.iter().map(Server::address).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(&addresses).arg("--cluster-yes").stdout(Stdio::null());
        assert!(create.status().expect("redis-cli is installed").success());
        until(|| nodes.iter().all(|node| cli(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")));
        let urls = addresses.iter().map(|address| format!("redis://{address}/"));
        let client = ClusterClient::new(urls).expect("addresses");
        let bare = client.get_async_connection().await.expect("a connection");
        let cluster = store(format!("redis-cluster://{}", addresses.join(",")), 0);
        compare(table, "Cluster", &bare, &cluster).await;
        replicas(table).await;
    });
}

/// Compares pairs through a store with pairs of the same scripts on a bare connection.
async fn compare<C: ConnectionLike + Clone>(table: &Table, name: &str, bare: &C, store: &RedisStore) {
    let prelude = include_str!("../../src/store/redis/scripts/prelude.lua").replace("@WRITES@", "2");
    let begin = Script::new(&format!("{prelude}{}", include_str!("../../src/store/redis/scripts/begin.lua")));
    let complete = Script::new(&format!("{prelude}{}", include_str!("../../src/store/redis/scripts/complete.lua")));
    let record = record();
    let [mut ratios, mut bare_rates, mut rates, mut tails, mut halves] = [const { Vec::new() }; 5];
    // Not a round of the measurement: connections and scripts are not there yet.
    pair(store, &record, (name.len() as u64) << 56 | 1 << 55).await;
    for round in 0..ROUNDS as u64 {
        // Each store has keys of its own.
        let keys = (round + 1) << 40 | (name.len() as u64) << 56;
        let start = Instant::now();
        join_all((0..CONCURRENT).map(|task| {
            let (mut connection, begin, complete, record) = (bare.clone(), &begin, &complete, &record);
            async move {
                for n in 0..PAIRS_EACH {
                    pair_bare(&mut connection, begin, complete, record, keys | task << 16 | n).await;
                }
            }
        }))
        .await;
        let bare_time = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let waits = join_all((0..CONCURRENT).map(|task| {
            let record = &record;
            async move {
                let mut waits = Vec::new();
                for n in 0..PAIRS_EACH {
                    let start = Instant::now();
                    pair(store, record, keys | 1 << 31 | task << 16 | n).await;
                    waits.push(start.elapsed().as_nanos() as f64);
                }
                waits
            }
        }))
        .await;
        let time = start.elapsed().as_secs_f64();
        let mut waits = waits.concat();
        waits.sort_by(f64::total_cmp);
        ratios.push(bare_time / time);
        bare_rates.push((CONCURRENT * PAIRS_EACH) as f64 / bare_time);
        rates.push((CONCURRENT * PAIRS_EACH) as f64 / time);
        halves.push(waits[waits.len() / 2]);
        tails.push(waits[waits.len() * 999 / 1000]);
    }
    let rates = [bare_rates, rates].map(|rates| format!("{:.0}/s", median(rates)));
    let name = format!("{name}: {CONCURRENT} concurrent pairs / bare connection");
    table.row(&name, [&rates[0], &rates[1]], median(ratios), "x", &AtLeast(0.85));
    let (half, tail) = (median(halves), median(tails));
    let waits = [format!("p50 {}", micros(half)), format!("p99.9 {}", micros(tail))];
    table.row("  p99.9 of a pair / p50", [&waits[0], &waits[1]], tail / half, "x", &AtMost(10.0));
}

/// The time that an acknowledgement by one replica adds to a call.
async fn replicas(table: &Table) {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    until(|| cli(primary.port, &["INFO", "replication"]).contains("state=online"));
    until(|| {
        cli(primary.port, &["SET", "x", "1"]).contains("OK") && cli(primary.port, &["WAIT", "1", "100"]).contains('1')
    });
    let location = format!("redis://{}/0", primary.address());
    let (alone, acknowledged, record) = (store(location.clone(), 0), store(location, 1), record());
    let [mut without, mut with] = [const { Vec::new() }; 2];
    // Connections and scripts, and the replica's first acknowledgement.
    for n in 0..500 {
        pair(&alone, &record, 1 << 60 | n).await;
        let _ = acknowledged.begin(&ask(1 << 61 | n)).await;
    }
    for round in 0..ROUNDS as u64 {
        for (at, (store, times)) in [(&alone, &mut without), (&acknowledged, &mut with)].into_iter().enumerate() {
            let start = Instant::now();
            for n in 0..500 {
                pair(store, &record, 1 << 62 | (at as u64) << 40 | round << 20 | n).await;
            }
            // A pair is two calls.
            times.push(start.elapsed().as_nanos() as f64 / 1000.0);
        }
    }
    let (without, with) = (median(without), median(with));
    let times = [micros(without), micros(with)];
    table.row("replicas = 1: added to a call", [&times[0], &times[1]], (with - without) / 1e3, "µs", &AtMost(150.0));
    drop(replica);
}

/// The commands that redis-server gets per replay, as its MONITOR shows them.
async fn round_trips(store: &RedisStore, port: u16) -> f64 {
    const REPLAYS: u64 = 200;
    let (record, known) = (record(), u64::MAX);
    pair(store, &record, known).await;
    let mut monitor = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    monitor.write_all(b"MONITOR\r\n").expect("written");
    let mut lines = BufReader::new(monitor.try_clone().expect("a second handle")).lines();
    assert_eq!(lines.next().expect("an answer").expect("read"), "+OK");
    for _ in 0..REPLAYS {
        assert!(matches!(store.begin(&ask(known)).await, Ok(Begin::Completed(_))), "stored before");
    }
    monitor.write_all(b"QUIT\r\n").expect("written");
    let lines: Vec<String> = lines.map_while(Result::ok).filter(|line| line.contains('[')).collect();
    // Commands inside scripts are no round trips.
    let received =
        lines.iter().filter(|line| !line.contains(" lua] ") && !line.to_lowercase().contains("\"quit\"")).count();
    received as f64 / REPLAYS as f64
}

/// A `begin` and a `complete` through the store.
async fn pair(store: &RedisStore, record: &Record, n: u64) {
    let request = ask(n);
    let Ok(Begin::Acquired(acquired)) = store.begin(&request).await else { panic!("a fresh key") };
    store.complete(&acquired.claim, record, Duration::from_secs(60)).await.expect("stored");
}

/// The same two scripts on a bare connection.
async fn pair_bare(connection: &mut impl ConnectionLike, begin: &Script, complete: &Script, record: &Record, n: u64) {
    let request = ask(n);
    let name = format!("idempotency::default:{}", request.id);
    let mut call = begin.key(&name);
    call.arg(request.token.as_bytes())
        .arg(&request.fingerprint.as_bytes()[..])
        .arg(30_000)
        .arg(10_000)
        .arg(60_000)
        .arg(&[0_u8; 8][..])
        .arg("replay")
        .arg("rerun");
    let _: Vec<Value> = call.invoke_async(connection).await.expect("begun");
    let mut call = complete.key(&name);
    call.arg(request.token.as_bytes()).arg(&request.fingerprint.as_bytes()[..]);
    call.arg(1).arg(1).arg(0).arg(&[0_u8; 8][..]).arg(60_000);
    let _: Vec<Value> = call.arg(&record.to_bytes()[..]).invoke_async(connection).await.expect("stored");
}
