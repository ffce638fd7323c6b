//! A proxy before PostgreSQL that loses COMMITs, or their answers.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// The fate of the next COMMITs.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Commits {
    Pass,
    /// The server commits, and the connection is closed instead of its answer.
    LoseAnswer,
    /// The connection is closed instead of the COMMIT.
    Lose,
    /// As `LoseAnswer`, and no connection is possible from then on.
    LoseAnswerAndAll,
    /// The connection is closed, and the COMMIT arrives at the server a while later.
    #[allow(dead_code, reason = "the chaos of xtask uses it")]
    Late,
}

/// How late a COMMIT is with [`Commits::Late`]: longer than `storage.timeout`, so that it may not be settled in time.
const LATE: Duration = Duration::from_millis(800);

pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: u16,
    commits: AtomicU8,
    is_closed: AtomicBool,
    lost: AtomicU32,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            commits: AtomicU8::new(Commits::Pass as u8),
            is_closed: AtomicBool::new(false),
            lost: AtomicU32::new(0),
        });
        let to_all = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = to_all.clone();
                if !shared.is_closed.load(SeqCst) {
                    thread::spawn(move || shared.connect(&client));
                }
            }
        });
        Self { port, shared }
    }

    /// The URL of a database, through the proxy.
    pub(crate) fn through(&self, url: &str) -> String {
        let name = url.rsplit('/').next().expect("a name");
        format!("postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }

    /// Decides what becomes of COMMITs from now on.
    pub(crate) fn commits(&self, commits: Commits) {
        self.shared.commits.store(commits as u8, SeqCst);
        self.shared.is_closed.store(false, SeqCst);
    }

    /// How many COMMITs, or answers to them, were lost.
    pub(crate) fn lost(&self) -> u32 {
        self.shared.lost.load(SeqCst)
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: &TcpStream) {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server)) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        // Whether the next bytes of the server answer a COMMIT and are lost.
        let loses_answer = Arc::new(AtomicBool::new(false));
        let (from, to, loses, shared) =
            (server.try_clone().unwrap(), client.try_clone().unwrap(), loses_answer.clone(), self.clone());
        thread::spawn(move || shared.answers(from, to, &loses));
        let _ = self.requests(client, &server, &loses_answer);
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }

    /// Copies messages to the server, one by one.
    fn requests(&self, mut client: &TcpStream, mut server: &TcpStream, loses_answer: &AtomicBool) -> io::Result<()> {
        // The first message has no type.
        let mut has_type = false;
        loop {
            let mut head = vec![0; if has_type { 5 } else { 4 }];
            client.read_exact(&mut head)?;
            let length = u32::from_be_bytes(*head.last_chunk().expect("four bytes")) as usize;
            let mut body = vec![0; length - 4];
            client.read_exact(&mut body)?;
            if has_type && head[0] == b'Q' && body.starts_with(b"COMMIT") {
                match self.commits.load(SeqCst) {
                    mode if mode == Commits::Pass as u8 => {}
                    mode if mode == Commits::Lose as u8 => {
                        self.lost.fetch_add(1, SeqCst);
                        return Ok(());
                    }
                    mode if mode == Commits::Late as u8 => {
                        self.lost.fetch_add(1, SeqCst);
                        let _ = client.shutdown(Shutdown::Both);
                        thread::sleep(LATE);
                    }
                    mode => {
                        self.is_closed.store(mode == Commits::LoseAnswerAndAll as u8, SeqCst);
                        loses_answer.store(true, SeqCst);
                    }
                }
            }
            has_type = true;
            server.write_all(&[head, body].concat())?;
        }
    }

    /// Copies bytes to the client.
    fn answers(&self, mut server: TcpStream, mut client: TcpStream, loses_answer: &AtomicBool) {
        let mut bytes = [0; 8192];
        while let Ok(length @ 1..) = server.read(&mut bytes) {
            if loses_answer.load(SeqCst) {
                self.lost.fetch_add(1, SeqCst);
                break;
            }
            if client.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }
}
