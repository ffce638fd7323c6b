//! A redis-server of one test, and conformance servers that use it.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use redis::{Client, Connection};

use crate::common::{RunLog, Server, eventually, fresh_key, signal};

pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
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
        let folder = std::env::temp_dir().join(format!("redis-{}", fresh_key()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        // Another process may take the free port before redis-server does. Then another port is tried.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let mut redis = Self { child: None, port, folder: folder.clone(), arguments: Vec::clone(&arguments) };
            if redis.try_run() {
                return redis;
            }
            std::mem::forget(redis);
        }
        panic!("no free port for redis-server");
    }

    fn try_run(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--dir", self.folder.to_str().expect("a path in UTF-8")])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (cargo xtask test does that)");
        self.child = Some(child);
        let mut up = true;
        eventually("redis-server listens", || {
            if let Some(child) = &mut self.child
                && child.try_wait().expect("a child").is_some()
            {
                up = false;
                return Ok(());
            }
            let info = Client::open(self.url())
                .and_then(|client| client.get_connection())
                .and_then(|mut connection| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
            match info {
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
    }

    pub(crate) fn thaw(&self) {
        signal("CONT", self.pid());
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn connect(&self) -> Connection {
        Client::open(self.url()).expect("a URL").get_connection().expect("a connection")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        redis::cmd("KEYS").arg("*").query(&mut self.connect()).expect("names")
    }

    /// Starts a conformance server that keeps its records in this Redis.
    pub(crate) fn server(&self, log: &RunLog, more: &[(&str, &str)]) -> Server {
        let url = self.url();
        let mut variables = vec![
            ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"),
            ("IDEMPOTENCY_KEY__STORAGE__LOCATION", url.as_str()),
            ("RUN_LOG", log.path()),
        ];
        variables.extend(more);
        Server::start(&variables)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
