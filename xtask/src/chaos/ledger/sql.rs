//! A connection to PostgreSQL in the simple protocol, so that the verdict shares no code with the ledger under test.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

pub(crate) struct Sql(TcpStream);

impl Sql {
    /// Connects as the user `postgres`, whom the server trusts.
    pub(crate) fn connect(port: u16, database: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The version of the protocol is 3.0.
        let start = [&196_608_u32.to_be_bytes()[..], b"user\0postgres\0database\0", database.as_bytes(), b"\0\0"];
        stream.write_all(&with_length(&start.concat()))?;
        let mut sql = Self(stream);
        sql.rows()?;
        Ok(sql)
    }

    /// The rows of a statement, as text. NULL is empty.
    pub(crate) fn query(&mut self, statement: &str) -> io::Result<Vec<Vec<String>>> {
        let body = with_length(&[statement.as_bytes(), b"\0"].concat());
        self.0.write_all(&[b"Q", &body[..]].concat())?;
        self.rows()
    }

    /// Reads messages until the server is ready for the next statement.
    fn rows(&mut self) -> io::Result<Vec<Vec<String>>> {
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
            self.0.read_exact(&mut body)?;
            match kind {
                b'Z' => return failed.map_or(Ok(rows), Err),
                b'D' => rows.push(columns(&body).ok_or(io::ErrorKind::InvalidData)?),
                b'E' => {
                    let message = String::from_utf8_lossy(&body).replace('\0', " ");
                    // After FATAL, the server closes the connection, and the next read fails.
                    if message.contains("FATAL") {
                        return Err(io::Error::other(message));
                    }
                    failed = Some(io::Error::other(message));
                }
                _ => {}
            }
        }
    }
}

/// A message after its type: the length includes itself.
fn with_length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), body].concat()
}

/// The columns of one row.
fn columns(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        columns.push(String::from_utf8_lossy(after.get(..length)?).into_owned());
        rest = &after[length..];
    }
    Some(columns)
}
