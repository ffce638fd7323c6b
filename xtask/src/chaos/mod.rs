//! A chaos test. Several servers share one Redis, through a proxy that resets, stalls, cuts and delays. Servers are
//! killed and restarted, or hang; Redis hangs for longer than a lease, closes its connections, or forgets everything.
//! Clients retry until they have an answer; some stall while they read it. At the end, `verdict` checks the runs and
//! answers of every key.
//!
//! The faults stay within the limits under which the crate makes its promises, and `verdict` counts what lies beyond: a
//! Redis that forgets a key lets it run again.

mod client;
pub(crate) mod ledger;
mod network;
mod outages;
mod random;
mod servers;
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
    servers::{Launch, Redis, Servers},
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
    let servers = Arc::new(Servers::start((0..SERVERS).map(|_| conformance(network.port)).collect())?);
    let outcome = storm(&redis, &network, &servers, length, seed);
    // After a failure, threads may still hold the servers, so their drop can't be relied on.
    servers.stop();
    servers.clear(outcome.is_err());
    outcome
}

/// A server on this Redis.
fn conformance(redis: u16) -> Launch {
    let variables = vec![
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis".to_owned()),
        ("IDEMPOTENCY_KEY__STORAGE__LOCATION", format!("redis://127.0.0.1:{redis}/0")),
        ("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn".to_owned()),
        ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none".to_owned()),
        ("IDEMPOTENCY_KEY__LOCK__LEASE", LEASE.to_string()),
        ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "1".to_owned()),
    ];
    Launch { example: "conformance", variables }
}

fn storm(
    redis: &Arc<Redis>,
    network: &Arc<Network>,
    servers: &Arc<Servers>,
    length: Duration,
    seed: u64,
) -> Result<(), String> {
    let (stop, next_key) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));

    let workers: Vec<_> = (0..KEYS_AT_ONCE)
        .map(|worker| {
            let (servers, stop, next_key) = (servers.clone(), stop.clone(), next_key.clone());
            let random = Random::new(seed ^ (worker as u64 + 1) << 8);
            thread::spawn(move || work(&servers, &stop, &next_key, random))
        })
        .collect();
    let faults = network.disturb(Random::new(seed ^ 0xbad), stop.clone());
    let outages =
        outages::cause(redis.clone(), network.clone(), servers.clone(), Random::new(seed ^ 0x0ff), stop.clone());
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
    outages.join().map_err(|_| "the thread that causes outages panicked")?;
    faults.join().map_err(|_| "the thread that changes the network panicked")?;
    let mut keys = Vec::new();
    for worker in workers {
        keys.extend(worker.join().map_err(|_| "a worker thread panicked")??);
    }
    verdict::of(&keys, servers, &redis.flushes(), &memory)
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
        let path = match random.below(4) {
            0 => "/items".to_owned(),
            1 => format!("/slow?ms={}", random.below(300)),
            2 => format!("/stream?chunks={}&size=40&delay_ms=20", 1 + random.below(5)),
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
