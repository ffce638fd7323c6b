//! Processes that are killed again and again while they serve.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::fixture::{Folder, Told, is_sound, server, try_post};
use crate::common::{PATIENCE, RunLog, Server, fresh_key};

/// How long the loop kills; `SQLITE_CRASHES` is the number of seconds of a longer one.
fn length() -> Duration {
    let seconds = env::var("SQLITE_CRASHES").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(12))
}

struct Processes<'a> {
    addresses: [Mutex<SocketAddr>; 3],
    start: Box<dyn Fn() -> Server + Send + Sync + 'a>,
}

impl Processes<'_> {
    /// Sends until there is an answer. Counts the connections that broke off: each of them may have been a run.
    fn post(&self, first: usize, key: &str) -> (Told, usize) {
        let start = Instant::now();
        let mut broken = 0;
        for n in first.. {
            let address = *self.addresses[n % 3].lock().unwrap();
            match try_post(address, "/slow?ms=15", key) {
                Ok(told) if matches!(told.status, 200 | 409) => return (told, broken),
                // A process that has just started or is about to die may refuse.
                Ok(told) => assert!(matches!(told.status, 423 | 503), "{told:?}"),
                Err(_) => broken += 1,
            }
            assert!(start.elapsed() < PATIENCE, "{key} is stuck");
            std::thread::sleep(Duration::from_millis(2));
        }
        unreachable!("it asks for ever")
    }
}

#[test]
fn however_often_processes_are_killed_each_key_has_one_answer() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let start = || server(&file, &log, &[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "5")]);
    let mut servers = [(); 3].map(|()| start());
    let processes =
        Processes { addresses: [0, 1, 2].map(|n: usize| Mutex::new(servers[n].address)), start: Box::new(start) };
    let stop = AtomicBool::new(false);
    let (answers, kills) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (processes, stop) = (&processes, &stop);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    while !stop.load(SeqCst) {
                        let key = fresh_key();
                        let (first, broken) = processes.post(client, &key);
                        let (again, more) = processes.post(client + 1, &key);
                        assert!(again.is_replay, "an acknowledged answer is a replay at another process: {again:?}");
                        assert_eq!(again.body, first.body);
                        answers.push((key, first.body, broken + more));
                    }
                    answers
                })
            })
            .collect();
        let (began, mut kills) = (Instant::now(), 0);
        while began.elapsed() < length() {
            std::thread::sleep(Duration::from_millis(60 + 37 * (kills % 7)));
            let n = kills as usize % 3;
            servers[n].kill();
            servers[n] = (processes.start)();
            *processes.addresses[n].lock().unwrap() = servers[n].address;
            kills += 1;
        }
        stop.store(true, SeqCst);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>(), kills)
    });
    let starts = std::fs::read_to_string(log.path()).unwrap();
    for (key, body, broken) in &answers {
        let runs = starts.lines().filter(|line| line.starts_with("start") && line.ends_with(key)).count();
        assert!(runs >= 1 && runs <= 1 + broken, "{key}: {runs} runs, and {broken} connections broke off");
        let (again, _) = processes.post(0, key);
        assert!(again.is_replay && again.body == *body, "{key}: {again:?}");
    }
    println!("{} keys, {kills} kills, {} runs", answers.len(), starts.matches("start").count());
    assert!(answers.len() > 50 && kills > 5, "{} keys, {kills} kills", answers.len());
    drop(servers);
    is_sound(&file);
}
