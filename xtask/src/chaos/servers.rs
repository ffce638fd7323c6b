//! The processes under test: one redis-server, and several example servers that log their runs.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::outages::signal;

/// A beginning and an end, in milliseconds.
pub(crate) type Span = (u128, u128);

pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    /// When it was told to forget everything.
    flushes: Mutex<Vec<Span>>,
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
        let begins = now();
        self.tell("FLUSHALL\r\n");
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).push((begins, now()));
    }

    /// When each flush began and ended.
    pub(crate) fn flushes(&self) -> Vec<Span> {
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

/// How long a server may fail to start again, since its store or its database may be disturbed.
const START: Duration = Duration::from_secs(60);

/// How a server is started.
pub(crate) struct Launch {
    /// The name of the example.
    pub(crate) example: &'static str,
    pub(crate) variables: Vec<(&'static str, String)>,
}

pub(crate) struct Servers {
    pub(crate) log: PathBuf,
    /// The diagnostics of all servers.
    pub(crate) diagnostics: PathBuf,
    launches: Vec<Launch>,
    running: Vec<Mutex<Child>>,
    /// Known while a server hangs or is being replaced, too.
    addresses: Vec<Mutex<SocketAddr>>,
    /// The process ids of killed servers, with the time of their death.
    killed: Mutex<Vec<(u32, u128)>>,
}

impl Servers {
    pub(crate) fn start(launches: Vec<Launch>) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("chaos-{}-{}.log", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let log = env::temp_dir().join(name);
        let diagnostics = log.with_extension("stderr");
        let _ = (fs::remove_file(&log), fs::remove_file(&diagnostics));
        let (running, addresses, killed) = (Vec::new(), Vec::new(), Mutex::default());
        let mut servers = Self { log, diagnostics, launches, running, addresses, killed };
        for n in 0..servers.launches.len() {
            let (child, address) = servers.launch(n)?;
            servers.running.push(Mutex::new(child));
            servers.addresses.push(Mutex::new(address));
        }
        Ok(servers)
    }

    fn launch(&self, n: usize) -> Result<(Child, SocketAddr), String> {
        let launch = &self.launches[n];
        let diagnostics = File::options().append(true).create(true).open(&self.diagnostics);
        let mut command = Command::new(binary(launch.example)?);
        command.current_dir(env::temp_dir()).env("ADDR", "127.0.0.1:0").env("RUN_LOG", &self.log).env("NO_COLOR", "1");
        command.envs(launch.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(diagnostics.map_err(|e| e.to_string())?);
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let stdout = child.stdout.take().ok_or("no output")?;
        for line in BufReader::new(stdout).lines() {
            if let Some(address) = line.map_err(|e| e.to_string())?.strip_prefix("listening on ") {
                return Ok((child, address.parse().map_err(|_| "no address")?));
            }
        }
        let _ = (child.kill(), child.wait());
        Err("a server ended before it listened".into())
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        *self.addresses[n].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills a server without a graceful stop, and starts another one in its place.
    pub(crate) fn replace(&self, n: usize) -> Result<(), String> {
        let mut child = self.running[n].lock().map_err(|_| "poisoned")?;
        let _ = child.kill();
        self.killed.lock().map_err(|_| "poisoned")?.push((child.id(), now()));
        let _ = child.wait();
        let start = Instant::now();
        loop {
            match self.launch(n) {
                Ok((new, address)) => {
                    *child = new;
                    *self.addresses[n].lock().map_err(|_| "poisoned")? = address;
                    return Ok(());
                }
                Err(error) if start.elapsed() > START => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Stops a server for a while, as a machine does that is out of memory.
    pub(crate) fn pause(&self, n: usize, time: Duration) {
        let child = self.running[n].lock().unwrap_or_else(PoisonError::into_inner);
        signal("STOP", child.id());
        thread::sleep(time);
        signal("CONT", child.id());
    }

    /// Kills all servers.
    pub(crate) fn stop(&self) {
        for child in &self.running {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = (child.kill(), child.wait());
        }
    }

    /// Removes what the servers wrote. After a failure it is kept, and its place is printed.
    pub(crate) fn clear(&self, is_kept: bool) {
        if is_kept {
            println!("chaos: the log of all runs is {}", self.log.display());
            println!("chaos: the diagnostics of the servers are {}", self.diagnostics.display());
        } else {
            let _ = (fs::remove_file(&self.log), fs::remove_file(&self.diagnostics));
        }
    }

    /// When a process was killed. `None` if it was not killed.
    pub(crate) fn killed(&self, pid: u32) -> Option<u128> {
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        killed.iter().find(|(id, _)| *id == pid).map(|(_, when)| *when)
    }

    /// The largest resident size of a server, in MiB.
    pub(crate) fn memory(&self) -> usize {
        let resident = |child: &Mutex<Child>| {
            let pid = child.try_lock().ok()?.id();
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            statm.split(' ').nth(1)?.parse::<usize>().ok()
        };
        self.running.iter().filter_map(resident).max().unwrap_or(0) / 256
    }
}

/// Milliseconds, as in the log of runs.
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// The path of a built example, in the target directory of this program.
fn binary(example: &str) -> Result<PathBuf, String> {
    let mut path = env::current_exe().map_err(|error| error.to_string())?;
    path.pop();
    Ok(path.join("examples").join(example))
}
