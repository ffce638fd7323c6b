//! Requests that go on while servers of Redis are replaced.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::common::{Connection, Reply, Request, RunLog, Server, eventually, fresh_key};

/// The longest time to an answer: `storage.timeout`, which is two seconds at most here, and room for a busy machine. A
/// call without that limit would take ten seconds.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// How long after any client can see a new primary the service may still refuse requests.
pub(in crate::store::redis) const RECOVERY: Duration = Duration::from_millis(1500);

const THREADS: usize = 4;

pub(super) struct Sample {
    pub(super) key: String,
    pub(super) sent: Instant,
    pub(super) took: Duration,
    pub(super) reply: Reply,
}

/// Sends requests from several threads, each under a fresh key, until it is ended.
pub(super) struct Load {
    end: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    threads: Vec<JoinHandle<()>>,
    log: std::path::PathBuf,
    /// How many runs there were before the load.
    before: usize,
}

impl Load {
    /// Nothing else may run with `log` until the load has ended.
    pub(super) fn start(servers: &[Server; 2], log: &RunLog) -> Self {
        let (end, samples) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Sample>>>::default());
        let before = log.count("start");
        let threads = (0..THREADS).map(|n| {
            let (address, end, samples) = (servers[n % 2].address, end.clone(), samples.clone());
            std::thread::spawn(move || run(address, &end, &samples))
        });
        let this = Self { threads: threads.collect(), end, samples, log: log.path().into(), before };
        this.wait_for(20);
        this
    }

    /// Waits for the answers to `n` requests that are sent from now on.
    pub(super) fn wait_for(&self, n: usize) {
        self.wait_for_since(Instant::now(), n);
    }

    /// Waits for the answers to `n` requests that were sent after `since`, which may be in the future.
    pub(super) fn wait_for_since(&self, since: Instant, n: usize) {
        eventually("requests", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a request was not answered");
            let count = self.samples.lock().unwrap().iter().filter(|sample| sample.sent > since).count();
            if count >= n { Ok(()) } else { Err(count) }
        });
    }

    /// Ends the load. Each request must have had an answer in time: one that says that the operation ran, or 503, with
    /// which it did not run. Returns the requests in the order in which they were sent.
    pub(super) fn end(mut self) -> Vec<Sample> {
        self.end.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("all requests are answered");
        }
        let mut samples = std::mem::take(&mut *self.samples.lock().unwrap());
        samples.sort_by_key(|sample| sample.sent);
        for Sample { key, took, reply, .. } in &samples {
            assert!(*took < LIMIT, "{key}: {took:?}, {reply:?}");
            match reply.status {
                201 => assert!(!reply.is_replay(), "{key}: {reply:?}"),
                _ => reply.is_problem(503, "store-unavailable"),
            }
        }
        let text = std::fs::read_to_string(&self.log).unwrap();
        let runs = text.lines().filter(|line| line.starts_with("start ")).count() - self.before;
        let answered = samples.iter().filter(|sample| sample.reply.status == 201).count();
        assert_eq!(runs, answered, "what is answered 503 has not run");
        samples
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, SeqCst);
    }
}

fn run(address: SocketAddr, end: &AtomicBool, samples: &Mutex<Vec<Sample>>) {
    while !end.load(SeqCst) {
        let (key, sent) = (fresh_key(), Instant::now());
        let reply = Connection::open(address).send(&Request::post("/items").key(&key));
        samples.lock().unwrap().push(Sample { key, sent, took: sent.elapsed(), reply });
        // Leaves room for the servers on a small machine.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Some of the requests that were sent after `since` and ran, spread over the whole time.
pub(super) fn answered_since(samples: Vec<Sample>, since: Instant) -> Vec<(String, Reply)> {
    let ran = samples.into_iter().filter(|sample| sample.sent > since && sample.reply.status == 201);
    let ran: Vec<_> = ran.map(|sample| (sample.key, sample.reply)).collect();
    let step = (ran.len() / 200).max(1);
    ran.into_iter().step_by(step).collect()
}

/// No request that was sent after `since` was refused.
#[track_caller]
pub(super) fn none_is_refused_since(samples: &[Sample], since: Instant) {
    let later: Vec<&Sample> = samples.iter().filter(|sample| sample.sent > since).collect();
    let refused: Vec<Duration> =
        later.iter().filter(|sample| sample.reply.status != 201).map(|sample| sample.sent - since).collect();
    assert!(refused.is_empty(), "{} of {} refused, {refused:?} after it", refused.len(), later.len());
}
