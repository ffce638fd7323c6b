//! All recipes with a real PostgreSQL. A second process is a second `Idempotency`, whose claims are in its own memory.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common {
    pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
}
#[allow(dead_code, unused_imports, clippy::unused_self, reason = "the tests of the ledgers use more of it")]
#[path = "../../../../crates/actix-idempotency-sqlx/tests/it/databases/mod.rs"]
mod databases;
mod shop;
mod undecided;

use futures_util::future::{join, join3};

use self::{
    databases::{Commits, Proxy},
    shop::{LIBRARIES, Shop, post},
};

#[actix_web::test]
async fn a_retry_is_replayed_at_every_process_and_rows_are_committed_once() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let (one, two) = (shop.process(1).await, shop.process(1).await);
        let path = format!("/{library}/pay");
        let first = post(&one, &path, "order-17", 100).await;
        first.is_first();
        for process in [&one, &two] {
            post(process, &path, "order-17", 100).await.replays(&first);
            post(process, &path, "order-17", 999).await.is_problem(422, "key-reused");
        }
        post(&two, &path, "order-18", 100).await.is_first();
        assert_eq!((shop.payments().await, shop.rows().await), (2, 2), "{library}");
        shop.has_no_open_transaction().await;
    }
}

#[actix_web::test]
async fn of_two_runs_of_one_key_one_is_committed_and_both_clients_get_its_answer() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let (one, two) = (shop.process(1).await, shop.process(1).await);
        let path = format!("/{library}/pay");
        let gate = shop.gate().await;
        let (first, second, ()) =
            join3(post(&one, &path, "order-17", 100), post(&two, &path, "order-17", 100), async {
                shop.wait_for_handlers_at_the_gate(2).await;
                gate.commit().await.unwrap();
            })
            .await;
        let (first, second) = if second.is_replay { (first, second) } else { (second, first) };
        first.is_first();
        second.replays(&first);
        assert_eq!((shop.payments().await, shop.rows().await), (1, 1), "{library}");
        let id: i64 = sqlx::query_scalar("SELECT id FROM payments").fetch_one(&shop.pool).await.unwrap();
        assert_eq!(first.body, id.to_string(), "{library}");
        post(&one, &path, "order-17", 100).await.replays(&first);
        shop.has_no_open_transaction().await;
    }
}

#[actix_web::test]
async fn an_expired_row_is_replaced_by_one_of_the_runs_that_saw_it() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let (one, two) = (shop.process(1).await, shop.process(1).await);
        let path = format!("/{library}/pay");
        post(&one, &path, "order-17", 100).await.is_first();
        let expire = "UPDATE idempotency_ledger SET expires = clock_timestamp() - interval '1 second'";
        sqlx::raw_sql(expire).execute(&shop.pool).await.unwrap();
        let gate = shop.gate().await;
        let (first, second, ()) =
            join3(post(&one, &path, "order-17", 100), post(&two, &path, "order-17", 100), async {
                shop.wait_for_handlers_at_the_gate(2).await;
                gate.commit().await.unwrap();
            })
            .await;
        let (first, second) = if second.is_replay { (first, second) } else { (second, first) };
        first.is_first();
        second.replays(&first);
        assert_eq!((shop.payments().await, shop.rows().await), (2, 1), "{library}");
        post(&two, &path, "order-17", 100).await.replays(&first);
    }
}

#[actix_web::test]
async fn a_success_that_was_rolled_back_is_not_recorded_and_its_key_is_free() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let process = shop.process(1).await;
        for _ in 0..2 {
            let refused = post(&process, &format!("/{library}/undecided/201"), "order-17", 100).await;
            refused.is_problem(500, "not-recorded");
        }
        assert_eq!((shop.payments().await, shop.rows().await), (0, 0), "{library}");
        post(&process, &format!("/{library}/pay"), "order-17", 100).await.is_first();
        shop.has_no_open_transaction().await;
    }
}

