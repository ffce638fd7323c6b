//! An HTTP/1.1 client without a library, so that a test chooses every byte that is sent and sees every byte that is
//! received.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde::de::DeserializeOwned;
use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;

#[derive(Clone)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The bytes of the request, with a Content-Length.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        if !self.body.is_empty() || self.method != "GET" {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }

    /// The request line and headers, without the empty line.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.into_bytes()
    }

    /// The bytes of the request with a chunked body, one chunk per byte.
    pub(crate) fn chunked(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for byte in &self.body {
            bytes.extend(b"1\r\n");
            bytes.push(*byte);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The number of the run that produced this answer, from the JSON of the conformance server.
    pub(crate) fn n(&self) -> u64 {
        self.json::<serde_json::Value>()["n"].as_u64().expect("the number of the run")
    }

    pub(crate) fn is_replay(&self) -> bool {
        match self.values("idempotent-replayed")[..] {
            [] => false,
            ["true"] => true,
            ref other => panic!("replay marker {other:?}"),
        }
    }

    /// Asserts that the answer is a problem with this status and type.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.value("content-type"), Some("application/problem+json"), "{self:?}");
        let json: serde_json::Value = self.json();
        assert_eq!(json["status"], status, "{json}");
        let uri = json["type"].as_str().expect("a type");
        assert!(uri.starts_with("https://") && uri.rsplit('/').next() == Some(kind), "{json}");
        assert!(json["title"].is_string(), "{json}");
        let retry = self.value("retry-after").map(|wait| wait.parse::<u64>().expect("whole seconds"));
        assert_eq!(retry.is_some(), matches!(status, 408 | 409 | 423 | 429 | 503), "{self:?}");
        assert_ne!(retry, Some(0));
        assert!(!self.is_replay());
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        stream.set_nodelay(true).expect("a socket takes an option");
        Self { stream, read: Vec::new() }
    }

    /// As [`open`](Self::open), with buffers so small that a server can't hand over a large answer which nobody reads.
    pub(crate) fn open_narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        // Before it connects: the size of the first segments depends on it.
        socket.set_recv_buffer_size(4096).expect("a socket takes an option");
        socket.connect(&address.into()).expect("the server listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        Self { stream, read: Vec::new() }
    }

    pub(crate) fn send(&mut self, request: &Request) -> Reply {
        self.write(&request.bytes());
        self.reply()
    }

    pub(crate) fn try_send(&mut self, request: &Request) -> io::Result<Reply> {
        self.stream.write_all(&request.bytes())?;
        self.try_reply()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Closes the connection with a TCP reset.
    pub(crate) fn reset(self) {
        let socket = SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket takes an option");
    }

    /// Closes the sending side of the connection. Answers can still be read.
    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the socket is open");
    }

    /// The next reply. Its body may be framed by chunks, by Content-Length or by the end of the connection.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply().expect("a reply")
    }

    pub(crate) fn try_reply(&mut self) -> io::Result<Reply> {
        let mut reply = self.reply_head()?;
        if reply.value("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
                reply.body.extend(self.take(size)?);
                self.take(2)?;
                if size == 0 {
                    return Ok(reply);
                }
            }
        }
        match reply.value("content-length").map(str::parse::<usize>) {
            Some(length) => reply.body = self.take(length.map_err(io::Error::other)?)?,
            None if matches!(reply.status, 204 | 304) || reply.status < 200 => {}
            None => {
                while self.fill()? > 0 {}
                reply.body = std::mem::take(&mut self.read);
            }
        }
        Ok(reply)
    }

    /// Status and headers only.
    pub(crate) fn reply_head(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                None => return Ok(Reply { status, headers, body: Vec::new() }),
            }
        }
    }

    /// Makes the buffers of a [narrow](Self::open_narrow) connection large enough to read fast.
    pub(crate) fn widen(&self) {
        SockRef::from(&self.stream).set_recv_buffer_size(1 << 20).expect("a socket takes an option");
    }

    /// All bytes until the end of the connection, which may break off.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the connection does not end: {error}"),
            }
        }
        std::mem::take(&mut self.read)
    }

    /// Waits for at least one more byte.
    pub(crate) fn some_bytes(&mut self) -> usize {
        self.fill().expect("bytes")
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let n = self.stream.read(&mut buffer)?;
        self.read.extend(&buffer[..n]);
        Ok(n)
    }

    fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < n {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.drain(..n).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2)?;
                return String::from_utf8(line[..end].to_vec()).map_err(io::Error::other);
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
