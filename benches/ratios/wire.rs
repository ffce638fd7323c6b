//! Over sockets: a server with one worker on one core, and the load generator `wrk` with keep-alive connections on the
//! other.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyKey, Settings};
use actix_web::{App, HttpServer, rt, web};

use crate::{
    common::{SMALL, answer},
    table::{
        ROUNDS, Table,
        Target::{AtLeast, AtMost},
        median,
    },
};

const CONNECTIONS: usize = 32;

pub(crate) fn wire(table: &Table) {
    let [bare, with] = [Server::start("bare"), Server::start("with")];
    with.check();
    let mut rates = [const { Vec::new() }; 3];
    let mut tails = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS as u64 {
        let keys = [Keys::Fresh(round), Keys::Fresh(round), Keys::Known];
        for (which, (server, keys)) in [&bare, &with, &with].into_iter().zip(keys).enumerate() {
            let load = server.load(keys, CONNECTIONS);
            // The first round only warms up.
            if round > 0 {
                rates[which].push(load.rate);
                tails[which].push(load.p99);
            }
        }
    }
    let ratio = |of: &[Vec<f64>; 3], which: usize| {
        median(of[0].iter().zip(&of[which]).map(|(bare, with)| with / bare).collect())
    };
    let ratios = [ratio(&rates, 1), ratio(&rates, 2), ratio(&tails, 1)];
    let [bare, first, replay] = rates.map(|rates| format!("{:.0}/s", median(rates)));
    let [bare_tail, tail, _] = tails.map(|tails| format!("{:.2} ms", median(tails)));
    let name = format!("{CONNECTIONS} connections: first runs, to bare");
    table.row(&name, [&bare, &first], ratios[0], "x", &AtLeast(0.9));
    table.row("  p99 of a first run, to bare", [&bare_tail, &tail], ratios[2], "x", &AtMost(1.3));
    let name = format!("{CONNECTIONS} connections: replays, to bare");
    table.row(&name, [&bare, &replay], ratios[1], "x", &AtLeast(0.93));
}

/// Which keys requests carry.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// Each its own; different ones in each round.
    Fresh(u64),
    Known,
}

pub(crate) struct Load {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
}

/// This program, started anew.
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

    /// What is fast must also be right: each key runs once, however often and at once it is sent.
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
        assert_eq!(self.runs() - before, KEYS, "runs and distinct keys");
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
        let output = Command::new("taskset")
            .args(["--cpu-list", "1", "wrk", "--threads", "1", "--duration", "2s", "--latency"])
            .args(["--connections", &connections.to_string(), "--script"])
            .arg(&script)
            .arg(format!("http://127.0.0.1:{}/", self.port))
            .output()
            .expect("wrk is installed");
        let _ = fs::remove_file(script);
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.contains("Socket errors"), "{output}");
        // The status of a replay is 409.
        assert!(matches!(keys, Keys::Known) || !output.contains("Non-2xx"), "{output}");
        let after = |name: &str| {
            let rest = output.split_once(name).unwrap_or_else(|| panic!("no `{name}` in {output}")).1;
            rest.split_whitespace().next().expect("a number").to_owned()
        };
        Load { rate: after("Requests/sec:").parse().expect("a number"), p99: milliseconds(&after(" 99%")) }
    }
}

/// As wrk writes them: `950.00us`, `1.20ms`, `2.00s`.
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

/// The body of the answer.
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

/// The server that is measured; prints its port.
pub(crate) fn serve(protected: bool) {
    const FREE: (&str, u16) = ("127.0.0.1", 0);
    let mut settings = Settings::default();
    // No run ends by what it filled.
    settings.storage.max_entries = 40_000_000;
    settings.storage.max_bytes = 16 << 30;
    // A duplicate waits for the first one, however slow the machine is.
    settings.lock.timeout = Duration::from_secs(10);
    rt::System::new().block_on(async {
        let (ports, server) = if protected {
            let idempotency =
                web::Data::new(Idempotency::builder().settings(settings).build().expect("sound settings"));
            let app =
                move || App::new().app_data(idempotency.clone()).wrap(IdempotencyKey::default()).configure(routes);
            let server = HttpServer::new(app).workers(1).bind(FREE).expect("a free port");
            (server.addrs(), server.run())
        } else {
            let server = HttpServer::new(|| App::new().configure(routes)).workers(1).bind(FREE).expect("a free port");
            (server.addrs(), server.run())
        };
        println!("{}", ports[0].port());
        server.await.expect("a server");
    });
}
