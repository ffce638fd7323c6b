//! Slots of a cluster that move to another primary.

use std::{collections::BTreeSet, time::Instant};

use super::{
    Load, are_replayed, completed,
    load::{answered_since, none_is_refused_since},
};
use crate::{
    common::{Reply, RunLog, Server, fresh_key},
    store::redis::cluster::Cluster,
};

/// An operation that ran, and the name of its record.
struct Ran {
    key: String,
    reply: Reply,
    name: String,
}

fn run(cluster: &Cluster, server: &Server, n: usize) -> Vec<Ran> {
    let mut known = BTreeSet::new();
    let ran = (0..n).map(|_| {
        let key = fresh_key();
        let reply = server.post("/items", &key);
        assert_eq!(reply.status, 201, "{reply:?}");
        let name = cluster.names().into_iter().map(|(_, name)| name).find(|name| known.insert(name.clone()));
        Ran { key, reply, name: name.expect("a new record") }
    });
    ran.collect()
}

fn next(primary: usize) -> usize {
    (primary + 1) % 3
}

#[test]
fn records_of_a_half_moved_slot_are_found_where_they_are() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[]));
    // Each server knows the slots before they move.
    completed(&servers[1], 20);
    cluster.nodes.iter().filter(|node| node.info("replication", "role") == "master").for_each(|node| {
        node.ask::<()>(&redis::cmd("FLUSHDB")).unwrap();
    });
    // Two records may have one slot by chance.
    let mut slots = BTreeSet::new();
    let ran = run(&cluster, &servers[0], 16).into_iter().filter(|ran| slots.insert(cluster.slot_of(&ran.name)));
    let ran: Vec<Ran> = ran.take(12).collect();
    let runs = log.count("start");
    let moves: Vec<(usize, usize)> = ran
        .iter()
        .map(|ran| {
            let primary = cluster.primary_of(&ran.name);
            (cluster.slot_of(&ran.name), next(primary))
        })
        .collect();
    // A third of the records stays, a third has moved, and a third is new: its old record is forgotten.
    for (n, (ran, (slot, to))) in ran.iter().zip(&moves).enumerate() {
        if n % 3 == 2 {
            let primary = &cluster.nodes[cluster.primary_of(&ran.name)];
            primary.ask::<()>(redis::cmd("DEL").arg(&ran.name)).unwrap();
        }
        cluster.begin_move(*slot, *to);
        if n % 3 == 1 {
            cluster.move_records(*slot, *to);
        }
    }
    cluster.flush_scripts();
    let mut answers = Vec::new();
    for (n, Ran { key, reply, .. }) in ran.into_iter().enumerate() {
        let again = servers[1].post("/items", &key);
        assert_eq!(
            (again.status, again.is_replay()),
            (if n % 3 == 2 { 201 } else { 409 }, n % 3 != 2),
            "{n}: {again:?}"
        );
        if n % 3 != 2 {
            assert_eq!(again.body, reply.body);
        }
        answers.push((key, if n % 3 == 2 { again } else { reply }));
    }
    are_replayed(&servers[0], &answers);
    for (slot, to) in moves {
        cluster.end_move(slot, to);
    }
    are_replayed(&servers[0], &answers);
    are_replayed(&servers[1], &answers);
    assert_eq!(log.count("start"), runs + 4);
}

#[test]
fn while_slots_move_no_request_is_refused_and_nothing_is_lost() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[]));
    let start = Instant::now();
    let answers = completed(&servers[0], 30);
    let names: Vec<String> = cluster.names().into_iter().map(|(_, name)| name).collect();
    let load = Load::start(&servers, &log);
    for name in &names {
        let (slot, primary) = (cluster.slot_of(name), cluster.primary_of(name));
        cluster.move_slot(slot, next(primary));
    }
    // Slots without records, of which the load takes some.
    for slot in (0..16_384).step_by(400) {
        let primary = cluster.owner_of(slot).unwrap();
        cluster.move_slot(slot, next(primary));
    }
    load.wait_for(60);
    let samples = load.end();
    none_is_refused_since(&samples, start);
    are_replayed(&servers[1], &answers);
    are_replayed(&servers[1], &answered_since(samples, start));
}
