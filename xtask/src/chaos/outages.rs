//! Outages that last longer than a lease, within the limits under which the crate makes its promises: at most one at a
//! time, and the network is clear until the owners have renewed their leases afterwards.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::{
    SERVERS,
    network::Network,
    random::Random,
    servers::{Redis, Servers},
};

/// In seconds. The grace follows from it and from the default `storage.timeout` of 0.5 s: 1.8 s.
pub(crate) const LEASE: u64 = 5;

/// Lease and grace, less the time between two renewals: an owner may be paused for less than that.
const LONGEST_PAUSE: u64 = 4_500;

/// Causes an outage every few seconds until `stop` is set.
pub(crate) fn cause(
    redis: Arc<Redis>,
    network: Arc<Network>,
    servers: Arc<Servers>,
    mut random: Random,
    stop: Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let calm = Duration::from_secs(LEASE + 4);
        while !stop.load(SeqCst) {
            let quiet = network.quiet();
            thread::sleep(Duration::from_secs(2));
            match random.below(6) {
                // Redis hangs, for up to twice the lease.
                0 | 1 => {
                    signal("STOP", redis.pid());
                    thread::sleep(Duration::from_millis(LEASE * 1000 + random.below(LEASE * 1000)));
                    signal("CONT", redis.pid());
                }
                // An owner hangs.
                2 | 3 => servers
                    .pause(random.index(SERVERS), Duration::from_millis(1000 + random.below(LONGEST_PAUSE - 1000))),
                // Idle connections are closed.
                4 => redis.close_connections(),
                // Redis forgets everything.
                _ => redis.flush(),
            }
            thread::sleep(calm);
            drop(quiet);
            thread::sleep(Duration::from_millis(random.below(4000)));
        }
    })
}

/// Sends a signal to a process.
pub(crate) fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
}
