//! The suites that every store must pass.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use crate::common::fresh_key;
use actix_idempotency::{
    store::{Clock, Durability, SqliteOptions, SqliteStore},
    testing::model::compare_with_model,
};

/// A folder for files of stores, which is removed with the test.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("sqlite-{}", fresh_key()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(super) fn new_file(&self) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.0.join(format!("{}.db", NEXT.fetch_add(1, SeqCst)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options(folder: &Folder) -> SqliteOptions {
    let mut options = SqliteOptions::new(folder.new_file());
    options.durability = Durability::Process;
    options
}

#[actix_web::test]
async fn the_sqlite_store_is_acceptable() {
    let folder = Folder::new();
    actix_idempotency::testing::accept_store(async || {
        let clock = Clock::steered();
        let store = SqliteStore::with_clock(&options(&folder), clock.clone()).unwrap();
        (store, move |by| clock.advance(by))
    })
    .await;
}

#[test]
fn the_sqlite_store_does_what_the_model_does() {
    let folder = Folder::new();
    compare_with_model(200, async || {
        let clock = Clock::steered();
        let store = SqliteStore::with_clock(&options(&folder), clock.clone()).unwrap();
        (store, move |by| clock.advance(by))
    });
}
