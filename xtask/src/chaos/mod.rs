//! A chaos test. Several servers share one Redis, through a proxy that resets, stalls, cuts and delays. Servers are
//! killed and restarted, or hang; Redis hangs for longer than a lease, closes its connections, or forgets everything.
//! Clients retry until they have an answer; some stall while they read it. At the end, `verdict` checks the runs and
//! answers of every key, and `steps` the results of their steps.
//!
//! The faults stay within the limits under which the crate makes its promises, and `verdict` counts what lies beyond: a
//! Redis that forgets a key lets it run again.

mod client;
pub(crate) mod ledger;
mod network;
mod outages;
mod random;
mod servers;
mod steps;
pub(crate) mod topology;
mod verdict;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use self::{
    network::Network,
    outages::LEASE,
    random::Random,
    servers::{Launch, Servers, Span},
    topology::{Kind, Topology},
};

const SERVERS: usize = 3;
/// The number of keys in use at a time.
const KEYS_AT_ONCE: usize = 6;
/// The number of clients that send requests with the same key at a time.
const CLIENTS_PER_KEY: usize = 3;

/// Runs for `length`. An error names the promise that was broken.
pub(crate) fn run(length: Duration, seed: u64) -> Result<(), String> {
    println!("chaos: seed {seed}, {} s; the same seed gives the same faults, not the same schedule", length.as_secs());
    let redis = Arc::new(servers::Redis::start()?);
    let network = Arc::new(Network::start(redis.port)?);
    let location = format!("redis://127.0.0.1:{}/0", network.port);
    let servers = Arc::new(Servers::start((0..SERVERS).map(|_| conformance(&location)).collect())?);
    let stop = Arc::new(AtomicBool::new(false));
    let faults = vec![
        network.disturb(Random::new(seed ^ 0xbad), stop.clone()),
        outages::cause(redis.clone(), network.clone(), servers.clone(), Random::new(seed ^ 0x0ff), stop.clone()),
    ];
    let outcome = storm(&servers, &stop, faults, &|| redis.flushes(), length, seed);
    end(&servers, outcome)
}

/// As [`run`], over a Redis that fails over.
///
/// With `replicas`, each claim is on so many replicas before it runs. In a cluster with one replica a primary a fail-over
/// can't lose it then, and the verdict allows no second run but that of a killed owner.
pub(crate) fn run_topology(kind: Kind, replicas: usize, length: Duration, seed: u64) -> Result<(), String> {
    println!("chaos: {kind:?}, {replicas} replicas, seed {seed}, {} s", length.as_secs());
    let topology = Arc::new(Topology::start(kind, seed)?);
    let launch = || {
        let mut launch = conformance(&topology.location());
        launch.variables.push(("IDEMPOTENCY_KEY__STORAGE__REPLICAS", replicas.to_string()));
        launch
    };
    let servers = Arc::new(Servers::start((0..SERVERS).map(|_| launch()).collect())?);
    let stop = Arc::new(AtomicBool::new(false));
    let faults = vec![topology.clone().fail_over(servers.clone(), Random::new(seed ^ 0x0ff), stop.clone())];
    let keeps_all = kind == Kind::Cluster && replicas > 0;
    let losses = || if keeps_all { Vec::new() } else { topology.losses() };
    let outcome = storm(&servers, &stop, faults, &losses, length, seed);
    end(&servers, outcome)
}

fn end(servers: &Servers, outcome: Result<(), String>) -> Result<(), String> {
    // After a failure, threads may still hold the servers, so their drop can't be relied on.
    servers.stop();
    servers.clear(outcome.is_err());
    outcome
}

/// A server on this Redis.
fn conformance(location: &str) -> Launch {
    let variables = vec![
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis".to_owned()),
        ("IDEMPOTENCY_KEY__STORAGE__LOCATION", location.to_owned()),
        ("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn".to_owned()),
        ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none".to_owned()),
        ("IDEMPOTENCY_KEY__LOCK__LEASE", LEASE.to_string()),
        ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "1".to_owned()),
    ];
    Launch { example: "conformance", variables }
}

/// Clients send requests while `faults` happen, until `stop` is set. `losses`: when Redis may have lost claims.
fn storm(
    servers: &Arc<Servers>,
    stop: &Arc<AtomicBool>,
    faults: Vec<thread::JoinHandle<()>>,
    losses: &dyn Fn() -> Vec<Span>,
    length: Duration,
    seed: u64,
) -> Result<(), String> {
    let next_key = Arc::new(AtomicUsize::new(0));

    let workers: Vec<_> = (0..KEYS_AT_ONCE)
        .map(|worker| {
            let (servers, stop, next_key) = (servers.clone(), stop.clone(), next_key.clone());
            let random = Random::new(seed ^ (worker as u64 + 1) << 8);
            thread::spawn(move || work(&servers, &stop, &next_key, random))
        })
        .collect();
    let crashes = crash(servers.clone(), Random::new(seed ^ 0xdead), stop.clone());

    let start = Instant::now();
    let mut memory = Vec::new();
    while start.elapsed() < length {
        thread::sleep(Duration::from_secs(1));
        memory.push(servers.memory());
    }
    // The faults end here. Every client that still retries must now succeed.
    stop.store(true, SeqCst);
    crashes.join().map_err(|_| "the thread that kills servers panicked")?;
    for fault in faults {
        fault.join().map_err(|_| "a thread that causes faults panicked")?;
    }
    let mut keys = Vec::new();
    for worker in workers {
        keys.extend(worker.join().map_err(|_| "a worker thread panicked")??);
    }
    verdict::of(keys, servers, &losses(), &memory)
}

/// A key, and the answers that its clients got.
struct Key {
    name: String,
    path: String,
    /// The distinct answers.
    answers: Vec<Vec<u8>>,
}

fn work(servers: &Arc<Servers>, stop: &AtomicBool, next: &AtomicUsize, mut random: Random) -> Result<Vec<Key>, String> {
    let mut done = Vec::new();
    while !stop.load(SeqCst) {
        let name = format!("chaos-{}", next.fetch_add(1, SeqCst));
        let path = match random.below(5) {
            0 => "/items".to_owned(),
            1 => format!("/slow?ms={}", random.below(300)),
            2 => format!("/steps?ms={}", random.below(400)),
            3 => format!("/stream?chunks={}&size=40&delay_ms=20", 1 + random.below(5)),
            _ => format!("/slow?ms={}", random.below(30)),
        };
        let clients: Vec<_> = (0..CLIENTS_PER_KEY)
            .map(|_| {
                let (servers, name, path) = (servers.clone(), name.clone(), path.clone());
                let random = Random::new(random.next());
                thread::spawn(move || client::until_answered(&servers, &path, &name, random))
            })
            .collect();
        let mut answers = Vec::new();
        for client in clients {
            answers.push(client.join().map_err(|_| format!("{name}: a client thread panicked"))??);
        }
        answers.sort();
        answers.dedup();
        done.push(Key { name, path, answers });
    }
    Ok(done)
}

/// Kills a server every few seconds, and starts another one in its place.
fn crash(servers: Arc<Servers>, mut random: Random, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(SeqCst) {
            thread::sleep(Duration::from_millis(1000 + random.below(3000)));
            let which = random.index(SERVERS);
            if let Err(error) = servers.replace(which) {
                println!("chaos: server {which} did not start again: {error}");
            }
        }
    })
}