#[actix_web::test]
async fn a_commit_that_fails_is_not_recorded_and_its_retry_runs() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let process = shop.process(1).await;
        let path = format!("/{library}/pay");
        post(&process, &path, "order-17", 2000).await.is_problem(500, "not-recorded");
        assert_eq!((shop.payments().await, shop.rows().await), (0, 0), "{library}");
        sqlx::raw_sql("INSERT INTO limits VALUES (2000)").execute(&shop.pool).await.unwrap();
        post(&process, &path, "order-17", 2000).await.is_first();
        assert_eq!((shop.payments().await, shop.rows().await), (1, 1), "{library}");
        shop.has_no_open_transaction().await;
    }
}

#[actix_web::test]
async fn a_statement_that_fails_rolls_back_and_its_key_is_free() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let process = shop.process(1).await;
        let path = format!("/{library}/pay");
        post(&process, &path, "order-17", 0).await.is_problem(500, "transaction-failed");
        shop.has_no_open_transaction().await;
        post(&process, &path, "order-17", 100).await.is_first();
        assert_eq!((shop.payments().await, shop.rows().await), (1, 1), "{library}");
    }
}

/// The profile stores 402 and does not store 403.
#[actix_web::test]
async fn a_failure_is_recorded_if_its_status_is_although_its_entry_was_rolled_back() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let (one, two) = (shop.process(1).await, shop.process(1).await);
        let path = format!("/{library}/undecided/402");
        let first = post(&one, &path, "order-17", 100).await;
        assert_eq!((first.status, first.is_replay, &*first.body), (402, false, "undecided"));
        post(&two, &path, "order-17", 100).await.replays(&first);
        let path = format!("/{library}/undecided/403");
        for _ in 0..2 {
            let answer = post(&one, &path, "order-18", 100).await;
            assert_eq!((answer.status, answer.is_replay), (403, false));
        }
        assert_eq!((shop.payments().await, shop.rows().await), (0, 1), "{library}");
        shop.has_no_open_transaction().await;
    }
}

#[actix_web::test]
async fn without_a_free_connection_a_request_is_refused_and_its_retry_runs() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let process = shop.process(1).await;
        let path = format!("/{library}/pay");
        let gate = shop.gate().await;
        let (first, refused) = join(post(&process, &path, "order-17", 100), async {
            shop.wait_for_handlers_at_the_gate(1).await;
            let refused = post(&process, &path, "order-18", 100).await;
            gate.commit().await.unwrap();
            refused
        })
        .await;
        first.is_first();
        refused.is_problem(503, "store-unavailable");
        post(&process, &path, "order-18", 100).await.is_first();
        assert_eq!((shop.payments().await, shop.rows().await), (2, 2), "{library}");
    }
}

#[actix_web::test]
async fn a_commit_whose_answer_was_lost_is_found_and_answered() {
    for library in LIBRARIES {
        let Some(shop) = Shop::open().await else { return };
        let proxy = Proxy::start(shop.port);
        let url = proxy.through(&shop.url);
        let process = shop.process_at(&url, 1).await;
        let path = format!("/{library}/pay");
        proxy.commits(Commits::LoseAnswer);
        let first = post(&process, &path, "order-17", 100).await;
        first.is_first();
        assert_eq!((proxy.lost(), shop.payments().await, shop.rows().await), (1, 1, 1), "{library}");
        proxy.commits(Commits::Lose);
        post(&process, &path, "order-18", 100).await.is_problem(500, "not-recorded");
        assert_eq!((proxy.lost(), shop.payments().await, shop.rows().await), (2, 1, 1), "{library}");
        proxy.commits(Commits::Pass);
        post(&process, &path, "order-17", 100).await.replays(&first);
        post(&process, &path, "order-18", 100).await.is_first();
        assert_eq!((shop.payments().await, shop.rows().await), (2, 2), "{library}");
    }
}
