//! Large uploads: how fast a body with `body = stream` reaches its handler, and how much memory that takes.
//!
//! `cargo bench --bench uploads [-- MiB]` sends bodies of 1 GiB over a socket, to three routes in turn: a handler that only
//! counts bytes, one that also hashes them, and one that only counts under a wrap that hashes.

#![allow(clippy::unwrap_used, reason = "a benchmark stops where something fails")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use actix_idempotency::{Idempotency, IdempotencyKey, settings::BodyMode};
use actix_web::{App, Error, HttpResponse, HttpServer, web};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

const ROUNDS: usize = 5;
const PIECE: usize = 64 << 10;

async fn count(mut payload: web::Payload) -> Result<HttpResponse, Error> {
    let mut length = 0;
    while let Some(piece) = payload.next().await {
        length += piece?.len();
    }
    Ok(HttpResponse::Ok().body(length.to_string()))
}

async fn hash(mut payload: web::Payload) -> Result<HttpResponse, Error> {
    let mut hash = Sha256::new();
    while let Some(piece) = payload.next().await {
        hash.update(piece?);
    }
    Ok(HttpResponse::Ok().body(STANDARD.encode(hash.finalize())))
}

/// Starts a server with one worker in a thread of its own.
fn serve() -> SocketAddr {
    let (told, address) = mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let idempotency = Idempotency::in_memory();
            let server = HttpServer::new(move || {
                let wrap = IdempotencyKey::default().using(&idempotency);
                App::new().route("/count", web::post().to(count)).route("/hash", web::post().to(hash)).service(
                    web::resource("/wrapped")
                        .wrap(wrap.configure(|settings| settings.body = BodyMode::Stream))
                        .route(web::post().to(count)),
                )
            });
            let server = server.workers(1).bind("127.0.0.1:0").unwrap();
            told.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    address.recv().unwrap()
}

/// Sends `mib` MiB, and returns how long it took until the answer.
fn upload(address: SocketAddr, path: &str, headers: &str, mib: u32) -> Duration {
    let piece = vec![7; PIECE];
    let mut connection = TcpStream::connect(address).unwrap();
    let start = Instant::now();
    let length = (mib as usize) << 20;
    write!(connection, "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{headers}\r\n").unwrap();
    for _ in 0..length / PIECE {
        connection.write_all(&piece).unwrap();
    }
    let mut answer = [0; 1024];
    let read = connection.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    let is_replay = headers.contains("again");
    assert!(answer.starts_with(if is_replay { "HTTP/1.1 409" } else { "HTTP/1.1 200" }), "{answer}");
    start.elapsed()
}

/// The most memory that this process had since the last call, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    let _ = fs::write("/proc/self/clear_refs", "5");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn main() {
    let mib: u32 = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1024);
    let address = serve();
    let digest = {
        let (piece, mut hash) = (vec![7; PIECE], Sha256::new());
        (0..((mib as usize) << 20) / PIECE).for_each(|_| hash.update(&piece));
        STANDARD.encode(hash.finalize())
    };
    let key = |round: usize| format!("Idempotency-Key: k{round}\r\nContent-Digest: sha-256=:{digest}:\r\n");
    let plain = |round: usize| format!("Idempotency-Key: p{round}\r\n");
    upload(address, "/wrapped", "Idempotency-Key: warm\r\n", 1);
    peak();
    let before = peak();
    let mut times: [Vec<Duration>; 5] = Default::default();
    let mut most = 0;
    for round in 0..ROUNDS {
        times[0].push(upload(address, "/count", "", mib));
        times[1].push(upload(address, "/hash", "", mib));
        peak();
        times[2].push(upload(address, "/wrapped", &key(round), mib));
        times[3].push(upload(address, "/wrapped", &plain(round), mib));
        times[4].push(upload(address, "/wrapped", &format!("{}X: again\r\n", key(round)), mib));
        most = most.max(peak());
    }
    let [count, hash, digest, none, again] = times.map(|mut times| median(&mut times));
    println!("medians of {ROUNDS} interleaved rounds, {mib} MiB, one worker, MiB/s; the client takes time too");
    for (what, time) in [
        ("bare handler", count),
        ("bare handler, hashes", hash),
        ("by digest", digest),
        ("without a digest", none),
        ("retry", again),
    ] {
        println!("{what:<24}{:>8.0}{:>8.2} x the bare handler with one SHA-256", f64::from(mib) / time, hash / time);
    }
    println!("memory: {before} KiB before, {most} KiB at most with the wrap");
}
