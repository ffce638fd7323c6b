//! Whatever disturbs a round, each kind in a thread of its own, and a list of what happened.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, Scope},
    time::Duration,
};

use super::{
    super::{
        outages::signal,
        random::Random,
        servers::{Redis, Servers, now},
    },
    database::Database,
};

/// In seconds. A paused process, or a Redis that hangs, outlasts it at times.
pub(crate) const LEASE: u64 = 2;

/// The faults of a round, with the time at which each of them ended.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<(u128, String)>>);

impl Faults {
    fn add(&self, fault: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((now(), fault));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The faults of a period.
    pub(crate) fn between(&self, from: u128, until: u128) -> Vec<(u128, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let some = all.iter().filter(|(when, _)| (from..=until).contains(when));
        some.map(|(when, fault)| (*when, format!("fault: {fault}"))).collect()
    }
}

/// Causes faults until `stop` is set. Each kind has its own random numbers, so its faults depend on the seed alone.
pub(crate) fn cause<'scope>(
    scope: &'scope Scope<'scope, '_>,
    (database, servers, redis): (&'scope Database, &'scope Servers, Option<&'scope Redis>),
    faults: &'scope Faults,
    seed: u64,
    stop: &'scope AtomicBool,
) {
    let repeat = move |n: u64, shortest: u64, longest: u64, fault: &dyn Fn(&mut Random) -> Option<String>| {
        let mut random = Random::new(seed ^ n << 32);
        while !stop.load(SeqCst) {
            thread::sleep(Duration::from_millis(shortest + random.below(longest - shortest)));
            if let Some(fault) = fault(&mut random) {
                faults.add(fault);
            }
        }
    };
    scope.spawn(move || repeat(1, 10, 200, &|random| Some(database.lose_commits(random))));
    scope.spawn(move || repeat(2, 50, 500, &|random| database.terminate(random)));
    scope.spawn(move || repeat(3, 1000, 4000, &|random| Some(disturb_process(servers, random))));
    scope.spawn(move || repeat(4, 4000, 9000, &|random| disturb_database(database, random)));
    if let Some(redis) = redis {
        scope.spawn(move || repeat(5, 500, 3000, &|random| Some(disturb_redis(redis, random))));
    }
}

fn disturb_process(servers: &Servers, random: &mut Random) -> String {
    let process = random.index(servers.count());
    if random.percent(50) {
        let millis = 500 + random.below(2 * LEASE * 1000);
        servers.pause(process, Duration::from_millis(millis));
        return format!("process {process} hung for {millis} ms");
    }
    match servers.replace(process) {
        Ok(()) => format!("process {process} was killed, and started again"),
        Err(error) => format!("process {process} did not start again: {error}"),
    }
}

fn disturb_database(database: &Database, random: &mut Random) -> Option<String> {
    let is_crash = random.percent(50);
    match random.below(4) {
        // The server ends all other connections, and recovers.
        0 => {
            let backend = database.backend(random)?;
            signal("KILL", backend);
            Some(format!("backend {backend} was killed: the database recovers"))
        }
        1 => {
            let (backend, millis) = (database.backend(random)?, 200 + random.below(2000));
            signal("STOP", backend);
            thread::sleep(Duration::from_millis(millis));
            signal("CONT", backend);
            Some(format!("backend {backend} hung for {millis} ms"))
        }
        _ => {
            database.restart(is_crash);
            Some(format!("the database {}, and started again", if is_crash { "crashed" } else { "was stopped" }))
        }
    }
}

/// Claims in Redis are only there to save runs.
fn disturb_redis(redis: &Redis, random: &mut Random) -> String {
    match random.below(4) {
        0 => {
            let millis = random.below(2 * LEASE * 1000);
            signal("STOP", redis.pid());
            thread::sleep(Duration::from_millis(millis));
            signal("CONT", redis.pid());
            format!("Redis hung for {millis} ms")
        }
        1 => {
            redis.close_connections();
            "Redis closed its connections".into()
        }
        _ => {
            redis.flush();
            "Redis forgot all claims".into()
        }
    }
}
