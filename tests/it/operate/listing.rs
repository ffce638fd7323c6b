//! Listings of many records.

use std::{cell::Cell, rc::Rc};

use actix_idempotency::{
    Idempotency, Settings,
    key::{Fingerprint, RecordId},
    record::Record,
    store::{Begin, BeginRequest, MemoryStore, OwnerToken, Store as _},
};
use actix_web::{
    App,
    http::StatusCode,
    rt,
    test::{TestRequest, init_service},
    web,
};
use futures_util::FutureExt as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::common::{
    Request, RunLog, Server, fresh_key,
    in_process::{alone, send},
};

const RECORDS: usize = 20_000;

fn full_store() -> MemoryStore {
    let store = MemoryStore::default();
    let record = Record::new(StatusCode::CREATED, [], Some(b"done"));
    for n in 0..RECORDS {
        let id = RecordId::from_bytes(Sha256::digest(n.to_le_bytes()).into());
        let ask = BeginRequest::new(id, Fingerprint::from_bytes([1; 42]), OwnerToken::random());
        let Some(Ok(Begin::Acquired(acquired))) = store.begin(&ask).now_or_never() else { panic!("{n}") };
        let ttl = std::time::Duration::from_secs(3600);
        store.complete(&acquired.claim, &record, ttl).now_or_never().unwrap().unwrap();
    }
    store
}

/// Once, such a listing kept its worker from everything else for seconds.
#[test]
fn a_filter_that_no_record_passes_leaves_the_worker_to_other_requests() {
    alone(|| async {
        let mut settings = Settings::default();
        settings.storage.class = "full".into();
        let idempotency = Idempotency::builder().settings(settings).store("full", full_store()).build().unwrap();
        let app = App::new().service(web::scope("/ops").service(idempotency.admin_scope()));
        let app = init_service(app).await;
        let turns = Rc::new(Cell::new(0_u32));
        let count = turns.clone();
        let others = rt::spawn(async move {
            loop {
                count.set(count.get() + 1);
                rt::task::yield_now().await;
            }
        });
        let (mut after, mut looked, mut least) = (String::new(), 0, u32::MAX);
        loop {
            let before = turns.get();
            let uri = format!("/ops/records?state=lost{after}");
            let (status, _, body) = send(&app, TestRequest::get().uri(&uri)).await;
            let page: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status.as_u16(), page["records"].as_array().map(Vec::len)), (200, Some(0)));
            looked += 1;
            match page["next"].as_str() {
                // Only a whole page counts: the last one may have looked at a few records.
                Some(next) => {
                    after = format!("&after={next}");
                    least = least.min(turns.get() - before);
                }
                None => break,
            }
        }
        others.abort();
        assert!(looked > 1, "one request looks at a part of {RECORDS} records");
        assert!(least >= 20, "others had {least} turns during a listing");
    });
}

#[test]
fn operators_list_unfinished_operations_with_their_steps() {
    let log = RunLog::new();
    let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", "stripe-v2"), ("RUN_LOG", log.path())]);
    let key = fresh_key();
    let unfinished = || -> serde_json::Value { server.send(Request::get("/admin/records?state=unfinished")).json() };
    assert_eq!(server.post("/steps?fail=3&as=status", &key).status, 503);
    let records = unfinished()["records"].clone();
    let [record] = &records.as_array().unwrap()[..] else { panic!("{records}") };
    assert_eq!((&record["state"], &record["attempt"]), (&"free".into(), &1.into()));
    let steps: Vec<_> = record["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(steps, ["a", "b"]);
    assert!(record["steps"][0]["result_bytes"].as_u64().unwrap() > 0);
    assert!(record["steps"][0]["saved"].as_str().unwrap().ends_with("GMT"));
    let log = std::fs::read_to_string(log.path()).unwrap();
    let values: Vec<&str> =
        log.lines().filter(|line| line.starts_with("step ")).filter_map(|l| l.rsplit(' ').next()).collect();
    assert!(values.iter().all(|value| !records.to_string().contains(value)), "results are not shown");
    let place = format!("/admin/records/default/{}/steps", record["id"].as_str().unwrap());
    let shown: serde_json::Value = server.send(Request::get(&place)).json();
    for (step, value) in shown["steps"].as_array().unwrap().iter().zip(values) {
        assert_eq!(step["result"].to_string(), value, "{shown}");
    }
    assert_eq!(shown["steps"].as_array().unwrap().len(), 2);
    let (nobody, other) = ("0".repeat(64), "/admin/records/default/12/steps");
    assert_eq!(server.send(Request::get(&place.replace(record["id"].as_str().unwrap(), &nobody))).status, 404);
    assert_eq!(server.send(Request::get(other)).status, 400);
    assert_eq!(server.post("/steps?fail=3&as=status", &key).status, 201);
    assert_eq!(unfinished()["records"].as_array().unwrap().len(), 0);
    let shown: serde_json::Value = server.send(Request::get(&place)).json();
    assert_eq!(shown["steps"], serde_json::json!([]), "the stored response has ended the steps");
}
