//! Requests over sockets: a server with one worker on one core, and the load generator `wrk` with keep-alive
//! connections on another core.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, Settings};
use actix_web::{App, HttpServer, rt, web};

use crate::{
    common::{SMALL, answer},
    table::{
        ROUNDS, Table,
        Target::{self, AtLeast, AtMost},
        median,
    },
};

const CONNECTIONS: usize = 32;

/// The unit in which Linux counts processor time, in microseconds.
const TICK: f64 = 10_000.0;

pub(crate) fn wire(table: &Table) {
    let [bare, exempt, with, growing] = ["bare", "exempt", "with", "growing"].map(Server::start);
    with.check();
    let mut measured = [const { Pairs(Vec::new()) }; 4];
    for round in 0..=2 * ROUNDS as u64 {
        let fresh = Keys::Fresh(round);
        let sides = [(&with, fresh), (&growing, fresh), (&with, Keys::Known), (&exempt, fresh)];
        for (pairs, (server, keys)) in measured.iter_mut().zip(sides) {
            // Bare actix is loaded again for each pair, because the other load of the machine changes every second.
            let pair = [bare.load(fresh, CONNECTIONS), server.load(keys, CONNECTIONS)];
            // The first round only warms up.
            if round > 0 {
                pairs.0.push(pair);
            }
        }
    }
    let [first_runs, growing, replays, exempt] = measured;
    first_runs.rates(table, "32 connections: first runs / bare", &AtLeast(0.9));
    first_runs.tails(table, "  p99 of a first run / bare", &AtMost(1.3));
    first_runs.times(table);
    growing.rates(table, "  first runs without evictions / bare", &Target::None);
    replays.rates(table, "32 connections: replays / bare", &AtLeast(0.93));
    replays.times(table);
    exempt.rates(table, "32 connections: App exempt / bare", &Target::None);
}

/// Measurements of the bare server and of another one, which take turns.
struct Pairs(Vec<[Load; 2]>);

impl Pairs {
    fn rates(&self, table: &Table, name: &str, target: &Target) {
        let ratio = median(self.0.iter().map(|[bare, with]| with.rate / bare.rate).collect());
        table.row(name, self.sides(|rate| format!("{rate:.0}/s"), |load| load.rate), ratio, "x", target);
    }

    fn tails(&self, table: &Table, name: &str, target: &Target) {
        let ratio = median(self.0.iter().map(|[bare, with]| with.p99 / bare.p99).collect());
        table.row(name, self.sides(|tail| format!("{tail:.2} ms"), |load| load.p99), ratio, "x", target);
    }

    /// The processor time that a request adds in the server, in the program and in the kernel.
    fn times(&self, table: &Table) {
        for (part, name) in ["  added time in the program", "  added time in the kernel"].into_iter().enumerate() {
            let adds = median(self.0.iter().map(|[bare, with]| with.times[part] - bare.times[part]).collect());
            let sides = self.sides(|micros| format!("{micros:.2} µs"), |load| load.times[part]);
            table.row(name, sides, adds, "µs", &Target::None);
        }
    }

    /// The median of each side.
    fn sides(&self, text: impl Fn(f64) -> String, of: impl Fn(&Load) -> f64) -> [String; 2] {
        [0, 1].map(|side| text(median(self.0.iter().map(|pair| of(&pair[side])).collect())))
    }
}

/// The keys of the requests.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// A new key for each request, different in each round.
    Fresh(u64),
    /// One key for all requests.
    Known,
}

pub(crate) struct Load {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
    /// Microseconds of processor time per request of the server: in the program, and in the kernel.
    times: [f64; 2],
}

