//! Compares the Redis store with a bare multiplexed connection that runs the same two scripts. Both use a redis-server
//! that this bench starts.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use actix_idempotency::{
    record::Record,
    store::{Begin, RedisOptions, RedisStore, Store as _},
};
use actix_web::rt;
use futures_util::future::join_all;
use redis::{Client, Script, Value};

use crate::{
    common::{ask, record},
    table::{
        ROUNDS, Table,
        Target::{AtLeast, AtMost},
        median, micros,
    },
};

const CONCURRENT: u64 = 64;
const PAIRS_EACH: u64 = 300;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server() -> (Server, u16) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
    (Server(child), port)
}

pub(crate) fn redis(table: &Table) {
    rt::System::new().block_on(async {
        let (_server, port) = server();
        let url = format!("redis://127.0.0.1:{port}/0");
        let client = Client::open(url.as_str()).expect("a URL");
        let bare = loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => break connection,
                Err(_) => rt::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mut options = RedisOptions::new(url);
        options.timeout = Duration::from_secs(10);
        let store = RedisStore::new(options).expect("a store");
        let prelude = include_str!("../../src/store/redis/scripts/prelude.lua").replace("@WRITES@", "2");
        let begin = Script::new(&format!("{prelude}{}", include_str!("../../src/store/redis/scripts/begin.lua")));
        let complete = Script::new(&format!("{prelude}{}", include_str!("../../src/store/redis/scripts/complete.lua")));
        let record = record();
        let [mut ratios, mut bare_rates, mut rates, mut tails, mut halves] = [const { Vec::new() }; 5];
        for round in 0..ROUNDS as u64 {
            let keys = (round + 1) << 32;
            let start = Instant::now();
            join_all((0..CONCURRENT).map(|task| {
                let (mut connection, begin, complete, record) = (bare.clone(), &begin, &complete, &record);
                async move {
                    for n in 0..PAIRS_EACH {
                        pair_bare(&mut connection, begin, complete, record, keys | task << 16 | n).await;
                    }
                }
            }))
            .await;
            let bare_time = start.elapsed().as_secs_f64();
            let start = Instant::now();
            let waits = join_all((0..CONCURRENT).map(|task| {
                let (store, record) = (&store, &record);
                async move {
                    let mut waits = Vec::new();
                    for n in 0..PAIRS_EACH {
                        let start = Instant::now();
                        pair(store, record, keys | 1 << 31 | task << 16 | n).await;
                        waits.push(start.elapsed().as_nanos() as f64);
                    }
                    waits
                }
            }))
            .await;
            let time = start.elapsed().as_secs_f64();
            let mut waits = waits.concat();
            waits.sort_by(f64::total_cmp);
            ratios.push(bare_time / time);
            bare_rates.push((CONCURRENT * PAIRS_EACH) as f64 / bare_time);
            rates.push((CONCURRENT * PAIRS_EACH) as f64 / time);
            halves.push(waits[waits.len() / 2]);
            tails.push(waits[waits.len() * 999 / 1000]);
        }
        let rates = [bare_rates, rates].map(|rates| format!("{:.0}/s", median(rates)));
        let name = format!("Redis: {CONCURRENT} concurrent pairs / bare connection");
        table.row(&name, [&rates[0], &rates[1]], median(ratios), "x", &AtLeast(0.85));
        let (half, tail) = (median(halves), median(tails));
        let waits = [format!("p50 {}", micros(half)), format!("p99.9 {}", micros(tail))];
        table.row("  p99.9 of a pair / p50", [&waits[0], &waits[1]], tail / half, "x", &AtMost(10.0));
        table.row("  round trips of a replay", ["", ""], round_trips(&store, port).await, "", &AtMost(1.0));
    });
}

/// The commands that redis-server gets per replay, as its MONITOR shows them.
async fn round_trips(store: &RedisStore, port: u16) -> f64 {
    const REPLAYS: u64 = 200;
    let (record, known) = (record(), u64::MAX);
    pair(store, &record, known).await;
    let mut monitor = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    monitor.write_all(b"MONITOR\r\n").expect("written");
    let mut lines = BufReader::new(monitor.try_clone().expect("a second handle")).lines();
    assert_eq!(lines.next().expect("an answer").expect("read"), "+OK");
    for _ in 0..REPLAYS {
        assert!(matches!(store.begin(&ask(known)).await, Ok(Begin::Completed(_))), "stored before");
    }
    monitor.write_all(b"QUIT\r\n").expect("written");
    let lines: Vec<String> = lines.map_while(Result::ok).filter(|line| line.contains('[')).collect();
    // Commands inside scripts are no round trips.
    let received =
        lines.iter().filter(|line| !line.contains(" lua] ") && !line.to_lowercase().contains("\"quit\"")).count();
    received as f64 / REPLAYS as f64
}

/// A `begin` and a `complete` through the store.
async fn pair(store: &RedisStore, record: &Record, n: u64) {
    let request = ask(n);
    let Ok(Begin::Acquired(acquired)) = store.begin(&request).await else { panic!("a fresh key") };
    store.complete(&acquired.claim, record, Duration::from_secs(60)).await.expect("stored");
}

/// The same two scripts on a bare connection.
async fn pair_bare(
    connection: &mut redis::aio::MultiplexedConnection,
    begin: &Script,
    complete: &Script,
    record: &Record,
    n: u64,
) {
    let request = ask(n);
    let name = format!("idempotency::default:{}", request.id);
    let mut call = begin.key(&name);
    call.arg(request.token.as_bytes())
        .arg(&request.fingerprint.as_bytes()[..])
        .arg(30_000)
        .arg(10_000)
        .arg(60_000)
        .arg(&[0_u8; 8][..])
        .arg("replay")
        .arg("rerun");
    let _: Vec<Value> = call.invoke_async(connection).await.expect("begun");
    let mut call = complete.key(&name);
    call.arg(request.token.as_bytes()).arg(&request.fingerprint.as_bytes()[..]);
    call.arg(1).arg(1).arg(0).arg(&[0_u8; 8][..]).arg(60_000);
    let _: Vec<Value> = call.arg(&record.to_bytes()[..]).invoke_async(connection).await.expect("stored");
}
