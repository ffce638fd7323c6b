//! The suites that every store must pass, and a comparison of the Redis scripts with the life cycle: on one server, on a
//! cluster, behind sentinels, and with replicas. Time is steered by moving every expiry in Redis.

use std::{cell::RefCell, time::Duration};

use actix_idempotency::{
    store::{
        Clock, Inspection, MemoryLimits, MemoryStore, Moment, OwnerToken, RecordState, RedisOptions, RedisStore,
        Store as _,
    },
    testing::model::{Event, Subject, events, play},
};
use proptest::{
    prelude::ProptestConfig,
    prop_assert_eq,
    test_runner::{TestCaseError, TestRunner},
};

use super::{cluster::Cluster, fixture::Redis, sentinel::Sentinels};

/// Moves every expiry nearer by `ARGV[1]` milliseconds, and removes the records that have expired then.
const ADVANCE: &str = "
for _, name in ipairs(redis.call('KEYS', '*')) do
  for _, field in ipairs({'l', 'e'}) do
    local ends = redis.call('HGET', name, field)
    if ends then redis.call('HSET', name, field, string.format('%.0f', ends - ARGV[1])) end
  end
  local left = redis.call('PTTL', name) - ARGV[1]
  if left <= 0 then redis.call('DEL', name) else redis.call('PEXPIRE', name, string.format('%.0f', left)) end
end";

/// How many random sequences a topology is played. The scripts are the same as on one server.
const FEW: u32 = 20;

/// The servers of one Redis, and how a store reaches them.
struct Place<'a> {
    options: RedisOptions,
    /// Each is the primary of some records.
    primaries: Vec<&'a Redis>,
}

impl<'a> Place<'a> {
    fn new(location: String, primaries: Vec<&'a Redis>) -> Self {
        let mut options = RedisOptions::new(location);
        // The machine may be busy.
        options.timeout = Duration::from_secs(10);
        Self { options, primaries }
    }

    fn of_one(redis: &'a Redis) -> Self {
        Self::new(redis.url(), vec![redis])
    }

    fn of_a_cluster(cluster: &'a Cluster) -> Self {
        Self::new(cluster.url(), cluster.primaries().into_iter().map(|node| &cluster.nodes[node]).collect())
    }

    fn behind_sentinels(sentinels: &'a Sentinels) -> Self {
        Self::new(sentinels.url(), vec![sentinels.primary()])
    }

    fn with_a_replica(mut self) -> Self {
        self.options.replicas = 1;
        self
    }

    fn store(&self) -> RedisStore {
        RedisStore::new(self.options.clone()).unwrap()
    }

    fn time(&self) -> Time {
        Time(RefCell::new(self.primaries.iter().map(|primary| primary.connect()).collect()))
    }
}

/// Connections to all primaries of a place.
struct Time(RefCell<Vec<redis::Connection>>);

impl Time {
    fn at_all(&self, command: &redis::Cmd) {
        self.0.borrow_mut().iter_mut().for_each(|connection| command.exec(connection).unwrap());
    }

    fn forget_all(&self) {
        self.at_all(&redis::cmd("FLUSHALL"));
    }

    fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap();
        self.at_all(redis::cmd("EVAL").arg(ADVANCE).arg(0).arg(millis));
    }
}

/// The clock of Redis can't be moved, so the moments that it gave are moved instead.
fn subject<'a>(store: &'a RedisStore, advance: &'a mut dyn FnMut(Duration)) -> Subject<'a> {
    Subject::new(store, 0, advance)
        .shifting_moments(|moment, by| Moment::new(moment.get() - u64::try_from(by.as_millis()).unwrap()))
}

async fn is_acceptable(place: &Place<'_>) {
    let accepted = actix_idempotency::testing::accept_store(async || {
        let time = place.time();
        time.forget_all();
        (place.store(), move |by| time.advance(by))
    });
    Box::pin(accepted).await;
}

