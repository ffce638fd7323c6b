//! A client that retries one key at random servers until it has an answer. Sometimes it leaves before the answer.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{random::Random, servers::Servers};

/// No key may stay locked for this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The body of the answer. Each attempt goes to a random server.
pub(crate) fn until_answered(servers: &Servers, path: &str, key: &str, random: Random) -> Result<Vec<u8>, String> {
    let any = |random: &mut Random| servers.address(random.index(servers.count()));
    ask(any, path, key, random, 10)
}

/// The body of the answer of one server. The client neither leaves before it nor stalls.
pub(crate) fn until_answered_by(server: SocketAddr, path: &str, key: &str) -> Result<Vec<u8>, String> {
    ask(|_| server, path, key, Random::new(0), 0)
}

fn ask(
    server: impl Fn(&mut Random) -> SocketAddr,
    path: &str,
    key: &str,
    mut random: Random,
    leaves_percent: u64,
) -> Result<Vec<u8>, String> {
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < PATIENCE {
        let server = server(&mut random);
        let leaves = random.percent(leaves_percent);
        let stalls = random.percent(leaves_percent);
        let request = Request { path, key, body: "", leave_after: leaves.then(|| random.below(200)), stalls };
        match send(server, &request).map(|answer| (answer.status, answer.body)) {
            Ok((200..300, body)) => return Ok(body),
            Ok((423 | 503, _)) => last = "in flight or unavailable".into(),
            Ok((status, body)) => return Err(format!("{key}: {status} {}", String::from_utf8_lossy(&body))),
            Err(error) => last = error.to_string(),
        }
        thread::sleep(Duration::from_millis(20 + random.below(80)));
    }
    Err(format!("{key} at {path}: no answer within {} s; last: {last}", PATIENCE.as_secs()))
}

/// A request, and whether its client is a bad one.
pub(crate) struct Request<'a> {
    pub(crate) path: &'a str,
    pub(crate) key: &'a str,
    pub(crate) body: &'a str,
    /// The client closes its connection this many milliseconds after it has sent the request.
    pub(crate) leave_after: Option<u64>,
    /// The client stops reading half way for a while.
    pub(crate) stalls: bool,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// One attempt.
pub(crate) fn send(server: SocketAddr, request: &Request) -> io::Result<Answer> {
    let Request { path, key, body, leave_after, stalls } = *request;
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
    // Longer than any outage.
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    if let Some(millis) = leave_after {
        thread::sleep(Duration::from_millis(millis));
        return Err(io::Error::other("the client left"));
    }
    let mut answer = Vec::new();
    if stalls {
        let mut first = [0; 16];
        let length = stream.read(&mut first)?;
        answer.extend_from_slice(&first[..length]);
        thread::sleep(Duration::from_millis(700));
    }
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("the answer was cut short"))
}

/// The answer, if it is complete.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut body = &answer[end + 4..];
    let answer = |body: &[u8]| Answer { status, head: head.clone(), body: body.to_vec() };
    if !head.contains("transfer-encoding: chunked") {
        let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        return (body.len() == length).then(|| answer(body));
    }
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|part| part == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?, 16).ok()?;
        body = body.get(line + 2..)?;
        if size == 0 {
            return Some(answer(&whole));
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}
