//! Whoever reads a store finds no key, no principal, no body and no result of a step.

use actix_idempotency::{
    Idempotency, Storage,
    store::{Begin, BeginRequest, Clock, MemoryLimits, MemoryStore, OwnerToken, Store as _, StoreError},
    testing::{accept_store, sealed_store},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};

use super::common::{Shared, has_a_secret, has_no_secret, keys, leave_traces, process, settings, with_index};
use actix_idempotency::settings::{Encryption, SealingAlgorithm};

/// Everything that the memory store has.
async fn dump(store: &Shared) -> Vec<u8> {
    let mut dump = Vec::new();
    for seen in store.0.list(None, 100).await.unwrap() {
        let mut request = BeginRequest::new(seen.id, seen.fingerprint.unwrap(), OwnerToken::random());
        request.keep = Duration::from_secs(60);
        dump.extend(format!("{seen:?} {} {}", seen.id, seen.fingerprint.unwrap()).into_bytes());
        dump.extend_from_slice(seen.principal.unwrap().as_bytes());
        dump.extend(seen.record.map(|record| record.to_bytes().to_vec()).unwrap_or_default());
        if let Begin::Acquired(acquired) = store.0.begin(&request).await.unwrap() {
            dump.extend(acquired.steps.iter().flat_map(|step| step.result.clone().unwrap_or_default()));
        }
    }
    dump
}

#[actix_web::test]
async fn the_memory_store() {
    let plain = Shared::default();
    leave_traces(&process(&plain, Encryption::default())).await;
    has_a_secret("a plain memory store", &dump(&plain).await);
    for encryption in [keys(&[(1, 1)]), with_index(keys(&[(1, 1)]), 9)] {
        let store = Shared::default();
        leave_traces(&process(&store, encryption)).await;
        has_no_secret("the memory store", &dump(&store).await);
    }
}

/// A storage of key and value, composed with a lock.
#[derive(Clone, Default)]
pub(super) struct Map(pub(super) Arc<Mutex<HashMap<String, Bytes>>>);

impl Storage for Map {
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.lock().get(name).cloned())
    }

    async fn put(&self, name: &str, value: Bytes, _: Duration) -> Result<(), StoreError> {
        self.0.lock().insert(name.into(), value);
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.0.lock().remove(name).is_some())
    }
}

#[actix_web::test]
async fn a_storage_of_ones_own() {
    for (encryption, is_plain) in [(Encryption::default(), true), (with_index(keys(&[(1, 1)]), 9), false)] {
        let map = Map::default();
        let mut settings = settings(encryption);
        settings.storage.class = "map".into();
        let idempotency = Idempotency::builder().settings(settings).storage("map", map.clone()).build().unwrap();
        let runs = super::common::runs();
        let app = super::common::service(&idempotency, &runs).await;
        for is_replay in [false, true] {
            let answer = super::common::ask(&app, "/pay", super::common::KEY).await;
            assert_eq!(answer, (201, super::common::BODY.into(), is_replay));
        }
        let dump: Vec<u8> = map.0.lock().iter().flat_map(|(name, value)| [name.as_bytes(), value].concat()).collect();
        if is_plain {
            has_a_secret("a plain storage", &dump);
        } else {
            has_no_secret("the storage", &dump);
        }
    }
}

#[cfg(feature = "sqlite")]
#[actix_web::test]
async fn the_files_of_sqlite() {
    for (encryption, is_plain) in [(Encryption::default(), true), (keys(&[(1, 1)]), false)] {
        let folder = crate::store::sqlite::fixture::Folder::new();
        let file = folder.new_file();
        let mut settings = settings(encryption);
        settings.storage.class = "sqlite".into();
        settings.storage.location = file.to_str().unwrap().into();
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        idempotency.check().await.unwrap();
        leave_traces(&idempotency).await;
        let files = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let dump: Vec<u8> = files.flat_map(|file| std::fs::read(file).unwrap_or_default()).collect();
        if is_plain {
            has_a_secret("a plain file", &dump);
        } else {
            has_no_secret("the files", &dump);
        }
    }
}

#[cfg(feature = "redis")]
#[actix_web::test]
async fn redis() {
    for (encryption, is_plain) in [(Encryption::default(), true), (with_index(keys(&[(1, 1)]), 9), false)] {
        let redis = crate::store::redis::fixture::Redis::start();
        let mut settings = settings(encryption);
        settings.storage.class = "redis".into();
        settings.storage.location = redis.url().into();
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        idempotency.check().await.unwrap();
        leave_traces(&idempotency).await;
        let mut connection = redis.connect();
        let mut dump = Vec::new();
        for name in redis.names() {
            let fields: HashMap<Vec<u8>, Vec<u8>> =
                redis::cmd("HGETALL").arg(&name).query(&mut connection).unwrap_or_default();
            dump.extend(name.into_bytes());
            dump.extend(fields.into_iter().flat_map(|(name, value)| [name, value].concat()));
        }
        if is_plain {
            has_a_secret("a plain Redis", &dump);
        } else {
            has_no_secret("Redis", &dump);
        }
    }
}

#[actix_web::test]
async fn a_sealed_store_follows_the_rules_of_every_store() {
    let mut without_aes = keys(&[(1, 1)]);
    without_aes.algorithm = SealingAlgorithm::XChaCha20Poly1305;
    for encryption in [keys(&[(1, 1)]), without_aes, with_index(keys(&[(2, 2), (1, 1)]), 9)] {
        accept_store(async || {
            let clock = Clock::steered();
            let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
            (sealed_store(store, &encryption).unwrap(), move |by| clock.advance(by))
        })
        .await;
    }
}
