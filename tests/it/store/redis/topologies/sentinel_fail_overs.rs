//! A primary behind sentinels that is replaced, killed, or frozen until it comes back.

use std::time::Instant;

use super::{
    Load, RECOVERY, SlowRuns, are_replayed, are_replayed_later, completed,
    load::{answered_since, none_is_refused_since},
};
use crate::{common::RunLog, store::redis::sentinel::Sentinels};

/// Waits until the service must be back.
fn recovers(load: &Load) -> Instant {
    let back = Instant::now() + RECOVERY;
    load.wait_for_since(back, 60);
    back
}

/// The old primary takes writes for about ten seconds after the fail-over, until a sentinel makes it a replica. They are
/// lost then. The service must have left it long before.
#[test]
fn after_a_fail_over_by_sentinels_the_old_primary_gets_no_writes() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[]));
    let answers = completed(&servers[0], 20);
    // The owner ends after the fail-over, and long before the old primary is a replica.
    let slow = SlowRuns::begin(&servers[0], &log, 6000);
    sentinels.has_all(1);
    let load = Load::start(&servers, &log);
    let old = sentinels.primary_port();
    sentinels.fail_over();
    slow.do_not_run_at(&servers[1]);
    let back = recovers(&load);
    let samples = load.end();
    none_is_refused_since(&samples, back);
    are_replayed(&servers[1], &answers);
    slow.end_and_are_replayed_by(&servers[1]);
    let later = answered_since(samples, back);
    are_replayed(&servers[1], &later);
    sentinels.is_replica(sentinels.index_of(old));
    // Clients of the old primary are sent away when it becomes a replica.
    are_replayed_later(&servers[0], &answers);
    are_replayed_later(&servers[1], &later);
    completed(&servers[0], 20);
}

#[test]
fn after_the_kill_of_the_primary_keys_work_as_soon_as_it_is_replaced() {
    let (mut sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[]));
    let answers = completed(&servers[0], 20);
    let slow = SlowRuns::begin(&servers[0], &log, 8000);
    sentinels.has_all(1);
    let load = Load::start(&servers, &log);
    let old = sentinels.primary_port();
    sentinels.kill_primary();
    slow.do_not_run_at(&servers[1]);
    sentinels.wait_for_another_than(old);
    let back = recovers(&load);
    let samples = load.end();
    none_is_refused_since(&samples, back);
    are_replayed(&servers[1], &answers);
    slow.end_and_are_replayed_by(&servers[1]);
    are_replayed(&servers[1], &answered_since(samples, back));
}

#[test]
fn a_frozen_primary_that_comes_back_as_a_replica_does_not_hold_keys_up() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[]));
    let load = Load::start(&servers, &log);
    let old = sentinels.primary_port();
    let frozen = sentinels.freeze_primary();
    sentinels.wait_for_another_than(old);
    let replaced = recovers(&load);
    sentinels.thaw_primary(frozen);
    sentinels.is_replica(frozen);
    let back = recovers(&load);
    let samples = load.end();
    // The old primary is awake, and says for some time that it is one.
    none_is_refused_since(&samples, replaced);
    assert!(samples.iter().any(|sample| sample.sent > back));
    are_replayed(&servers[1], &answered_since(samples, replaced));
}

#[test]
fn a_fail_over_while_nobody_asks_is_not_noticed_later() {
    let (mut sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "2")]));
    let answers = completed(&servers[0], 10);
    are_replayed(&servers[1], &answers);
    sentinels.has_all(1);
    let old = sentinels.primary_port();
    sentinels.kill_primary();
    sentinels.wait_for_another_than(old);
    // The time in which the service must see the fail-over, whether it is asked or not.
    std::thread::sleep(RECOVERY);
    are_replayed(&servers[0], &answers);
    are_replayed(&servers[1], &answers);
    completed(&servers[1], 10);
}

/// A primary that wakes up takes writes for about ten seconds more, until a sentinel makes it a replica. An idle process
/// has a connection to it on which nothing ever failed.
#[test]
fn an_idle_process_does_not_write_to_a_primary_that_was_replaced_while_it_was_frozen() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "2")]));
    for server in &servers {
        completed(server, 12);
    }
    let old = sentinels.primary_port();
    let frozen = sentinels.freeze_primary();
    sentinels.wait_for_another_than(old);
    // The time in which the service must see the fail-over, whether it is asked or not.
    std::thread::sleep(RECOVERY);
    sentinels.thaw_primary(frozen);
    let answers = completed(&servers[0], 12);
    sentinels.is_replica(frozen);
    are_replayed_later(&servers[1], &answers);
    assert_eq!(log.count("start"), 36);
}

/// Until the old primary has become its replica, the new primary has none, and refuses what must be on two servers.
#[test]
fn with_a_replica_for_each_claim_a_fail_over_by_sentinels_loses_nothing() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__REPLICAS", "1")]));
    let load = Load::start(&servers, &log);
    let (start, old) = (Instant::now(), sentinels.primary_port());
    sentinels.fail_over();
    sentinels.is_replica(sentinels.index_of(old));
    let back = recovers(&load);
    let samples = load.end();
    none_is_refused_since(&samples, back);
    let (before, after): (Vec<_>, Vec<_>) = samples.into_iter().partition(|sample| sample.sent < back);
    are_replayed_later(&servers[1], &answered_since(before, start));
    are_replayed(&servers[1], &answered_since(after, back));
}
