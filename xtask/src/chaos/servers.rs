//! The processes under test: one redis-server, and several conformance servers that log their runs.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::outages::{LEASE, signal};

pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    /// When it was told to forget everything.
    flushes: Mutex<Vec<u128>>,
}

impl Redis {
    pub(crate) fn start() -> Result<Self, String> {
        let free = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = free.local_addr().map_err(|error| error.to_string())?.port();
        drop(free);
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.stdout(Stdio::null()).spawn().map_err(|error| format!("redis-server: {error}"))?;
        let redis = Self { child, port, flushes: Mutex::default() };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("redis-server does not listen".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes the connections of all servers.
    pub(crate) fn close_connections(&self) {
        self.tell("CLIENT KILL TYPE normal\r\n");
    }

    /// Forgets everything.
    pub(crate) fn flush(&self) {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).push(now());
        self.tell("FLUSHALL\r\n");
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).push(now());
    }

    /// The times just before and just after each flush.
    pub(crate) fn flushes(&self) -> Vec<u128> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, command: &str) {
        if let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = connection.write_all(command.as_bytes());
            let _ = connection.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = connection.read(&mut [0; 64]);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

pub(crate) struct Servers {
    redis: u16,
    pub(crate) log: PathBuf,
    running: Vec<Mutex<Server>>,
    /// The process ids of killed servers, with the time of their death.
    killed: Mutex<Vec<(u32, u128)>>,
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Servers {
    pub(crate) fn start(n: usize, redis: u16) -> Result<Self, String> {
        let log = env::temp_dir().join(format!("chaos-{}.log", std::process::id()));
        let _ = fs::remove_file(&log);
        let mut servers = Self { redis, log, running: Vec::new(), killed: Mutex::default() };
        for _ in 0..n {
            let server = servers.launch()?;
            servers.running.push(Mutex::new(server));
        }
        Ok(servers)
    }

    fn launch(&self) -> Result<Server, String> {
        let mut command = Command::new(binary()?);
        command
            .current_dir(env::temp_dir())
            .env("ADDR", "127.0.0.1:0")
            .env("RUN_LOG", &self.log)
            .env("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis")
            .env("IDEMPOTENCY_KEY__STORAGE__LOCATION", format!("redis://127.0.0.1:{}/0", self.redis))
            .env("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn")
            .env("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none")
            .env("IDEMPOTENCY_KEY__LOCK__LEASE", LEASE.to_string())
            .env("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "1");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        let stdout = child.stdout.take().ok_or("no output")?;
        for line in BufReader::new(stdout).lines() {
            if let Some(address) = line.map_err(|e| e.to_string())?.strip_prefix("listening on ") {
                return Ok(Server { child, address: address.parse().map_err(|_| "no address")? });
            }
        }
        let _ = (child.kill(), child.wait());
        Err("a server ended before it listened".into())
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        self.running[n].lock().unwrap_or_else(PoisonError::into_inner).address
    }

    /// Kills a server without a graceful stop, and starts another one in its place.
    pub(crate) fn replace(&self, n: usize) -> Result<(), String> {
        let mut server = self.running[n].lock().map_err(|_| "poisoned")?;
        let _ = server.child.kill();
        self.killed.lock().map_err(|_| "poisoned")?.push((server.child.id(), now()));
        let _ = server.child.wait();
        // The check at start may fail while the network is disturbed.
        for _ in 0..20 {
            if let Ok(new) = self.launch() {
                *server = new;
                return Ok(());
            }
        }
        Err("it failed 20 times".into())
    }

    /// Stops a server for a while, as a machine does that is out of memory.
    pub(crate) fn pause(&self, n: usize, time: Duration) {
        let server = self.running[n].lock().unwrap_or_else(PoisonError::into_inner);
        signal("STOP", server.child.id());
        thread::sleep(time);
        signal("CONT", server.child.id());
    }

    /// Kills all servers.
    pub(crate) fn stop(&self) {
        for server in &self.running {
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = (server.child.kill(), server.child.wait());
        }
    }

    /// When a process was killed. `None` if it was not killed.
    pub(crate) fn killed(&self, pid: u32) -> Option<u128> {
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        killed.iter().find(|(id, _)| *id == pid).map(|(_, when)| *when)
    }

    /// The largest resident size of a server, in MiB.
    pub(crate) fn memory(&self) -> usize {
        let resident = |server: &Mutex<Server>| {
            let pid = server.try_lock().ok()?.child.id();
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            statm.split(' ').nth(1)?.parse::<usize>().ok()
        };
        self.running.iter().filter_map(resident).max().unwrap_or(0) / 256
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// The path of the built example, in the target directory of this program.
fn binary() -> Result<PathBuf, String> {
    let mut path = env::current_exe().map_err(|error| error.to_string())?;
    path.pop();
    Ok(path.join("examples").join("conformance"))
}
