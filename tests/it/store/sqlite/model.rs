//! The suites that every store must pass.

use actix_idempotency::{
    store::{Clock, SqliteStore},
    testing::model::compare_with_model,
};

use super::fixture::{Folder, options};

#[actix_web::test]
async fn the_sqlite_store_is_acceptable() {
    let folder = Folder::new();
    actix_idempotency::testing::accept_store(async || {
        let clock = Clock::steered();
        let store = SqliteStore::with_clock(&options(folder.new_file()), clock.clone()).unwrap();
        (store, move |by| clock.advance(by))
    })
    .await;
}

#[test]
fn the_sqlite_store_does_what_the_model_does() {
    let folder = Folder::new();
    compare_with_model(200, async || {
        let clock = Clock::steered();
        let store = SqliteStore::with_clock(&options(folder.new_file()), clock.clone()).unwrap();
        (store, move |by| clock.advance(by))
    });
}
