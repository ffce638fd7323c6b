//! `storage.replicas`: a claim or a response counts when a replica has it, too.

use std::time::{Duration, Instant};

use super::{LIMIT, are_replayed, completed, is_replay_or_wait};
use crate::{
    common::{Request, RunLog, Server, at_once, eventually, fresh_key},
    store::redis::{cluster::Cluster, fixture::Redis, sentinel::Sentinels},
};

/// Half of the time is for the replica. The machine may be busy.
const REPLICAS: [(&str, &str); 2] =
    [("IDEMPOTENCY_KEY__STORAGE__REPLICAS", "1"), ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "2")];

/// A claim that nobody releases would last for 30 seconds.
const SOON: Duration = Duration::from_secs(10);

struct Pair {
    primary: Redis,
    replica: Redis,
}

impl Pair {
    fn start() -> Self {
        let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
        let this = Self { primary, replica };
        this.is_linked();
        this
    }

    fn is_linked(&self) {
        // A primary counts a replica from its first acknowledgement on, up to a second after the link is up.
        let mut connection = self.primary.connect();
        eventually("a replica that acknowledges", || {
            let replica = self.primary.info("replication", "slave0");
            // Without it there is nothing to acknowledge.
            if !replica.contains("state=online") {
                return Err(replica);
            }
            redis::cmd("SET").arg("acknowledged").arg(1).exec(&mut connection).map_err(|error| error.to_string())?;
            let replicas: u32 =
                redis::cmd("WAIT").arg(1).arg(200).query(&mut connection).map_err(|error| error.to_string())?;
            if replicas == 1 { Ok(()) } else { Err("none".to_owned()) }
        });
        redis::cmd("DEL").arg("acknowledged").exec(&mut connection).expect("it is up");
    }
}

/// Three ways to have a primary and its replica.
trait Place {
    fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server;
    fn replicas(&self) -> Vec<&Redis>;
}

impl Place for Pair {
    fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        self.primary.server(log, more)
    }
    fn replicas(&self) -> Vec<&Redis> {
        vec![&self.replica]
    }
}

impl Place for Sentinels {
    fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        self.server(log, more)
    }
    fn replicas(&self) -> Vec<&Redis> {
        self.servers[1..].iter().collect()
    }
}

impl Place for Cluster {
    fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        self.server(log, more)
    }
    fn replicas(&self) -> Vec<&Redis> {
        self.nodes[3..].iter().collect()
    }
}

