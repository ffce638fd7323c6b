//! Examples that run as processes of their own.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use super::{Connection, Reply, Request, eventually};

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// Sends a signal to a process, by its id.
pub(crate) fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("the program kill exists").success());
}

/// The path of a built example. Cargo puts it near the binary of this test.
pub(crate) fn binary(example: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a binary");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(example);
    assert!(path.exists(), "{} is not built: run all tests, or `cargo build --examples`", path.display());
    path
}

fn command(example: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary(example));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("IDEMPOTENCY_KEY") {
            command.env_remove(name);
        }
    }
    // Run where no `idempotency.toml` can be found.
    command.current_dir(std::env::temp_dir()).env("ADDR", "127.0.0.1:0");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

impl Server {
    /// Starts the conformance server with these environment variables.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        Self::example("conformance", variables)
    }

    /// As [`start`](Self::start). The server writes its log into a file.
    pub(crate) fn logged(variables: &[(&str, &str)], log: &Path) -> Self {
        Self::run("conformance", variables, File::create(log).expect("a new file").into())
    }

    pub(crate) fn example(example: &str, variables: &[(&str, &str)]) -> Self {
        Self::run(example, variables, Stdio::null())
    }

    fn run(example: &str, variables: &[(&str, &str)], log: Stdio) -> Self {
        Self::run_unless_refused(example, variables, log).expect("it prints its address")
    }

    fn run_unless_refused(example: &str, variables: &[(&str, &str)], log: Stdio) -> Option<Self> {
        let mut child =
            command(example, variables).stdout(Stdio::piped()).stderr(log).spawn().expect("the server starts");
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let address = loop {
            let Some(line) = lines.next() else {
                child.wait().expect("a child can be waited for");
                return None;
            };
            let line = line.expect("it prints text");
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.parse().expect("an address");
            }
        };
        // Read the rest of the output, so that a full pipe does not block the server.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, address })
    }

    /// As [`start`](Self::start), for settings with which the server may refuse to start.
    pub(crate) fn start_unless_refused(variables: &[(&str, &str)]) -> Option<Self> {
        Self::run_unless_refused("conformance", variables, Stdio::null())
    }

    /// Runs the conformance server until it exits. Only for settings with which it fails at start.
    pub(crate) fn fails_to_start(variables: &[(&str, &str)]) -> Output {
        command("conformance", variables).output().expect("the server starts")
    }

    /// As [`fails_to_start`](Self::fails_to_start), in a directory that has a settings file.
    pub(crate) fn fails_to_start_in(directory: &Path, variables: &[(&str, &str)]) -> Output {
        command("conformance", variables).current_dir(directory).output().expect("the server starts")
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// Sends a request and does not wait for its answer.
    pub(crate) fn begin(&self, request: &Request) -> Connection {
        let mut connection = self.connect();
        connection.write(&request.bytes());
        connection
    }

    /// Sends one request on a new connection.
    pub(crate) fn send(&self, request: Request) -> Reply {
        self.connect().send(&request)
    }

    pub(crate) fn post(&self, path: &str, key: &str) -> Reply {
        self.send(Request::post(path).key(key))
    }

    /// How often the handler of a path ran.
    pub(crate) fn runs(&self, path: &str) -> u64 {
        let runs: BTreeMap<String, u64> = self.send(Request::get("/runs")).json();
        runs.get(path).copied().unwrap_or(0)
    }

    pub(crate) fn wait_for_runs(&self, path: &str, n: u64) {
        eventually("runs", || match self.runs(path) {
            runs if runs == n => Ok(()),
            runs => Err(runs),
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        signal("TERM", self.child.id());
    }

    /// Stops the process, as a virtual machine that is moved does, until it is [resumed](Self::resume).
    pub(crate) fn pause(&self) {
        signal("STOP", self.child.id());
    }

    pub(crate) fn resume(&self) {
        signal("CONT", self.child.id());
    }

    /// Kills the process as a crash would: it sends no answer and releases no claim.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child can be waited for");
    }

    pub(crate) fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
