//! A PostgreSQL server of the test's own. Without sqlx: `cargo xtask chaos` includes this file, too.

use std::{
    ffi::OsStr,
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// A PostgreSQL server.
pub(crate) struct Cluster {
    /// A shell that ends the server when its standard input is closed, however this process ends.
    guard: Child,
    directory: PathBuf,
    pub(crate) port: u16,
}

impl Cluster {
    /// The server that most tests of this process share. `None`: PostgreSQL is not installed, which is printed.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A new server, for a test that disturbs it.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            println!("SKIPPED: PostgreSQL is not installed (no initdb); `cargo xtask test` installs it");
            return None;
        };
        let directory = new_directory("postgres");
        let data = directory.join("data");
        let mut init = unprivileged(programs.join("initdb"));
        let init = init.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"]).arg(&data);
        succeed("initdb", &init.output().expect("initdb starts"));
        let port = free_port();
        let mut cluster = Self { guard: spawn(&programs, &data, &directory, port), directory, port };
        cluster.wait();
        Some(cluster)
    }

    /// Starts the server again, after [`stop`](Self::stop) or [`kill`](Self::kill).
    pub(crate) fn restart(&mut self) {
        let programs = programs().expect("it was started before");
        self.guard = spawn(&programs, &self.directory.join("data"), &self.directory, self.port);
        self.wait();
    }

    /// Ends the server as an administrator would, at once.
    pub(crate) fn stop(&mut self) {
        self.signal("INT");
        self.guard.wait().expect("a child can be waited for");
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill(&mut self) {
        self.signal("QUIT");
        self.guard.wait().expect("a child can be waited for");
    }

    /// Sends a signal to the server's first process.
    pub(crate) fn signal(&self, name: &str) {
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid")).expect("it runs");
        let id = file.lines().next().expect("the id of the process");
        let sent = Command::new("kill").args([&format!("-{name}"), id]).status();
        assert!(sent.expect("the program kill exists").success());
    }

    /// A program that comes with the server.
    #[allow(dead_code, reason = "the benchmarks use it")]
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        Some(programs()?.join(name)).filter(|program| program.exists())
    }

    fn wait(&mut self) {
        wait_for("PostgreSQL", &mut self.guard, self.port, &self.directory.join("log"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The folder of the server's programs, which distributions keep out of the search path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    let found = folders.into_iter().rev().find(|folder| folder.join("initdb").exists());
    found.or_else(|| Some(find("initdb", &["/usr/local/pgsql/bin"])?.parent()?.to_path_buf()))
}

pub(super) fn find(program: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(more.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.exists())
}

fn spawn(programs: &Path, data: &Path, directory: &Path, port: u16) -> Child {
    let log = fs::File::options().append(true).create(true).open(directory.join("log")).unwrap();
    let mut command = unprivileged("sh");
    let script = "\"$@\" & server=$!; (read -r line; kill -QUIT $server) <&3 & wait $server; kill $! 2>/dev/null; true";
    command.args(["-c", &format!("exec 3<&0; {script}"), "sh"]).arg(programs.join("postgres"));
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "max_connections=60".to_owned(),
        "shared_buffers=16MB".to_owned(),
    ];
    command.arg("-D").arg(data);
    for setting in settings {
        command.args(["-c", &setting]);
    }
    command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("postgres starts")
}

/// A command that does not run as root, as which PostgreSQL refuses to run.
pub(super) fn unprivileged(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some((user, group)) = other_user() {
        command.uid(user).gid(group);
    }
    command
}

/// The user to run as instead of root. `None`: this process is not root's.
fn other_user() -> Option<(u32, u32)> {
    let output = Command::new("id").arg("-u").output().expect("the program id exists");
    if output.stdout.trim_ascii() != b"0" {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("users are known");
    let ids = ["postgres:", "nobody:"].iter().find_map(|name| {
        let mut fields = users.lines().find(|line| line.starts_with(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(ids.expect("there is a user `postgres` or `nobody`"))
}

pub(super) fn new_directory(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, SeqCst);
    let directory = std::env::temp_dir().join(format!("ledger-{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(super) fn wait_for(name: &str, child: &mut Child, port: u16, log: &Path) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let mut text = String::new();
        if Instant::now() > until || child.try_wait().unwrap().is_some() {
            let _ = fs::File::open(log).and_then(|mut file| file.read_to_string(&mut text));
            panic!("{name} does not start:\n{text}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn succeed(name: &str, output: &Output) {
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}
