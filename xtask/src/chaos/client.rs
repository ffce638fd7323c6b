//! A client that retries one key at random servers until it has an answer. Sometimes it leaves before the answer.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{random::Random, servers::Servers};

/// No key may stay locked for this long.
const PATIENCE: Duration = Duration::from_secs(60);

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
        match send(server, path, key, leaves.then(|| random.below(200)), stalls) {
            Ok((200..300, body)) => return Ok(body),
            Ok((423 | 503, _)) => last = "in flight or unavailable".into(),
            Ok((status, body)) => return Err(format!("{key}: {status} {}", String::from_utf8_lossy(&body))),
            Err(error) => last = error.to_string(),
        }
        thread::sleep(Duration::from_millis(20 + random.below(80)));
    }
    Err(format!("{key} at {path}: no answer within {} s; last: {last}", PATIENCE.as_secs()))
}

/// One attempt. With `leave_after`, the client closes its connection this many milliseconds after it has sent the
/// request. A client that `stalls` stops reading half way for a while.
fn send(
    server: SocketAddr,
    path: &str,
    key: &str,
    leave_after: Option<u64>,
    stalls: bool,
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
    // Longer than any outage.
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\nIdempotency-Key: {key}\r\nContent-Length: 0\r\n\r\n"
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

/// Status and body, if the answer is complete.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut body = &answer[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        return (body.len() == length).then(|| (status, body.to_vec()));
    }
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|part| part == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?, 16).ok()?;
        body = body.get(line + 2..)?;
        if size == 0 {
            return Some((status, whole));
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}
