//! Primaries of a cluster that are replaced, killed, or frozen until they come back.

use std::time::Instant;

use super::{
    Load, RECOVERY, SlowRuns, are_replayed, are_replayed_later, completed,
    load::{answered_since, none_is_refused_since},
};
use crate::{
    common::{Request, RunLog, eventually, fresh_key},
    store::redis::cluster::Cluster,
};

/// Waits until a client that asks all nodes sees another primary of the slot, and until the service must be back.
fn recovers(cluster: &Cluster, slot: usize, load: &Load) -> Instant {
    cluster.recovered(slot);
    let back = Instant::now() + RECOVERY;
    load.wait_for_since(back, 60);
    back
}

#[test]
fn a_manual_fail_over_of_all_primaries_loses_nothing() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[]));
    let start = Instant::now();
    let answers = completed(&servers[0], 20);
    let slow = SlowRuns::begin(&servers[0], &log, 8000);
    let load = Load::start(&servers, &log);
    for primary in cluster.primaries() {
        cluster.fail_over(primary);
        slow.do_not_run_at(&servers[1]);
    }
    cluster.settled();
    let back = Instant::now() + RECOVERY;
    load.wait_for_since(back, 60);
    let samples = load.end();
    none_is_refused_since(&samples, back);
    are_replayed(&servers[1], &answers);
    slow.end_and_are_replayed_by(&servers[1]);
    are_replayed_later(&servers[1], &answered_since(samples, start));
}

#[test]
fn after_the_kill_of_a_primary_its_keys_work_as_soon_as_it_is_replaced() {
    let (mut cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[]));
    let load = Load::start(&servers, &log);
    let slot = 0;
    let primary = cluster.owner_of(slot).unwrap();
    cluster.kill(primary);
    let back = recovers(&cluster, slot, &load);
    let samples = load.end();
    none_is_refused_since(&samples, back);
    are_replayed(&servers[1], &answered_since(samples, back));
}

#[test]
fn a_frozen_primary_that_comes_back_as_a_replica_does_not_hold_its_keys_up() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[]));
    let load = Load::start(&servers, &log);
    let slot = 0;
    let primary = cluster.owner_of(slot).unwrap();
    cluster.freeze(primary);
    let replaced = recovers(&cluster, slot, &load);
    cluster.thaw(primary);
    cluster.is_replica(primary);
    let back = recovers(&cluster, slot, &load);
    let samples = load.end();
    // For the time between, it may have taken writes as a primary.
    none_is_refused_since(&samples, back);
    assert!(samples.iter().any(|sample| sample.sent > replaced && sample.reply.status == 201));
    are_replayed(&servers[1], &answered_since(samples, back));
}

/// A connection from before the fail-over must find the new primary while the old one is frozen.
#[test]
fn an_owner_keeps_its_claim_when_the_primary_of_its_record_freezes() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let settings = [("IDEMPOTENCY_KEY__LOCK__LEASE", "1"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")];
    let owner = cluster.server(&log, &settings);
    let request = Request::post("/slow?ms=14000").key(&fresh_key());
    let mut running = owner.begin(&request);
    log.wait_for("start", 1);
    let name = cluster.names().pop().unwrap().1;
    let primary = cluster.primary_of(&name);
    cluster.freeze(primary);
    cluster.recovered(cluster.slot_of(&name));
    let other = cluster.server(&log, &settings);
    // Duplicates ask all the time: one of them would take over.
    let mut again = None;
    eventually("an answer", || {
        let reply = other.send(request.clone());
        let status = reply.status;
        again = Some(reply).filter(|reply| !matches!(reply.status, 423 | 503));
        again.is_some().then_some(()).ok_or(status)
    });
    let (first, again) = (running.reply(), again.unwrap());
    assert!(!first.is_replay() && again.is_replay() && first.body == again.body, "{first:?} {again:?}");
    assert_eq!(log.count("start"), 1);
    cluster.thaw(primary);
}

#[test]
fn a_server_starts_while_a_node_of_its_location_is_dead() {
    let (mut cluster, log) = (Cluster::start(), RunLog::new());
    let slot = 0;
    let primary = cluster.owner_of(slot).unwrap();
    cluster.kill(primary);
    cluster.recovered(slot);
    let server = cluster.server(&log, &[]);
    let answers = completed(&server, 20);
    are_replayed(&server, &answers);
    // It comes back as a replica.
    cluster.run_again(primary);
    cluster.is_replica(primary);
    are_replayed(&server, &answers);
    completed(&server, 20);
}
