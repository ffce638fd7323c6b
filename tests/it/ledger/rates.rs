//! `limits.fresh_per_principal` over a ledger: a row is replayed, and only a first run is refused.

use actix_idempotency::{Principal, testing::LedgerCall};

use super::common::{World, ask, ask_for_another, by_itself, by_tx, serve};
use crate::common::in_process::alone;

const PATH: &str = "/tx?status=201";

#[test]
fn a_row_is_replayed_and_a_first_run_beyond_the_rate_is_refused_and_leaves_its_key_free() {
    alone(|| async {
        let world = World::with(|settings| settings.limits.fresh_per_principal = "2/h".parse().ok());
        let wrap = world.wrap().principal(|_| Some(Principal::new("alice")));
        let app = serve!(world, wrap, "/tx" => by_tx, "/none" => by_itself);
        for key in ["k0", "k1"] {
            ask(&*app, PATH, key).await.is(201, &format!("run {}", world.counts.runs()));
        }
        for _ in 0..3 {
            let refused = ask(&*app, PATH, "k2").await;
            assert_eq!(refused.status, 429, "{refused:?}");
            assert!(refused.text.contains("too-many-keys"), "{refused:?}");
            assert_eq!(ask_for_another(&*app, PATH, "k2").await.status, 429, "nothing is at its key");
            ask(&*app, PATH, "k0").await.is_replay(201, "run 1");
            ask_for_another(&*app, PATH, "k1").await.is_problem(422, "key-reused");
        }
        world.has(2, 2);
        assert_eq!(world.faults.open(), 0);
        assert_eq!(world.faults.calls(LedgerCall::Settle), 0, "no owner was lost");
    });
}