/// Requests under these keys are refused in time, and do not run.
fn are_refused(server: &Server, log: &RunLog, keys: &[String]) {
    let runs = log.count("start");
    let start = Instant::now();
    for reply in at_once(keys.len(), |n| server.post("/items", &keys[n])) {
        reply.is_problem(503, "store-unavailable");
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    assert_eq!(log.count("start"), runs, "what is answered 503 has not run");
}

/// Requests under keys that were refused run at once, because the refused claims were released.
fn run_at_once(server: &Server, keys: &[String]) {
    let start = Instant::now();
    for key in keys {
        eventually("a run", || match server.post("/items", key).status {
            201 => Ok(()),
            status => Err(status),
        });
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

fn nothing_runs_without_a_replica(place: &impl Place) {
    let log = RunLog::new();
    let [one, two] = [0, 1].map(|_| place.server(&log, &REPLICAS));
    let answers = completed(&one, 10);
    are_replayed(&two, &answers);
    place.replicas().iter().for_each(|replica| replica.freeze());
    let keys: Vec<String> = (0..8).map(|_| fresh_key()).collect();
    are_refused(&one, &log, &keys);
    are_replayed(&one, &answers);
    are_replayed(&two, &answers);
    // Replays do not wait behind claims that wait for a replica.
    let (key, answer) = &answers[0];
    let keys_of_two: Vec<String> = (0..8).map(|_| fresh_key()).collect();
    let replies = at_once(9, |n| two.post("/items", keys_of_two.get(n).unwrap_or(key)));
    assert!(replies[8].is_replay() && replies[8].body == answer.body, "{:?}", replies[8]);
    place.replicas().iter().for_each(|replica| replica.thaw());
    // The other process finds no claim of the first one, either.
    run_at_once(&two, &keys);
    run_at_once(&one, &keys_of_two);
    assert_eq!(log.count("start"), 10 + 16);
}

#[test]
fn nothing_runs_while_the_replica_of_a_primary_is_frozen() {
    nothing_runs_without_a_replica(&Pair::start());
}

#[test]
fn nothing_runs_while_the_replica_behind_sentinels_is_frozen() {
    nothing_runs_without_a_replica(&Sentinels::start());
}

#[test]
fn nothing_runs_while_the_replicas_of_a_cluster_are_frozen() {
    nothing_runs_without_a_replica(&Cluster::start());
}

#[test]
fn nothing_runs_while_the_replica_is_dead() {
    let (mut pair, log) = (Pair::start(), RunLog::new());
    let server = pair.server(&log, &REPLICAS);
    let answers = completed(&server, 5);
    pair.replica.kill();
    let keys = [fresh_key(), fresh_key()];
    are_refused(&server, &log, &keys);
    are_replayed(&server, &answers);
    pair.replica.run_again();
    pair.is_linked();
    run_at_once(&server, &keys);
}

#[test]
fn a_run_that_loses_the_replica_is_answered_and_replayed_later() {
    let (pair, log) = (Pair::start(), RunLog::new());
    let [owner, other] = [0, 1].map(|_| pair.server(&log, &REPLICAS));
    let request = Request::post("/slow?ms=700").key(&fresh_key());
    let mut running = owner.begin(&request);
    log.wait_for("start", 1);
    pair.replica.freeze();
    let first = running.reply();
    assert_eq!((first.status, first.is_replay()), (200, false), "{first:?}");
    // A response that would be lost with the primary is given to nobody else.
    other.send(request.clone()).is_problem(503, "store-unavailable");
    pair.replica.thaw();
    eventually("a replay", || {
        let again = other.send(request.clone());
        is_replay_or_wait(&again, &first)
    });
    assert_eq!(log.count("start"), 1);
}

/// By a replay, by a service without locks, or by a look-up.
#[test]
fn a_response_that_no_replica_has_is_not_given_after_the_death_of_its_owner() {
    let (mut pair, log) = (Pair::start(), RunLog::new());
    let [mut owner, other] = [0, 1].map(|_| pair.server(&log, &REPLICAS));
    let unlocked = pair.server(&log, &[REPLICAS[0], REPLICAS[1], ("IDEMPOTENCY_KEY__LOCK__ENABLE", "false")]);
    let (key, alice) = (fresh_key(), ("Authorization", "Bearer alice-1"));
    let request = Request::post("/slow?ms=700").key(&key).header(alice.0, alice.1);
    let look = Request::get("/operations").key(&key).header(alice.0, alice.1);
    let ways = [(&other, &request), (&unlocked, &request), (&other, &look)];
    let mut running = owner.begin(&request);
    log.wait_for("start", 1);
    pair.replica.kill();
    let first = running.reply();
    assert_eq!((first.status, first.is_replay()), (200, false), "{first:?}");
    owner.kill();
    for (server, request) in ways {
        server.send(request.clone()).is_problem(503, "store-unavailable");
    }
    let all_give_it = || {
        for (server, request) in ways {
            let again = server.send(request.clone());
            assert!(again.is_replay() && again.body == first.body, "{again:?}");
        }
    };
    // A replica makes the response count, also without the owner. From then on, replicas are not asked for it.
    pair.replica.run_again();
    pair.is_linked();
    all_give_it();
    pair.replica.kill();
    all_give_it();
    assert_eq!(log.count("start"), 1);
}

#[test]
fn without_the_setting_a_frozen_replica_is_not_noticed() {
    let (pair, log) = (Pair::start(), RunLog::new());
    let server = pair.server(&log, &REPLICAS[1..]);
    pair.replica.freeze();
    let answers = completed(&server, 5);
    are_replayed(&server, &answers);
}
