//! The PostgreSQL server and the proxies before it, which the tests of `actix-idempotency-sqlx` use, too.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use self::proxy::{Commits, Proxy};
pub(crate) use self::server::Cluster;
use super::{super::random::Random, sql::Sql};

#[allow(dead_code, clippy::pedantic, clippy::unwrap_used, reason = "a part of the tests' helpers")]
#[path = "../../../../crates/actix-idempotency-sqlx/tests/it/databases/server.rs"]
mod server;

#[allow(dead_code, clippy::pedantic, clippy::unwrap_used, reason = "a part of the tests' helpers")]
#[path = "../../../../crates/actix-idempotency-sqlx/tests/it/databases/proxy.rs"]
mod proxy;

/// How long the server may take to start, and a lock to be freed at the end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A database, with a proxy for each process of the application.
pub(crate) struct Database<'a> {
    cluster: &'a Mutex<Cluster>,
    port: u16,
    name: String,
    proxies: Vec<Proxy>,
}

/// The server for all rounds. `None`: PostgreSQL is not installed, which is printed.
pub(crate) fn start() -> Option<Mutex<Cluster>> {
    Cluster::start().map(Mutex::new)
}

impl<'a> Database<'a> {
    pub(crate) fn create(cluster: &'a Mutex<Cluster>, name: &str, processes: usize) -> io::Result<Self> {
        let port = guard(cluster).port;
        let until = Instant::now() + PATIENCE;
        // The server listens before it has recovered.
        while let Err(error) = Sql::connect(port, "postgres").and_then(|mut sql| sql.query("SELECT 1")) {
            if Instant::now() > until {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Sql::connect(port, "postgres")?.query(&format!("CREATE DATABASE {name}"))?;
        let proxies = (0..processes).map(|_| Proxy::start(port)).collect();
        Ok(Self { cluster, port, name: name.to_owned(), proxies })
    }

    /// The URL for one process of the application.
    pub(crate) fn url(&self, process: usize) -> String {
        self.proxies[process].through(&self.name)
    }

    /// A connection that passes no proxy.
    pub(crate) fn connect(&self) -> io::Result<Sql> {
        Sql::connect(self.port, &self.name)
    }

    /// How many COMMITs, or answers to them, were lost.
    pub(crate) fn lost(&self) -> u32 {
        self.proxies.iter().map(Proxy::lost).sum()
    }

    /// Loses the COMMITs of one process for a while, or their answers.
    pub(crate) fn lose_commits(&self, random: &mut Random) -> String {
        let process = random.index(self.proxies.len());
        let (name, commits) = match random.below(8) {
            0..3 => ("answers of COMMIT lost", Commits::LoseAnswer),
            3..5 => ("COMMITs lost", Commits::Lose),
            5..7 => ("COMMITs late", Commits::Late),
            _ => ("an answer of COMMIT and then the database lost", Commits::LoseAnswerAndAll),
        };
        self.proxies[process].commits(commits);
        let millis = 20 + random.below(200);
        thread::sleep(Duration::from_millis(millis));
        self.proxies[process].commits(Commits::Pass);
        format!("{name} for {millis} ms at process {process}")
    }

    /// Terminates one connection, as an administrator does.
    pub(crate) fn terminate(&self, random: &mut Random) -> Option<String> {
        let mut sql = self.connect().ok()?;
        let pid = backend(&mut sql, random)?;
        sql.query(&format!("SELECT pg_terminate_backend({pid})")).ok()?;
        Some(format!("terminated backend {pid}"))
    }

    /// The id of a process of the server that serves one connection.
    pub(crate) fn backend(&self, random: &mut Random) -> Option<u32> {
        backend(&mut self.connect().ok()?, random)
    }

    /// Ends the server, as a crash or as an administrator does, and starts it again.
    pub(crate) fn restart(&self, is_crash: bool) {
        let mut cluster = guard(self.cluster);
        if is_crash {
            cluster.kill();
        } else {
            cluster.stop();
        }
        cluster.restart();
    }

    /// Waits until no transaction is open.
    pub(crate) fn settled(&self) -> Result<(), String> {
        let open = "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database() \
                    AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'";
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.connect().and_then(|mut sql| sql.query(open));
            match found {
                Ok(rows) if rows.is_empty() => return Ok(()),
                found if Instant::now() > until => return Err(format!("transactions stay open: {found:?}")),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn backend(sql: &mut Sql, random: &mut Random) -> Option<u32> {
    let list = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                AND backend_type = 'client backend' ORDER BY pid";
    let pids = sql.query(list).ok()?;
    (!pids.is_empty()).then(|| pids[random.index(pids.len())][0].parse().ok())?
}

fn guard(cluster: &Mutex<Cluster>) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}
