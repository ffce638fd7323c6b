//! An example as a process of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
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
    assert!(sent.expect("there is a kill").success());
}

/// The built example beside this test's own binary.
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
    // Away from any `idempotency.toml`.
    command.current_dir(std::env::temp_dir()).env("ADDR", "127.0.0.1:0");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

impl Server {
    /// The conformance server with these variables.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        Self::example("conformance", variables)
    }

    pub(crate) fn example(example: &str, variables: &[(&str, &str)]) -> Self {
        let mut child =
            command(example, variables).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let address = loop {
            let line = lines.next().expect("it says where it listens").expect("it writes text");
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.parse().expect("an address");
            }
        };
        // What it prints later must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Runs it to its end, which is expected to come soon.
    pub(crate) fn fails_to_start(variables: &[(&str, &str)]) -> Output {
        command("conformance", variables).output().expect("it starts")
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, request: Request) -> Reply {
        self.connect().send(&request)
    }

    pub(crate) fn post(&self, path: &str, key: &str) -> Reply {
        self.send(Request::post(path).key(key))
    }

    /// How often a path ran.
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

    pub(crate) fn terminate(&self) {
        signal("TERM", self.child.id());
    }

    /// As a crash would: nothing is said, nothing is freed.
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