/// Plays random sequences to one store, each with no record at first.
fn plays(
    cases: u32,
    place: &Place<'_>,
    play: impl AsyncFn(&RedisStore, &mut dyn FnMut(Duration), &[Event]) -> Result<(), TestCaseError>,
) {
    let runtime = actix_web::rt::System::new();
    let (store, time) = (place.store(), place.time());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let played = runner.run(&events(), |events| {
        time.forget_all();
        runtime.block_on(play(&store, &mut |by| time.advance(by), &events))
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

fn does_what_the_model_does(cases: u32, place: &Place<'_>) {
    plays(cases, place, async |store, advance, events| play(subject(store, advance), events).await);
}

/// The scripts are a second implementation of the life cycle. Answers must be equal, and so must what operators see.
fn does_what_the_life_cycle_does(cases: u32, place: &Place<'_>) {
    plays(cases, place, async |store, advance, events| {
        let clock = Clock::steered();
        let life_cycle = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        let mut advance_life_cycle = |by| clock.advance(by);
        let mut scripts = subject(store, advance);
        let mut machine = Subject::new(&life_cycle, 0, &mut advance_life_cycle);
        for (n, event) in events.iter().enumerate() {
            let (expected, answered) = (machine.apply(*event).await, scripts.apply(*event).await);
            prop_assert_eq!(
                expected,
                answered,
                "at event {}: {:?}; left: the life cycle, right: the scripts",
                n,
                event
            );
            for id in 0..2 {
                let id = scripts.id(id);
                let expected = seen(life_cycle.inspect(&id).await.unwrap());
                let answered = seen(store.inspect(&id).await.unwrap());
                prop_assert_eq!(expected, answered, "after event {}: {:?}", n, event);
            }
        }
        Ok(())
    });
}

/// The parts of an inspection that do not depend on the time.
fn seen(inspection: Option<Inspection>) -> Option<(RecordState, u32, Option<OwnerToken>, Option<u64>)> {
    inspection.map(|seen| (seen.state, seen.attempt, seen.owner, seen.replays))
}

#[actix_web::test]
async fn the_redis_store_is_acceptable() {
    is_acceptable(&Place::of_one(&Redis::start())).await;
}

#[test]
fn the_redis_store_does_what_the_model_does() {
    does_what_the_model_does(400, &Place::of_one(&Redis::start()));
}

#[test]
fn the_scripts_do_what_the_life_cycle_does() {
    does_what_the_life_cycle_does(200, &Place::of_one(&Redis::start()));
}

#[actix_web::test]
async fn a_store_on_a_cluster_is_acceptable() {
    let cluster = Cluster::start();
    is_acceptable(&Place::of_a_cluster(&cluster)).await;
    is_acceptable(&Place::of_a_cluster(&cluster).with_a_replica()).await;
}

#[test]
fn a_store_on_a_cluster_does_what_the_model_and_the_life_cycle_do() {
    let cluster = Cluster::start();
    for place in [Place::of_a_cluster(&cluster), Place::of_a_cluster(&cluster).with_a_replica()] {
        does_what_the_model_does(FEW, &place);
        does_what_the_life_cycle_does(FEW, &place);
    }
}

#[actix_web::test]
async fn a_store_behind_sentinels_is_acceptable() {
    let sentinels = Sentinels::start();
    is_acceptable(&Place::behind_sentinels(&sentinels)).await;
    is_acceptable(&Place::behind_sentinels(&sentinels).with_a_replica()).await;
}

#[test]
fn a_store_behind_sentinels_does_what_the_model_and_the_life_cycle_do() {
    let sentinels = Sentinels::start();
    for place in [Place::behind_sentinels(&sentinels), Place::behind_sentinels(&sentinels).with_a_replica()] {
        does_what_the_model_does(FEW, &place);
        does_what_the_life_cycle_does(FEW, &place);
    }
}
