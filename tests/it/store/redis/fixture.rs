//! A redis-server of one test, and conformance servers that use it. The environment variable `REDIS_SERVER` names another
//! program that speaks the same protocol, such as valkey-server.

use std::{
    env,
    ffi::OsString,
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use redis::{Cmd, Connection, FromRedisValue, RedisResult};

use super::access::Access;
use crate::common::{RunLog, Server, eventually, fresh_key, signal};

pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    folder: PathBuf,
    /// Whether the server is a sentinel, which reads a file of settings and writes into it.
    sentinel: bool,
    arguments: Vec<String>,
    access: Access,
    frozen: AtomicBool,
}

/// A port that nobody listens on.
pub(super) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("an address").port()
}

/// The program of all servers.
pub(super) fn program() -> OsString {
    env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with an append-only file, so that a restart loses nothing.
    pub(crate) fn persistent() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_at(free_port, arguments, Access::default())
    }

    /// Starts on a port that `port` suggests.
    pub(super) fn start_at(port: impl Fn() -> u16, arguments: &[&str], access: Access) -> Self {
        Self::start_any(port, arguments, access, None)
    }

    /// Starts a sentinel with these lines in its file of settings.
    pub(super) fn start_sentinel(settings: &str, access: Access) -> Self {
        Self::start_any(free_port, &["--sentinel"], access, Some(settings))
    }

    fn start_any(port: impl Fn() -> u16, arguments: &[&str], access: Access, settings: Option<&str>) -> Self {
        let folder = env::temp_dir().join(format!("redis-{}", fresh_key()));
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        // Another process may take the free port before redis-server does. Then another port is tried.
        for _ in 0..20 {
            // What a server wrote that ended is not for the next one.
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("a folder");
            if let Some(settings) = settings {
                fs::write(folder.join("sentinel.conf"), settings).expect("a file");
            }
            let mut redis = Self {
                child: None,
                port: port(),
                folder: folder.clone(),
                sentinel: settings.is_some(),
                arguments: arguments.clone(),
                access: access.clone(),
                frozen: AtomicBool::new(false),
            };
            if redis.try_run() {
                return redis;
            }
            std::mem::forget(redis);
        }
        panic!("no free port for redis-server");
    }

    fn try_run(&mut self) -> bool {
        let program = program();
        let file = self.sentinel.then(|| self.folder.join("sentinel.conf"));
        let child = Command::new(&program)
            .args(file)
            .args(self.access.arguments(self.port))
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--dir", self.folder.to_str().expect("a path in UTF-8")])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (cargo xtask test installs redis-server)", program.display()));
        self.child = Some(child);
        let mut up = true;
        eventually("redis-server listens", || {
            if let Some(child) = &mut self.child
                && child.try_wait().expect("a child").is_some()
            {
                up = false;
                return Ok(());
            }
            match self.ask::<String>(redis::cmd("INFO").arg("server")) {
                Err(error) if error.is_io_error() => Err(error.to_string()),
                // Another process was faster: its server has this port, and this child is about to end.
                Ok(info) if !info.contains(&format!("process_id:{}\r\n", self.pid())) => Err("another server".into()),
                // One with a password does not say.
                _ => Ok(()),
            }
        });
        up
    }

    /// Changes the arguments of the next start.
    pub(crate) fn arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    pub(crate) fn run_again(&mut self) {
        assert!(self.try_run(), "redis-server runs again on its port");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("a child can be waited for");
        }
    }

    pub(crate) fn freeze(&self) {
        signal("STOP", self.pid());
        self.frozen.store(true, SeqCst);
    }

    pub(crate) fn thaw(&self) {
        signal("CONT", self.pid());
        self.frozen.store(false, SeqCst);
    }

    /// Whether the server runs, and is not frozen.
    pub(super) fn is_up(&self) -> bool {
        self.child.is_some() && !self.frozen.load(SeqCst)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn url(&self) -> String {
        let access = &self.access;
        format!("{}://{}127.0.0.1:{}/0{}", access.scheme("redis"), access.credentials(), self.port, access.query())
    }

    pub(crate) fn connect(&self) -> Connection {
        self.access.client(self.port).expect("a client").get_connection().expect("a connection")
    }

    /// Sends one command on a new connection. One to a server that is frozen or dead fails at once.
    pub(super) fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        if !self.is_up() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        }
        let limit = Duration::from_secs(2);
        let mut connection = self.access.client(self.port)?.get_connection_with_timeout(limit)?;
        connection.set_read_timeout(Some(limit))?;
        command.query(&mut connection)
    }

    /// The value of one line of `INFO`. Empty when there is none, or no answer.
    pub(super) fn info(&self, section: &str, name: &str) -> String {
        let info: String = self.ask(redis::cmd("INFO").arg(section)).unwrap_or_default();
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        redis::cmd("KEYS").arg("*").query(&mut self.connect()).expect("names")
    }

    /// Starts a conformance server that keeps its records in this Redis.
    pub(crate) fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        server_at(&self.url(), log, more)
    }
}

/// Starts a conformance server that keeps its records in the Redis of a location.
pub(super) fn server_at(location: &str, log: &RunLog, more: &[(&str, &str)]) -> Server {
    let mut variables = vec![
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"),
        ("IDEMPOTENCY_KEY__STORAGE__LOCATION", location),
        ("RUN_LOG", log.path()),
    ];
    variables.extend(more);
    Server::start(&variables)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
