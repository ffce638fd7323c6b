//! The SQLite store against bare rusqlite: `cargo xtask bench --sqlite`.
//!
//! The limit writes rows of the same size with bare rusqlite, in transactions of as many rows as the store has in flight.
//! The arms take turns in one run, so that the machine's mood falls on both.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark may")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{Begin, BeginRequest, Durability, OwnerToken, SqliteOptions, SqliteStore, Store as _},
};
use actix_web::http::StatusCode;
use futures_util::future::join_all;
use rusqlite::{Connection, params};

const TTL: Duration = Duration::from_secs(24 * 60 * 60);
const ROUNDS: usize = 11;

fn id(n: u64) -> RecordId {
    // Spread over the table, as hashes are.
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    RecordId::from_bytes(bytes)
}

fn request(n: u64) -> BeginRequest {
    BeginRequest::new(id(n), Fingerprint::from_bytes([1; Fingerprint::LENGTH]), OwnerToken::random())
        .lease(Duration::from_secs(600))
}

fn record() -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[b'x'; 512]))
}

fn store(file: &Path, durability: Durability) -> SqliteStore {
    let mut options = SqliteOptions::new(file);
    options.durability = durability;
    options.max_entries = 100_000_000;
    options.max_bytes = 1 << 40;
    options.timeout = Duration::from_secs(10);
    SqliteStore::new(&options).unwrap()
}

/// A first run as the store sees it: a claim, and its answer.
async fn pair(store: &SqliteStore, n: u64) {
    let Begin::Acquired(acquired) = store.begin(&request(n)).await.unwrap() else { panic!("the key is new") };
    store.complete(&acquired.claim, &record(), TTL).await.unwrap();
}

async fn pairs(store: &SqliteStore, from: u64, in_flight: u64, each: u64) -> Duration {
    let started = Instant::now();
    join_all((0..in_flight).map(|task| async move {
        for n in 0..each {
            pair(store, from + task * each + n).await;
        }
    }))
    .await;
    started.elapsed()
}

/// Bare rusqlite with the same rows: one transaction inserts the claims of a group, a second one their answers.
struct Bare(Connection);

impl Bare {
    fn open(file: &Path, durability: Durability) -> Self {
        let connection = Connection::open(file).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        let synchronous = if durability == Durability::Power { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE slots (cache INTEGER NOT NULL, id BLOB NOT NULL, session INTEGER, since INTEGER, \
                 expires INTEGER NOT NULL, slot BLOB NOT NULL, PRIMARY KEY (cache, id)); \
                 CREATE INDEX slots_session ON slots (session) WHERE session IS NOT NULL; \
                 CREATE INDEX slots_since ON slots (cache, since) WHERE since IS NOT NULL; \
                 CREATE INDEX slots_expires ON slots (expires)",
            )
            .unwrap();
        Self(connection)
    }

    fn pairs(&self, from: u64, group: u64, each: u64) -> Duration {
        let started = Instant::now();
        for n in 0..each {
            let ids = || (0..group).map(move |task| from + task * each + n);
            self.0.execute_batch("BEGIN IMMEDIATE").unwrap();
            for n in ids() {
                self.0
                    .prepare_cached("INSERT INTO slots VALUES (1, ?1, 7, NULL, ?2, ?3)")
                    .unwrap()
                    .execute(params![
                        id(n).as_bytes(),
                        1_700_000_000_000_000_i64 + i64::try_from(n).unwrap(),
                        [0_u8; 118]
                    ])
                    .unwrap();
            }
            self.0.execute_batch("COMMIT; BEGIN IMMEDIATE").unwrap();
            for n in ids() {
                self.0
                    .prepare_cached("UPDATE slots SET session = NULL, since = ?2, expires = ?2, slot = ?3 WHERE cache = 1 AND id = ?1")
                    .unwrap()
                    .execute(params![id(n).as_bytes(), 1_800_000_000_000_000_i64 + i64::try_from(n).unwrap(), [0_u8; 660]])
                    .unwrap();
            }
            self.0.execute_batch("COMMIT").unwrap();
        }
        started.elapsed()
    }

    fn read(&self, n: u64) -> usize {
        let mut find = self.0.prepare_cached("SELECT slot FROM slots WHERE cache = 1 AND id = ?1").unwrap();
        find.query_row([id(n).as_bytes()], |row| row.get::<_, Vec<u8>>(0)).unwrap().len()
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        // Beside the build, since a folder for temporary files may be in memory.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sqlite-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[actix_web::main]
async fn main() {
    let folder = Folder::new();
    let mut from = 0;
    for (name, durability, in_flight, each, goal) in [
        ("durable, 64 in flight: share of the limit's throughput", Durability::Power, 64, 12, "at least 0.8"),
        ("durable, one at a time: time a pair, against the limit", Durability::Power, 1, 40, "at most 1.25"),
        ("process, 64 in flight: share of the limit's throughput", Durability::Process, 64, 40, "told"),
    ] {
        let files = (folder.0.join(format!("{from}-store.db")), folder.0.join(format!("{from}-bare.db")));
        let (store, bare) = (store(&files.0, durability), Bare::open(&files.1, durability));
        pairs(&store, 1 << 40, in_flight, 2).await;
        let mut ratios = Vec::new();
        let mut per_second = Vec::new();
        for _ in 0..ROUNDS {
            let by_store = pairs(&store, from, in_flight, each).await.as_secs_f64();
            let by_hand = bare.pairs(from, in_flight, each).as_secs_f64();
            from += in_flight * each;
            ratios.push(if in_flight == 1 { by_store / by_hand } else { by_hand / by_store });
            per_second.push((in_flight * each) as f64 / by_store);
        }
        println!("{name}: {:.2} ({goal}); {:.0} pairs a second", median(ratios), median(per_second));
    }
    replays(&folder).await;
    growth(&folder).await;
}

/// A replay against a bare read, beyond which it may take 40 µs.
async fn replays(folder: &Folder) {
    let store = store(&folder.0.join("replays.db"), Durability::Process);
    let bare = Bare::open(&folder.0.join("replays-bare.db"), Durability::Process);
    pairs(&store, 0, 64, 16).await;
    bare.pairs(0, 64, 16);
    let mut beyond = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for n in 0..1000 {
            assert!(matches!(store.begin(&request(n)).await.unwrap(), Begin::Completed(_)));
        }
        let by_store = started.elapsed();
        let started = Instant::now();
        for n in 0..1000 {
            assert!(bare.read(n) > 0);
        }
        beyond.push((by_store.as_secs_f64() - started.elapsed().as_secs_f64()) * 1e3);
    }
    println!("a replay, beyond a bare read: {:.0} µs (at most 40)", median(beyond));
}

/// Whether pairs take longer when many records are there.
async fn growth(folder: &Folder) {
    let store = store(&folder.0.join("growth.db"), Durability::Process);
    let (mut from, mut times) = (1 << 41, Vec::new());
    // 10 million by hand: SQLITE_RECORDS=10000000. They take 10 GB, and some ten minutes.
    let many = std::env::var("SQLITE_RECORDS").ok().and_then(|many| many.parse().ok()).unwrap_or(1_000_000);
    for records in [10_000, many] {
        while from - (1 << 41) < records {
            pairs(&store, from, 64, 100).await;
            from += 6400;
        }
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(pairs(&store, from, 64, 40).await.as_secs_f64());
            from += 64 * 40;
        }
        times.push(median(rounds));
    }
    println!("64 in flight at {many} records: {:.2} times as long as at 10 k (at most 1.5)", times[1] / times[0]);
}
