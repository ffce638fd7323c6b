//! The suites that every store must pass, and a comparison of the Redis scripts with the life cycle. Time is steered by
//! moving every expiry in Redis.

use std::{cell::RefCell, time::Duration};

use actix_idempotency::{
    store::{Clock, Inspection, MemoryLimits, MemoryStore, Moment, OwnerToken, RecordState, RedisStore, Store as _},
    testing::model::{Subject, events, play},
};
use proptest::{prelude::ProptestConfig, prop_assert_eq, test_runner::TestRunner};

use super::{fixture::Redis, store::store};

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

fn advance(connection: &mut redis::Connection, by: Duration) {
    let millis = u64::try_from(by.as_millis()).unwrap();
    redis::cmd("EVAL").arg(ADVANCE).arg(0).arg(millis).exec(connection).unwrap();
}

/// The clock of Redis can't be moved, so the moments that it gave are moved instead.
fn subject<'a>(store: &'a RedisStore, advance: &'a mut dyn FnMut(Duration)) -> Subject<'a> {
    Subject::new(store, 0, advance)
        .shifting_moments(|moment, by| Moment::new(moment.get() - u64::try_from(by.as_millis()).unwrap()))
}

#[actix_web::test]
async fn the_redis_store_is_acceptable() {
    let redis = Redis::start();
    let accepted = actix_idempotency::testing::accept_store(async || {
        redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
        let connection = RefCell::new(redis.connect());
        (store(&redis), move |by| advance(&mut connection.borrow_mut(), by))
    });
    Box::pin(accepted)
    .await;
}

#[test]
fn the_redis_store_does_what_the_model_does() {
    let redis = Redis::start();
    let runtime = actix_web::rt::System::new();
    let store = store(&redis);
    let connection = RefCell::new(redis.connect());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(400));
    let played = runner.run(&events(), |events| {
        redis::cmd("FLUSHALL").exec(&mut *connection.borrow_mut()).unwrap();
        let mut advance = |by| advance(&mut connection.borrow_mut(), by);
        runtime.block_on(play(subject(&store, &mut advance), &events))
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

/// The scripts are a second implementation of the life cycle. Answers must be equal, and so must what operators see.
#[test]
fn the_scripts_do_what_the_life_cycle_does() {
    let redis = Redis::start();
    let runtime = actix_web::rt::System::new();
    let store = store(&redis);
    let connection = RefCell::new(redis.connect());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(200));
    let played = runner.run(&events(), |events| {
        redis::cmd("FLUSHALL").exec(&mut *connection.borrow_mut()).unwrap();
        let mut advance_redis = |by| advance(&mut connection.borrow_mut(), by);
        let clock = Clock::steered();
        let life_cycle = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        let mut advance_life_cycle = |by| clock.advance(by);
        runtime.block_on(async {
            let mut scripts = subject(&store, &mut advance_redis);
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
        })
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

/// The parts of an inspection that do not depend on the time.
fn seen(inspection: Option<Inspection>) -> Option<(RecordState, u32, Option<OwnerToken>, Option<u64>)> {
    inspection.map(|seen| (seen.state, seen.attempt, seen.owner, seen.replays))
}