/// A server process: this program, started with `serve`.
pub(crate) struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    pub(crate) fn start(side: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0"]).arg(program).args(["serve", side]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("taskset is installed");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        Self { process, port: line.trim().parse().expect("a port") }
    }

    /// Checks that the measured server works: each key runs once, although four connections send it at the same time.
    fn check(&self) {
        const KEYS: usize = 2000;
        let before = self.runs();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = self.connect();
                    for n in 0..KEYS {
                        send(&mut connection, &request(&format!("check-{n}")));
                    }
                });
            }
        });
        assert_eq!(self.runs() - before, KEYS, "each key runs once");
    }

    /// How often the handler ran.
    fn runs(&self) -> usize {
        send(&mut self.connect(), "GET /runs HTTP/1.1\r\nhost: bench\r\n\r\n").parse().expect("a number")
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).expect("a connection")
    }

    pub(crate) fn load(&self, keys: Keys, connections: usize) -> Load {
        let script = std::env::temp_dir().join(format!("load-{}.lua", std::process::id()));
        let next = match keys {
            Keys::Fresh(round) => format!("n = n + 1; return head .. \"{connections}-{round}-\" .. n .. tail"),
            Keys::Known => "return head .. \"known\" .. tail".to_owned(),
        };
        let whole = request("KEY");
        let (head, tail) = whole.split_once("KEY").expect("a key");
        let text = format!("n = 0\nhead = {head:?}\ntail = {tail:?}\nrequest = function() {next} end\n");
        fs::write(&script, text).expect("written");
        let before = self.ticks();
        let output = Command::new("taskset")
            .args(["--cpu-list", "1", "wrk", "--threads", "1", "--duration", "1s", "--latency"])
            .args(["--connections", &connections.to_string(), "--script"])
            .arg(&script)
            .arg(format!("http://127.0.0.1:{}/", self.port))
            .output()
            .expect("wrk is installed");
        let now = self.ticks();
        let _ = fs::remove_file(script);
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.contains("Socket errors"), "{output}");
        // The status of a replay is 409.
        assert!(matches!(keys, Keys::Known) || !output.contains("Non-2xx"), "{output}");
        let after = |name: &str| {
            let rest = output.split_once(name).unwrap_or_else(|| panic!("no `{name}` in {output}")).1;
            rest.split_whitespace().next().expect("a number").to_owned()
        };
        let (requests, _) = output.split_once(" requests in ").expect("a count");
        let requests = requests.rsplit(char::is_whitespace).next().and_then(|count| count.parse::<f64>().ok());
        let requests = requests.expect("a number");
        Load {
            rate: after("Requests/sec:").parse().expect("a number"),
            p99: milliseconds(&after(" 99%")),
            times: [0, 1].map(|part| (now[part] - before[part]) * TICK / requests),
        }
    }

    /// The processor time so far: in the program, and in the kernel.
    fn ticks(&self) -> [f64; 2] {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("the process runs");
        // The fields come after the name of the program, which is in parentheses and may contain any character.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let fields: Vec<&str> = fields.split(' ').collect();
        [11, 12].map(|field| fields[field].parse().expect("a number"))
    }
}

/// Parses a time as wrk prints it: `950.00us`, `1.20ms`, `2.00s`.
fn milliseconds(text: &str) -> f64 {
    let number = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[number.len()..] {
        "us" => 1e-3,
        "ms" => 1.0,
        _ => 1e3,
    };
    number.parse::<f64>().expect("a number") * unit
}

fn request(key: &str) -> String {
    let body = std::str::from_utf8(SMALL).expect("text");
    format!(
        "POST / HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request, and returns the body of the answer.
fn send(connection: &mut TcpStream, request: &str) -> String {
    connection.write_all(request.as_bytes()).expect("sent");
    let mut reader = BufReader::new(connection);
    let mut length = 0;
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).expect("a line") > 0, "the connection was closed");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    String::from_utf8(body).expect("text")
}

static RUNS: AtomicU64 = AtomicU64::new(0);

fn routes(config: &mut web::ServiceConfig) {
    let run = |body| {
        RUNS.fetch_add(1, Relaxed);
        answer(body)
    };
    config.route("/", web::post().to(run)).route("/runs", web::get().to(async || RUNS.load(Relaxed).to_string()));
}

/// Runs the measured server, which prints its port. `side` is `bare`, `with` (the middleware), `growing` (the
/// middleware, with a store that evicts no record) or `exempt`.
pub(crate) fn serve(side: &str) {
    const FREE: (&str, u16) = ("127.0.0.1", 0);
    let mut settings = Settings::default();
    // More records than `check` makes, and few enough for the caches of the processor.
    settings.storage.max_entries = if side == "growing" { 40_000_000 } else { 10_000 };
    settings.storage.min_retention = Duration::ZERO;
    settings.storage.max_bytes = 16 << 30;
    // A duplicate waits for the first request, however slow the machine is.
    settings.lock.timeout = Duration::from_secs(10);
    let idempotency = web::Data::new(Idempotency::builder().settings(settings).build().expect("sound settings"));
    let protected = move || App::new().app_data(idempotency.clone()).wrap(IdempotencyKey::default()).configure(routes);
    rt::System::new().block_on(async {
        let (ports, server) = match side {
            "bare" => {
                let app = || App::new().configure(routes);
                let server = HttpServer::new(app).workers(1).bind(FREE).expect("a free port");
                (server.addrs(), server.run())
            }
            "exempt" => {
                let app = || App::new().wrap(ExemptIdempotencyKey::default()).configure(routes);
                let server = HttpServer::new(app).workers(1).bind(FREE).expect("a free port");
                (server.addrs(), server.run())
            }
            _ => {
                let server = HttpServer::new(protected).workers(1).bind(FREE).expect("a free port");
                (server.addrs(), server.run())
            }
        };
        println!("{}", ports[0].port());
        server.await.expect("a server");
    });
}
