//! Files of SQLite stores, and conformance servers that share them.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{Begin, BeginRequest, Claim, Completion, OwnerToken, SqliteOptions, SqliteStore, Store as _},
};
use actix_web::http::StatusCode;
use rusqlite::Connection;

use crate::common::{PATIENCE, RunLog, Server, fresh_key};

/// A folder for files of stores, which is removed with the test.
pub(crate) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("sqlite-{}", fresh_key()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn new_file(&self) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.0.join(format!("{}.db", NEXT.fetch_add(1, SeqCst)))
    }

    /// The session files in this folder.
    pub(super) fn sessions(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.to_str().unwrap().contains(".db.s-")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a conformance server that keeps its records in this file.
pub(crate) fn server(file: &Path, log: &RunLog, more: &[(&str, &str)]) -> Server {
    let mut variables = variables(file);
    variables.push(("RUN_LOG", log.path()));
    variables.extend(more);
    Server::start(&variables)
}

pub(super) fn variables(file: &Path) -> Vec<(&'static str, &str)> {
    vec![
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "sqlite"),
        ("IDEMPOTENCY_KEY__STORAGE__LOCATION", file.to_str().unwrap()),
        // The machine may be busy.
        ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "5"),
    ]
}

/// Opens the file as another program would.
pub(super) fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

/// Asserts that SQLite finds the file sound.
pub(super) fn is_sound(file: &Path) {
    let said: String = open(file).pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
}

/// A file that belongs to another one: its write-ahead log, for example.
pub(super) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    name.into()
}

/// An answer, or the end of a connection that a server has left behind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) is_replay: bool,
    pub(super) body: Vec<u8>,
}

/// Sends a request to a server that may die at any time.
pub(super) fn try_post(address: SocketAddr, path: &str, key: &str) -> io::Result<Told> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nIdempotency-Key: {key}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let body = answer[end + 4..].to_vec();
    if length.is_some_and(|length| length != body.len()) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Told { status, is_replay: head.contains("idempotent-replayed: true"), body })
}

pub(super) fn ask(n: u8) -> BeginRequest {
    BeginRequest::new(RecordId::from_bytes([n; 32]), Fingerprint::from_bytes([1; 42]), OwnerToken::random())
        .lease(Duration::from_secs(900))
}

pub(super) fn record(body: &[u8]) -> Record {
    Record::new(StatusCode::CREATED, [], Some(body))
}

pub(super) async fn claim(store: &SqliteStore, request: &BeginRequest) -> Claim {
    match store.begin(request).await.unwrap() {
        Begin::Acquired(acquired) => acquired.claim,
        other => panic!("{other:?}"),
    }
}

/// Completes the record `n`.
pub(super) async fn done(store: &SqliteStore, n: u8, body: &[u8], ttl: Duration) -> Claim {
    let claim = claim(store, &ask(n)).await;
    assert_eq!(store.complete(&claim, &record(body), ttl).await.unwrap(), Completion::Stored);
    claim
}

/// Options whose calls may take long, since the machine may be busy.
pub(super) fn options(file: PathBuf) -> SqliteOptions {
    let mut options = SqliteOptions::new(file);
    options.timeout = PATIENCE;
    options.durability = actix_idempotency::store::Durability::Process;
    options
}
