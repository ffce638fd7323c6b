//! A cluster without faults, and how a server starts on one.

use std::collections::BTreeSet;

use super::{are_replayed, completed, of_five_at_once_one_runs, operators_see_all_records};
use crate::{
    common::{RunLog, Server},
    store::redis::cluster::Cluster,
};

/// Duplicates wait for the first request.
const PATIENT: (&str, &str) = ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10");

#[test]
fn keys_are_spread_over_all_primaries_and_shared_by_all_processes() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[PATIENT]));
    let answers = completed(&servers[0], 40);
    are_replayed(&servers[1], &answers);
    are_replayed(&servers[0], &answers);
    let names = cluster.names();
    assert_eq!(names.len(), 40);
    let primaries: BTreeSet<usize> = names.iter().map(|(primary, _)| *primary).collect();
    assert_eq!(primaries, BTreeSet::from([0, 1, 2]));
    assert_eq!(log.count("start"), 40);
    for _ in 0..6 {
        of_five_at_once_one_runs(&servers, &log);
    }
}

#[test]
fn scripts_that_a_cluster_has_forgotten_are_sent_again() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    let servers = [0, 1].map(|_| cluster.server(&log, &[]));
    let mut answers = completed(&servers[0], 20);
    cluster.flush_scripts();
    are_replayed(&servers[1], &answers);
    cluster.flush_scripts();
    answers.extend(completed(&servers[0], 20));
    are_replayed(&servers[1], &answers);
    assert_eq!(log.count("start"), 40);
}

#[test]
fn operators_see_the_records_of_all_primaries() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    operators_see_all_records(&[0, 1].map(|_| cluster.server(&log, &[])));
}

#[test]
fn one_node_of_a_location_is_enough_to_find_the_others() {
    let (cluster, log) = (Cluster::start(), RunLog::new());
    // The first one refuses connections, and the second one is a replica.
    let nobody = crate::store::redis::fixture::free_port();
    let url = format!("redis-cluster://127.0.0.1:{nobody},127.0.0.1:{}", cluster.nodes[4].port);
    let server = cluster.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__LOCATION", &url)]);
    let answers = completed(&server, 20);
    are_replayed(&server, &answers);
}

/// The error with which a server does not start.
fn start_error(location: &str, more: &[(&str, &str)]) -> String {
    let mut variables =
        vec![("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"), ("IDEMPOTENCY_KEY__STORAGE__LOCATION", location)];
    variables.extend(more);
    let output = Server::fails_to_start(&variables);
    assert!(!output.status.success() && output.stdout.is_empty(), "{location}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_cluster_has_no_databases() {
    // Refused before anything is connected to.
    for database in ["/3", "?db=3", "/?db=3"] {
        let text = start_error(&format!("redis-cluster://127.0.0.1:1,127.0.0.1:2{database}"), &[]);
        assert!(text.contains("database"), "{text}");
    }
}

#[test]
fn an_evicting_node_of_a_cluster_is_refused_with_the_danger_named() {
    let cluster = Cluster::start();
    let mut evict = redis::cmd("CONFIG");
    evict.arg(&["SET", "maxmemory-policy", "allkeys-lru"]);
    cluster.nodes[2].ask::<()>(&evict).unwrap();
    let text = start_error(&cluster.url(), &[]);
    assert!(text.contains("maxmemory-policy") && text.contains("allkeys-lru"), "{text}");
}

#[test]
fn a_cluster_that_is_not_one_is_refused() {
    let redis = crate::store::redis::fixture::Redis::start();
    let text = start_error(&format!("redis-cluster://127.0.0.1:{}", redis.port), &[]);
    assert!(text.contains("this Redis is no cluster") || text.contains("cluster support disabled"), "{text}");
}
