//! A chaos test of ledgers. Several processes of the example `ledger` share nothing but a PostgreSQL server. Their claims
//! are in their memory, or in a Redis that forgets them. COMMITs and their answers are lost, or COMMITs arrive after
//! their connection was closed. Connections are terminated, and the database crashes. Processes are killed, or hang.
//!
//! Clients send each key to random processes until they have a final answer. At the end, `verdict` asks each process
//! once more for each key, and compares answers with rows. None of the faults excuses a second effect.

mod client;
mod database;
mod faults;
mod sql;
mod verdict;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use self::{
    client::Key,
    database::{Cluster, Database},
    faults::{Faults, LEASE},
    verdict::Verdict,
};
use super::{
    random::Random,
    servers::{Launch, Redis, Servers},
};

const PROCESSES: usize = 3;
/// The number of keys in use at a time.
const KEYS_AT_ONCE: u64 = 40;
/// The length of a round. Each has a new database and new processes.
const ROUND: Duration = Duration::from_secs(30);

/// Where claims are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claims {
    /// In the memory of each process.
    Memory,
    /// In one Redis.
    Redis,
    /// Each in another place: in memory, in Redis, and nowhere (`lock.enable = false`).
    Mixed,
}

/// Runs for `length`. An error names the promises that were broken.
pub(crate) fn run(length: Duration, seed: u64) -> Result<(), String> {
    println!("chaos of the ledger: seed {seed}, {} s", length.as_secs());
    let cluster = database::start().ok_or("NOT CHECKED: PostgreSQL is missing")?;
    let rounds = u32::try_from(length.as_secs() / ROUND.as_secs()).unwrap_or(u32::MAX).max(1);
    for (n, claims) in (0..rounds).zip([Claims::Memory, Claims::Redis, Claims::Mixed].into_iter().cycle()) {
        let length = length / rounds;
        let round =
            Round { name: format!("round{n}"), claims, length, seed: seed ^ u64::from(n) << 48, is_control: false };
        let verdict = round.play(&cluster)?;
        println!("chaos of the ledger, claims {claims:?}: {}", verdict.numbers);
        verdict.holds()?;
    }
    Ok(())
}

/// Shows that the verdict can fail: each process has its own namespace, so the ids of a key differ, and rows double.
pub(crate) fn control(length: Duration, seed: u64) -> Result<(), String> {
    println!("chaos of the ledger, control: seed {seed}, {} s", length.as_secs());
    let cluster = database::start().ok_or("NOT CHECKED: PostgreSQL is missing")?;
    let round = Round { name: "control".into(), claims: Claims::Memory, length, seed, is_control: true };
    let verdict = round.play(&cluster)?;
    println!("chaos of the ledger, control: {}; {} of them have doubled rows", verdict.numbers, verdict.doubled);
    if verdict.doubled == 0 { Err("the control was not caught".into()) } else { Ok(()) }
}

struct Round {
    /// Of its database, and the beginning of its keys.
    name: String,
    claims: Claims,
    length: Duration,
    seed: u64,
    is_control: bool,
}

impl Round {
    fn play(&self, cluster: &Mutex<Cluster>) -> Result<Verdict, String> {
        let database = Database::create(cluster, &self.name, PROCESSES).map_err(|error| error.to_string())?;
        let redis = (self.claims != Claims::Memory).then(Redis::start).transpose()?;
        let launches = (0..PROCESSES).map(|process| self.launch(process, &database, redis.as_ref()));
        let servers = Stopped(Servers::start(launches.collect())?);
        let faults = Faults::default();
        let keys = self.storm(&database, &servers.0, redis.as_ref(), &faults);
        let verdict = verdict::of(keys, &database, &servers.0, &faults)?;
        servers.0.clear(!self.is_control && !verdict.violations.is_empty());
        Ok(verdict)
    }

    /// All processes differ, since none of these settings carries the promise.
    fn launch(&self, process: usize, database: &Database, redis: Option<&Redis>) -> Launch {
        let mut variables = vec![
            ("DATABASE_URL", database.url(process)),
            ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none".to_owned()),
            ("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "2xx,402".to_owned()),
            ("IDEMPOTENCY_KEY__LOCK__LEASE", LEASE.to_string()),
            ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0.2".to_owned()),
        ];
        let in_redis = match self.claims {
            Claims::Memory => false,
            Claims::Redis => true,
            Claims::Mixed => process == 1,
        };
        if let Some(redis) = redis.filter(|_| in_redis) {
            variables.extend([
                ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis".to_owned()),
                ("IDEMPOTENCY_KEY__STORAGE__LOCATION", format!("redis://127.0.0.1:{}/0", redis.port)),
                ("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn".to_owned()),
            ]);
        }
        match process {
            0 if self.claims == Claims::Mixed => variables.push(("IDEMPOTENCY_KEY__LOCK__ENABLE", "false".to_owned())),
            0 => variables.push(("IDEMPOTENCY_KEY__STORAGE__ON_ERROR", "run".to_owned())),
            1 => variables.push(("IDEMPOTENCY_KEY__ON_DISCONNECT", "cancel".to_owned())),
            _ => variables.push(("POOL", "1".to_owned())),
        }
        if self.is_control {
            variables.push(("IDEMPOTENCY_KEY__STORAGE__NAMESPACE", format!("process{process}")));
        }
        Launch { example: "ledger", variables }
    }

    /// All that clients saw while there were faults.
    fn storm(&self, database: &Database, servers: &Servers, redis: Option<&Redis>, faults: &Faults) -> Vec<Key> {
        let (stop, next) = (&AtomicBool::new(false), &AtomicUsize::new(0));
        let prefix = &*format!("{}-", self.name);
        thread::scope(|scope| {
            let workers: Vec<_> = (1..=KEYS_AT_ONCE)
                .map(|worker| {
                    let random = Random::new(self.seed ^ worker << 8);
                    scope.spawn(move || client::work(servers, prefix, stop, next, random))
                })
                .collect();
            faults::cause(scope, (database, servers, redis), faults, self.seed, stop);
            thread::sleep(self.length);
            // The faults end here. Every client that still retries must now succeed.
            stop.store(true, SeqCst);
            workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
        })
    }
}

/// Servers that are killed when the round ends, also by an error or a panic.
struct Stopped(Servers);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.stop();
    }
}
