//! Connections to Redis that are closed while nobody uses them, and a Redis that refuses every command.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use actix_idempotency::{Idempotency, Settings, Storage, store::StoreError};
use bytes::Bytes;
use serde_json::json;

use super::fixture::Redis;
use crate::{
    common::{Reply, Request, RunLog, Server, eventually, fresh_key},
    store::custom_parts::{Harness, answer},
};

/// The machine may be busy, and a call that takes too long is a failure of its own.
const SLOW_CALLS: (&str, &str) = ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "5");

/// More connections than the workers have to Redis. actix-web gives them to its workers in turn.
const MANY: usize = 12;

fn many(send: impl Fn() -> Reply) -> Vec<u16> {
    (0..MANY).map(|_| send().status).collect()
}

fn items(server: &Server) -> Vec<u16> {
    many(|| server.post("/items", &fresh_key()))
}

/// Closes all connections but the one that says so.
fn close_all(redis: &Redis) {
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec(&mut redis.connect()).unwrap();
}

/// Lets Redis close connections that are idle for a second, and waits until it has.
fn wait_until_closed(redis: &Redis) {
    redis::cmd("CONFIG").arg("SET").arg("timeout").arg("1").exec(&mut redis.connect()).unwrap();
    eventually("the end of idle connections", || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut redis.connect()).unwrap();
        // This connection is the last one.
        if list.lines().count() == 1 { Ok(()) } else { Err(list) }
    });
}

#[test]
fn after_idle_connections_were_closed_the_next_request_of_every_worker_succeeds() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[SLOW_CALLS]);
    assert_eq!(items(&server), [201; MANY]);
    close_all(&redis);
    assert_eq!(items(&server), [201; MANY]);
    wait_until_closed(&redis);
    assert_eq!(items(&server), [201; MANY]);
}

#[test]
fn after_a_restart_of_redis_the_first_request_of_every_worker_succeeds() {
    let (mut redis, log) = (Redis::persistent(), RunLog::new());
    let server = redis.server(&log, &[SLOW_CALLS]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    assert_eq!(items(&server), [201; MANY]);
    redis.kill();
    redis.run_again();
    assert_eq!(items(&server), [201; MANY]);
    assert!(server.post("/items", &key).is_replay());
}

#[test]
fn after_idle_connections_were_closed_operators_pages_work() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[SLOW_CALLS]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    let find = Request::post("/admin/find").header("Content-Type", "application/json");
    let find = find.body(json!({ "key": key }).to_string());
    for request in [Request::get("/admin/records"), find] {
        assert_eq!(many(|| server.send(request.clone())), [200; MANY]);
        close_all(&redis);
        assert_eq!(many(|| server.send(request.clone())), [200; MANY]);
    }
}

#[test]
fn with_on_error_run_a_retry_after_idle_connections_were_closed_does_not_run_again() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[SLOW_CALLS, ("IDEMPOTENCY_KEY__STORAGE__ON_ERROR", "run")]);
    assert_eq!(items(&server), [201; MANY]);
    let runs = log.count("start");
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    for _ in 0..3 {
        close_all(&redis);
        assert_eq!(many(|| server.post("/items", &key)), [409; MANY]);
    }
    assert_eq!(log.count("start"), runs + 1);
}

#[test]
fn a_duplicate_that_waits_for_another_process_survives_the_end_of_its_connections() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let [owner, other] = [0, 1].map(|_| redis.server(&log, &[SLOW_CALLS, ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "15")]));
    let request = Request::post("/slow?ms=1500").key(&fresh_key());
    let mut running = owner.begin(&request);
    log.wait_for("start", 1);
    let mut waiting = other.begin(&request);
    eventually("the polls of the duplicate", || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.connect()).unwrap();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls=")?.split(',').next());
        // The scripts of the two requests read the record a few times.
        if calls.is_some_and(|calls| calls.parse::<u32>().unwrap() >= 10) { Ok(()) } else { Err(stats) }
    });
    // Not so often that a call which was made again could meet the next end, too.
    for _ in 0..4 {
        close_all(&redis);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(running.reply().status, 200);
    assert!(waiting.reply().is_replay());
    assert_eq!(log.count("start"), 1);
}

