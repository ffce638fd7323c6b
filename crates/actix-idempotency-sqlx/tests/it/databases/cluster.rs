//! Databases of a PostgreSQL server, and PgBouncer before it.

#[path = "server.rs"]
mod server;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

pub(crate) use self::server::Cluster;
use self::server::{find, free_port, new_directory, unprivileged, wait_for};
use crate::common::PATIENCE;

impl Cluster {
    /// The URL of a new database.
    pub(crate) async fn new_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("d{}", NEXT.fetch_add(1, SeqCst));
        let url = format!("postgres://postgres@127.0.0.1:{}", self.port);
        let admin = PgPoolOptions::new().max_connections(1).connect(&format!("{url}/postgres")).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
        admin.close().await;
        format!("{url}/{name}")
    }

    /// Connections to a new database.
    pub(crate) async fn pool(&self, size: u32) -> PgPool {
        connect(&self.new_database().await, size).await
    }
}

/// PgBouncer in transaction mode.
pub(crate) struct Bouncer {
    child: Child,
    directory: PathBuf,
    port: u16,
}

impl Bouncer {
    /// `None`: PgBouncer is not installed, which is printed.
    pub(crate) fn start(cluster: &Cluster) -> Option<Self> {
        let Some(program) = find("pgbouncer", &["/usr/sbin", "/usr/local/sbin"]) else {
            println!("SKIPPED: PgBouncer is not installed; `cargo xtask test` installs it");
            return None;
        };
        let directory = new_directory("pgbouncer");
        let (port, server) = (free_port(), cluster.port);
        let users = directory.join("users.txt");
        fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 4\n\
             ignore_startup_parameters = extra_float_digits\n",
            users.display()
        );
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut command = unprivileged(&program);
        let child = command.arg(&file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let mut bouncer = Self { child: child.expect("pgbouncer starts"), directory, port };
        wait_for("PgBouncer", &mut bouncer.child, port, &bouncer.directory.join("log"));
        Some(bouncer)
    }

    /// The URL of a database, through the proxy.
    pub(crate) fn through(&self, url: &str) -> String {
        let name = url.rsplit('/').next().expect("a name");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(crate) async fn connect(url: &str, size: u32) -> PgPool {
    let options = PgPoolOptions::new().max_connections(size).acquire_timeout(Duration::from_secs(2));
    options.connect(url).await.expect("the database answers")
}
