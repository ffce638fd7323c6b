//! Clients that retry a key at random processes until they have a final answer.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use super::super::{
    client::{Answer, PATIENCE, Request, send},
    random::Random,
    servers::{Servers, now},
};

/// A key, and all that its clients saw.
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) path: String,
    /// The status of its final answer.
    pub(crate) status: u16,
    /// How many rows one run commits.
    pub(crate) rows: u64,
    /// Whether a client uses it with another payload.
    pub(crate) is_contested: bool,
    pub(crate) attempts: Vec<Attempt>,
    /// How many clients had no final answer when their patience ended.
    pub(crate) given_up: usize,
}

/// One request of a client.
pub(crate) struct Attempt {
    pub(crate) sent: u128,
    pub(crate) ended: u128,
    pub(crate) process: usize,
    pub(crate) payload: &'static str,
    pub(crate) answer: Result<Answer, String>,
}

/// The payloads of a key. All clients send the first one, unless the key is contested.
pub(crate) const PAYLOADS: [&str; 2] = ["", "another payload"];

impl Key {
    fn choose(name: String, random: &mut Random) -> Self {
        let (rows, ms) = (1 + random.below(3), if random.percent(30) { random.below(400) } else { random.below(10) });
        let route = if random.percent(50) { "/tx" } else { "/transactions" };
        let (path, status, rows) = match random.below(10) {
            0..6 => (format!("{route}?rows={rows}&ms={ms}"), 201, rows),
            6 => (format!("{route}?rows={rows}&ms={ms}&fail=stream"), 201, rows),
            7 | 8 => (format!("{route}?rows={rows}&ms={ms}&status=402"), 402, 0),
            _ => ("/items".to_owned(), 201, 0),
        };
        Self { name, path, status, rows, is_contested: random.percent(10), attempts: Vec::new(), given_up: 0 }
    }

    /// The payloads that clients send.
    pub(crate) fn payloads(&self) -> &'static [&'static str] {
        &PAYLOADS[..if self.is_contested { 2 } else { 1 }]
    }

    fn send(
        &self,
        servers: &Servers,
        process: usize,
        payload: &'static str,
        leave_after: Option<u64>,
        stalls: bool,
    ) -> Attempt {
        let sent = now();
        let request = Request { path: &self.path, key: &self.name, body: payload, leave_after, stalls };
        let answer = send(servers.address(process), &request).map_err(|error| error.to_string());
        Attempt { sent, ended: now(), process, payload, answer }
    }

    /// Asks random processes until an answer is final. The client leaves before an answer at times, or stalls.
    fn until_final(&self, servers: &Servers, payload: &'static str, mut random: Random) -> Vec<Attempt> {
        until_final(|| {
            let process = random.index(servers.count());
            let leave_after = random.percent(10).then(|| random.below(200));
            let stalls = random.percent(3);
            let pause = Duration::from_millis(20 + random.below(80));
            (self.send(servers, process, payload, leave_after, stalls), pause)
        })
    }

    /// Asks one process until its answer is final. This client neither leaves nor stalls.
    pub(crate) fn until_final_at(&self, servers: &Servers, process: usize, payload: &'static str) -> Vec<Attempt> {
        until_final(|| (self.send(servers, process, payload, None, false), Duration::from_millis(50)))
    }

    /// Adds what one client saw.
    pub(crate) fn add(&mut self, attempts: Vec<Attempt>) {
        self.given_up += usize::from(!attempts.last().is_some_and(Attempt::is_final));
        self.attempts.extend(attempts);
    }
}

/// Repeats an attempt, with a pause after each, until it is final or the patience of the client ends.
fn until_final(mut attempt: impl FnMut() -> (Attempt, Duration)) -> Vec<Attempt> {
    let (start, mut attempts) = (Instant::now(), Vec::new());
    loop {
        let (attempt, pause) = attempt();
        let ends = attempt.is_final() || start.elapsed() > PATIENCE;
        attempts.push(attempt);
        if ends {
            return attempts;
        }
        thread::sleep(pause);
    }
}

impl Attempt {
    /// Whether its client does not try again. Refusals of keys in flight and failures of the server are not final.
    pub(crate) fn is_final(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| !matches!(answer.status, 409 | 423 | 500..))
    }

    /// The answer of an operation, and not a refusal. Equal operations get equal ones.
    pub(crate) fn result(&self) -> Option<Outcome<'_>> {
        let answer = self.answer.as_ref().ok().filter(|answer| self.is_final() && answer.status != 422)?;
        Some(Outcome { status: answer.status, kind: answer.header("content-type"), body: &answer.body })
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| answer.header("idempotent-replayed") == Some("true"))
    }
}

/// The parts of an answer that its replays have, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome<'a> {
    pub(crate) status: u16,
    kind: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl fmt::Debug for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status, self.kind.unwrap_or("-"), String::from_utf8_lossy(self.body))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request, {} ms at process {}: ", self.ended.saturating_sub(self.sent), self.process)?;
        if !self.payload.is_empty() {
            write!(f, "with {} ", self.payload)?;
        }
        match &self.answer {
            Ok(answer) => {
                let replay = if self.is_replay() { " (replay)" } else { "" };
                write!(f, "{}{replay} {}", answer.status, String::from_utf8_lossy(&answer.body))
            }
            Err(error) => f.write_str(error),
        }
    }
}

/// Uses one new key after the other until `stop` is set.
pub(crate) fn work(
    servers: &Servers,
    prefix: &str,
    stop: &AtomicBool,
    next: &AtomicUsize,
    mut random: Random,
) -> Vec<Key> {
    let mut done = Vec::new();
    while !stop.load(SeqCst) {
        let mut key = Key::choose(format!("{prefix}{}", next.fetch_add(1, SeqCst)), &mut random);
        // These clients send their first requests at the same time, and sometimes one more comes after them.
        let count = 1 + random.index(4);
        let seen: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..count)
                .map(|client| {
                    let payload = PAYLOADS[usize::from(key.is_contested && client % 2 == 1)];
                    let (random, key) = (Random::new(random.next()), &key);
                    scope.spawn(move || key.until_final(servers, payload, random))
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
        });
        for attempts in seen {
            key.add(attempts);
        }
        if random.percent(30) {
            key.add(key.until_final(servers, PAYLOADS[0], Random::new(random.next())));
        }
        done.push(key);
    }
    done
}