/// A storage in this process, whose lock is in Redis.
#[derive(Default)]
struct Table(Mutex<HashMap<String, Bytes>>);

impl Storage for Table {
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
    async fn put(&self, name: &str, value: Bytes, _: Duration) -> Result<(), StoreError> {
        self.0.lock().unwrap().insert(name.to_owned(), value);
        Ok(())
    }
    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.0.lock().unwrap().remove(name).is_some())
    }
}

#[actix_web::test]
async fn after_idle_connections_were_closed_a_redis_lock_is_taken_and_released() {
    let redis = Redis::start();
    let mut settings = Settings::default();
    settings.storage.class = "table".into();
    settings.storage.timeout = Duration::from_secs(10);
    settings.lock.class = "redis".into();
    settings.lock.location = redis.url().into();
    let idempotency = Idempotency::builder().settings(settings).storage("table", Table::default()).build().unwrap();
    let harness = Harness::new(idempotency);
    for n in 1..=4 {
        let key = n.to_string();
        assert_eq!(harness.post(&key).await, answer(201, false, &key));
        close_all(&redis);
        assert_eq!(harness.post(&key).await, answer(409, true, &key));
        close_all(&redis);
    }
}

/// Speaks enough of Redis's protocol to serve a process that only ever gets refusals.
struct RefusingRedis {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// The answer to each script. A record that is not there, at first.
    says: Arc<Mutex<&'static str>>,
}

impl RefusingRedis {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (connections, says) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new("*1\r\n$1\r\nN\r\n")));
        let (count, answer) = (connections.clone(), says.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, SeqCst);
                let answer = answer.clone();
                std::thread::spawn(move || serve(stream, &answer));
            }
        });
        Self { address, connections, says }
    }
}

/// Answers until the other side closes the connection.
fn serve(mut stream: TcpStream, says: &Mutex<&'static str>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let number = |sign: &str, reader: &mut BufReader<TcpStream>| -> Option<usize> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.trim_end().strip_prefix(sign)?.parse().ok()
    };
    loop {
        let mut words = Vec::new();
        for _ in 0..number("*", &mut reader)? {
            let mut word = vec![0; number("$", &mut reader)? + 2];
            reader.read_exact(&mut word).ok()?;
            words.push(word);
        }
        let command = String::from_utf8_lossy(words.first()?).trim_end().to_ascii_uppercase();
        let answer = match command.as_str() {
            "CLIENT" | "SELECT" | "HELLO" | "AUTH" | "PING" => "+OK\r\n",
            "INFO" => "$0\r\n\r\n",
            _ => *says.lock().unwrap(),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

/// Once, each request made about four connections.
#[test]
fn a_redis_that_loads_or_is_read_only_gets_few_connections() {
    let redis = RefusingRedis::start();
    let url = format!("redis://{}/0", redis.address);
    let server = Server::start(&[
        ("WORKERS", "1"),
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"),
        ("IDEMPOTENCY_KEY__STORAGE__LOCATION", &url),
    ]);
    for refusal in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
    ] {
        *redis.says.lock().unwrap() = refusal;
        let (before, start) = (redis.connections.load(SeqCst), Instant::now());
        let mut connection = server.connect();
        for _ in 0..50 {
            connection.send(&Request::post("/items").key(&fresh_key())).is_problem(503, "store-unavailable");
        }
        let made = redis.connections.load(SeqCst) - before;
        // The worker and the background thread have two each. Once a second another one may find another server.
        let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
        assert!(made <= 8 + 4 * seconds, "{refusal}{made} connections for 50 requests in {seconds} s");
    }
}
