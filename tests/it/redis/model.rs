//! The same random sequences as for the memory store. Time is steered by moving all ends in Redis.

use std::time::Duration;

use proptest::{prelude::ProptestConfig, test_runner::TestRunner};

use super::{fixture::Redis, store::store};
use crate::model::{Subject, play, steps};

/// Brings every end nearer; what is over then is gone.
const ADVANCE: &str = "
for _, name in ipairs(redis.call('KEYS', '*')) do
  for _, field in ipairs({'l', 'e'}) do
    local ends = redis.call('HGET', name, field)
    if ends then redis.call('HSET', name, field, string.format('%.0f', ends - ARGV[1])) end
  end
  local left = redis.call('PTTL', name) - ARGV[1]
  if left <= 0 then redis.call('DEL', name) else redis.call('PEXPIRE', name, string.format('%.0f', left)) end
end";

/// The suite that every store must pass.
#[cfg(feature = "testing")]
#[actix_web::test]
async fn the_redis_store_is_acceptable() {
    let redis = Redis::start();
    actix_idempotency::testing::accept_store(async || {
        redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
        let connection = std::cell::RefCell::new(redis.connect());
        let advance = move |by: Duration| {
            let millis = u64::try_from(by.as_millis()).unwrap();
            redis::cmd("EVAL").arg(ADVANCE).arg(0).arg(millis).exec(&mut *connection.borrow_mut()).unwrap();
        };
        (store(&redis), advance)
    })
    .await;
}

#[test]
fn the_redis_store_does_what_the_model_does() {
    let redis = Redis::start();
    let runtime = actix_web::rt::System::new();
    let store = store(&redis);
    let mut connection = redis.connect();
    let salt = std::cell::Cell::new(0_u32);
    let connection = std::cell::RefCell::new(&mut connection);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(400));
    let played = runner.run(&steps(), |steps| {
        salt.set(salt.get() + 1);
        redis::cmd("FLUSHALL").exec(*connection.borrow_mut()).unwrap();
        let mut advance = |by: Duration| {
            let millis = u64::try_from(by.as_millis()).unwrap();
            redis::cmd("EVAL").arg(ADVANCE).arg(0).arg(millis).exec(*connection.borrow_mut()).unwrap();
        };
        runtime.block_on(play(Subject::new(&store, salt.get(), &mut advance), &steps))
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}
