//! The Redis store against one bare multiplexed connection that runs the same two scripts, on a redis-server of its own.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use actix_idempotency::{Begin, Record, RedisStore, Settings, Store as _};
use actix_web::rt;
use futures_util::future::join_all;
use redis::{Client, Script, Value};

use crate::{
    ROUNDS,
    common::{ask, record},
    median,
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

fn server() -> (Server, String) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port().to_string();
    drop(free);
    let mut command = Command::new("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
    (Server(child), format!("redis://127.0.0.1:{port}/0"))
}

pub(crate) fn redis() {
    rt::System::new().block_on(async {
        let (_server, url) = server();
        let client = Client::open(url.as_str()).expect("a URL");
        let bare = loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => break connection,
                Err(_) => rt::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mut settings = Settings::default().storage;
        settings.location = url.into();
        settings.timeout = Duration::from_secs(10);
        let store = RedisStore::new("default", &settings).expect("a store");
        let (begin, complete) = (
            Script::new(include_str!("../../src/store/redis/begin.lua")),
            Script::new(include_str!("../../src/store/redis/complete.lua")),
        );
        let record = record();
        let (mut ratios, mut rates, mut tails, mut halves) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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
            rates.push((CONCURRENT * PAIRS_EACH) as f64 / time);
            halves.push(waits[waits.len() / 2]);
            tails.push(waits[waits.len() * 999 / 1000]);
        }
        let (ratio, half, tail) = (median(ratios), median(halves), median(tails));
        println!("redis: begin + complete, {CONCURRENT} concurrent, one thread");
        println!("{:38} {:>9.0} pairs/s", "through the store", median(rates));
        println!("{:38} {ratio:>8.2}x of bare  0.85 {}", "", if ratio >= 0.85 { "met" } else { "NOT MET" });
        println!(
            "{:38} p50 {:.2} ms, p99.9 {:.2} ms: {:.1}x  10x {}",
            "",
            half / 1e6,
            tail / 1e6,
            tail / half,
            if tail < half * 10.0 { "met" } else { "NOT MET" }
        );
    });
}

async fn pair(store: &RedisStore, record: &Record, n: u64) {
    let request = ask(n);
    let Ok(Begin::Fresh { claim, .. }) = store.begin(&request).await else { panic!("a fresh key") };
    store.complete(&claim, record, Duration::from_secs(60)).await.expect("stored");
}

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
        .arg(request.fingerprint.as_bytes())
        .arg(30_000)
        .arg(60_000)
        .arg("once")
        .arg("rerun");
    let _: Vec<Value> = call.invoke_async(connection).await.expect("begun");
    let mut call = complete.key(&name);
    call.arg(request.token.as_bytes()).arg(request.fingerprint.as_bytes()).arg(1).arg(1).arg(60_000);
    let _: Vec<Value> = call.arg(&record.as_bytes()[..]).invoke_async(connection).await.expect("stored");
}
