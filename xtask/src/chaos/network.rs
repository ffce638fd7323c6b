//! A proxy between the servers and Redis, whose faults change every moment.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::random::Random;

/// Everything passes.
const CLEAR: u8 = 0;
/// Every piece is delayed.
const SLOW: u8 = 1;
/// Connections are cut, between messages and within them.
const CUTTING: u8 = 2;
/// Nothing passes. This state is always shorter than a lease.
const STALLED: u8 = 3;

pub(crate) struct Network {
    pub(crate) port: u16,
    state: Arc<AtomicU8>,
    /// Held while everything must pass.
    quiet: Arc<Mutex<()>>,
}

impl Network {
    pub(crate) fn start(redis: u16) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let state = Arc::new(AtomicU8::new(CLEAR));
        let shared = state.clone();
        thread::spawn(move || {
            for (n, client) in (0..).zip(listener.incoming().flatten()) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", redis)) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                pump(&client, &server, shared.clone(), Random::new(n * 2));
                pump(&server, &client, shared.clone(), Random::new(n * 2 + 1));
            }
        });
        Ok(Self { port, state, quiet: Arc::default() })
    }

    /// Everything passes until the guard is dropped.
    pub(crate) fn quiet(&self) -> MutexGuard<'_, ()> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state of the network at random until `stop` is set. Then everything passes.
    pub(crate) fn disturb(&self, mut random: Random, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
        let (state, quiet) = (self.state.clone(), self.quiet.clone());
        thread::spawn(move || {
            let mut stalled = false;
            while !stop.load(SeqCst) {
                let disturbing = quiet.lock();
                // Never stalled twice in a row, because that could last longer than a lease.
                let choices = if stalled { 4 } else { 5 };
                let next = [CLEAR, CLEAR, SLOW, CUTTING, STALLED][random.index(choices)];
                stalled = next == STALLED;
                state.store(next, SeqCst);
                thread::sleep(Duration::from_millis(100 + random.below(900)));
                state.store(CLEAR, SeqCst);
                drop(disturbing);
                // Whoever waits for quiet gets it.
                thread::sleep(Duration::from_millis(5));
            }
            state.store(CLEAR, SeqCst);
        })
    }
}

/// Passes bytes on in one direction, as the state of the network allows.
fn pump(from: &TcpStream, to: &TcpStream, state: Arc<AtomicU8>, mut random: Random) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            while state.load(SeqCst) == STALLED {
                thread::sleep(Duration::from_millis(10));
            }
            let mut piece = &buffer[..length];
            match state.load(SeqCst) {
                SLOW => thread::sleep(Duration::from_millis(random.below(60))),
                CUTTING if random.percent(20) => piece = &piece[..random.index(length)],
                _ => {}
            }
            if to.write_all(piece).is_err() || piece.len() < length {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
