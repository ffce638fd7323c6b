//! Chaos: several servers on one Redis behind a network that resets, stalls, cuts and delays; servers that are killed and
//! restarted; clients that retry until they have an answer. At the end it is counted what happened to each key.
//!
//! The bounds are those of the promises: the network never fails for as long as a lease lasts, and Redis loses nothing.

mod client;
mod network;
mod random;
mod servers;
mod verdict;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use self::{network::Network, random::Random, servers::Servers};

const SERVERS: usize = 3;
/// Keys that are being worked on at a time; each has this many clients at once.
const KEYS_AT_ONCE: usize = 6;
const CLIENTS_PER_KEY: usize = 3;

/// Runs for `length`; an error tells what was broken.
pub(crate) fn run(length: Duration, seed: u64) -> Result<(), String> {
    println!("chaos: seed {seed}, {} s; the same seed gives the same faults, not the same schedule", length.as_secs());
    let redis = servers::Redis::start()?;
    let network = Network::start(redis.port)?;
    let servers = Arc::new(Servers::start(SERVERS, network.port)?);
    let outcome = storm(&network, &servers, length, seed);
    // Threads that a failure left behind may hold on to the servers.
    servers.stop();
    match &outcome {
        Ok(()) => drop(fs::remove_file(&servers.log)),
        Err(_) => println!("chaos: the log of all runs is {}", servers.log.display()),
    }
    outcome
}

fn storm(network: &Network, servers: &Arc<Servers>, length: Duration, seed: u64) -> Result<(), String> {
    let (stop, next_key) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));

    let workers: Vec<_> = (0..KEYS_AT_ONCE)
        .map(|worker| {
            let (servers, stop, next_key) = (servers.clone(), stop.clone(), next_key.clone());
            let random = Random::new(seed ^ (worker as u64 + 1) << 8);
            thread::spawn(move || work(&servers, &stop, &next_key, random))
        })
        .collect();
    let weather = network.weather(Random::new(seed ^ 0xbad), stop.clone());
    let crashes = crash(servers.clone(), Random::new(seed ^ 0xdead), stop.clone());

    let start = Instant::now();
    let mut memory = Vec::new();
    while start.elapsed() < length {
        thread::sleep(Duration::from_secs(1));
        memory.push(servers.memory());
    }
    // Fair weather: whoever still tries must succeed now.
    stop.store(true, SeqCst);
    crashes.join().map_err(|_| "the one who kills servers died")?;
    weather.join().map_err(|_| "the one who makes the weather died")?;
    let mut keys = Vec::new();
    for worker in workers {
        keys.extend(worker.join().map_err(|_| "a worker died")??);
    }
    verdict::of(&keys, servers, &memory)
}

/// What the clients of one key got.
struct Key {
    name: String,
    path: String,
    /// The different answers that there were.
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
            answers.push(client.join().map_err(|_| format!("{name}: a client died"))??);
        }
        answers.sort();
        answers.dedup();
        done.push(Key { name, path, answers });
    }
    Ok(done)
}

/// Kills a server now and then, and starts another in its place.
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
