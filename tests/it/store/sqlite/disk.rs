//! A disk that is full. The server has a small one of its own, which the system makes for it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::fixture::{Told, try_post};
use crate::common::{PATIENCE, RunLog, binary, eventually, fresh_key};

/// A conformance server in a name space with a disk of 3 MB. Its processes see the disk as `/mnt`, and tests see it under
/// the process id.
struct SmallDisk {
    child: Child,
    address: SocketAddr,
    log: RunLog,
}

impl SmallDisk {
    /// `None` where a process may not mount.
    fn start() -> Option<Self> {
        let mount = "mount -t tmpfs -o size=3m tmpfs /mnt && exec \"$0\"";
        let mut shell = Command::new("unshare");
        shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
        Self::run(shell)
    }

    /// Kills the server, and starts another one on the same disk.
    fn restart(mut self) -> Self {
        // A process in the name space keeps the disk.
        let of_disk = format!("--target={}", self.child.id());
        let enter = |program: &str| {
            let mut command = Command::new("nsenter");
            command.args([&of_disk, "--user", "--preserve-credentials", "--mount", program]);
            command
        };
        let mut keeper = enter("sleep").arg("60").spawn().expect("nsenter");
        let of_keeper = format!("--target={}", keeper.id());
        eventually("a process that keeps the disk", || {
            let seen = ["/proc", &keeper.id().to_string(), "root", "mnt", "a.db"].iter().collect::<PathBuf>();
            if seen.exists() { Ok(()) } else { Err(seen) }
        });
        let _ = (self.child.kill(), self.child.wait());
        let mut shell = Command::new("nsenter");
        shell.args([&of_keeper, "--user", "--preserve-credentials", "--mount"]);
        let again = Self::run(shell).expect("it starts on a full disk");
        let _ = (keeper.kill(), keeper.wait());
        again
    }

    fn run(mut shell: Command) -> Option<Self> {
        let log = RunLog::new();
        let mut child = shell
            .arg(binary("conformance"))
            .current_dir(std::env::temp_dir())
            .envs([
                ("ADDR", "127.0.0.1:0"),
                ("RUN_LOG", log.path()),
                ("IDEMPOTENCY_KEY__STORAGE__CLASS", "sqlite"),
                ("IDEMPOTENCY_KEY__STORAGE__LOCATION", "/mnt/a.db"),
                ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "2"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let Some(Ok(line)) = lines.next() else {
            println!("not checked: this user may not mount");
            let _ = child.wait();
            return None;
        };
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.strip_prefix("listening on ").expect("the address").parse().expect("an address");
        Some(Self { child, address, log })
    }

    fn file(&self, name: &str) -> PathBuf {
        ["/proc", &self.child.id().to_string(), "root", "mnt", name].iter().collect()
    }

    fn post(&self, path: &str, key: &str) -> Told {
        try_post(self.address, path, key).expect("an answer")
    }

    /// Takes all room that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = fs::File::create(self.file("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        while ballast.write_all(&[0]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.file("ballast")).unwrap();
    }

    /// Keys whose records take room, until there is none in the file and its log.
    fn fill_file(&self) {
        let start = Instant::now();
        while self.post("/bytes?size=20000", &fresh_key()).status == 200 {
            assert!(start.elapsed() < PATIENCE, "the disk does not become full");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn on_a_full_disk_nothing_runs_replays_go_on_and_room_is_enough_to_recover() {
    let Some(disk) = SmallDisk::start() else { return };
    let keys: Vec<String> = (0..5).map(|_| fresh_key()).collect();
    let bodies: Vec<_> = keys.iter().map(|key| disk.post("/items", key).body).collect();
    disk.fill();
    disk.fill_file();
    let runs = disk.log.count("start");
    for _ in 0..3 {
        assert_eq!(disk.post("/items", &fresh_key()).status, 503);
        for (key, body) in keys.iter().zip(&bodies) {
            let told = disk.post("/items", key);
            assert!(told.is_replay && told.body == *body, "{told:?}");
        }
    }
    assert_eq!(disk.log.count("start"), runs, "nothing runs whose answer has no room");
    let disk = disk.restart();
    assert_eq!(disk.post("/items", &fresh_key()).status, 503);
    for (key, body) in keys.iter().zip(&bodies) {
        let told = disk.post("/items", key);
        assert!(told.is_replay && told.body == *body, "{told:?}");
    }
    assert_eq!(disk.log.count("start"), 0);
    disk.make_room();
    eventually("recovery without a restart", || match disk.post("/items", &fresh_key()).status {
        201 => Ok(()),
        status => Err(status),
    });
    for (key, body) in keys.iter().zip(&bodies) {
        assert_eq!(disk.post("/items", key).body, *body);
    }
}

#[test]
fn an_answer_that_has_no_room_on_the_disk_is_given_and_written_when_there_is_room() {
    let Some(disk) = SmallDisk::start() else { return };
    let key = fresh_key();
    let first = std::thread::scope(|scope| {
        let running = scope.spawn(|| disk.post("/slow?ms=2500", &key));
        disk.log.wait_for("start", 1);
        disk.fill();
        disk.fill_file();
        // Even the smallest change finds no room.
        eventually("a full disk", || match disk.post("/items", &fresh_key()).status {
            503 => Ok(()),
            status => Err(status),
        });
        running.join().unwrap()
    });
    assert_eq!((first.status, first.is_replay), (200, false), "{first:?}");
    std::thread::sleep(Duration::from_millis(100));
    let meanwhile = disk.post("/slow?ms=2500", &key);
    assert!(meanwhile.status == 423 || meanwhile.is_replay, "{meanwhile:?}");
    disk.make_room();
    eventually("the deferred write", || {
        let again = disk.post("/slow?ms=2500", &key);
        if again.is_replay && again.body == first.body { Ok(()) } else { Err(again) }
    });
    let text = fs::read_to_string(disk.log.path()).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("start") && line.ends_with(&key)).count(), 1);
}
