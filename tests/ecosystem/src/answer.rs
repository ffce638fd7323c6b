//! The answers that clients get.

use actix_web::{HttpResponse, http::StatusCode};

/// The answer to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0: the connection broke.
    pub status: u16,
    /// Sorted by name.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Headers of the connection, of the moment, or of the middleware itself, which marks its replays.
const IGNORED: [&str; 4] = ["connection", "content-length", "date", "idempotent-replayed"];

impl Answer {
    pub fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The answer as a handler's response.
    pub fn to_response(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).expect("the status of a response");
        let mut response = HttpResponse::build(status);
        for (name, value) in &self.headers {
            if !IGNORED.contains(&name.as_str()) {
                response.append_header((name.as_str(), value.as_str()));
            }
        }
        response.body(self.body.clone())
    }

    /// How this answer, the `n`th, differs from the one that it should be.
    pub fn differences(&self, wanted: &Self, n: usize) -> Vec<Found> {
        let mut found = Vec::new();
        if self.status != wanted.status {
            found.push(Found::new(format!("answer {n}: status {} instead of {}", self.status, wanted.status)));
        }
        let names = |answer: &Self| -> Vec<String> {
            let mut names: Vec<_> = answer.headers.iter().map(|(name, _)| name.clone()).collect();
            names.dedup();
            names.retain(|name| !IGNORED.contains(&name.as_str()));
            names
        };
        let values = |answer: &Self, name: &str| -> Vec<String> {
            answer.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.clone()).collect()
        };
        let (here, there) = (names(self), names(wanted));
        for name in &there {
            if !here.contains(name) {
                found.push(Found::new(format!("answer {n}: no `{name}`")));
            } else if values(self, name) != values(wanted, name) {
                let detail = format!("{:?} instead of {:?}", values(self, name), values(wanted, name));
                found.push(Found { what: format!("answer {n}: another `{name}`"), detail });
            }
        }
        for name in here.iter().filter(|name| !there.contains(name)) {
            found.push(Found { what: format!("answer {n}: more, `{name}`"), detail: values(self, name).join(", ") });
        }
        if self.body != wanted.body {
            let text = |answer: &Self| String::from_utf8_lossy(&answer.body).into_owned();
            let detail = format!("{:?} instead of {:?}", text(self), text(wanted));
            found.push(Found { what: format!("answer {n}: another body"), detail });
        }
        found
    }
}

/// A difference that a case has found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Without values that differ from run to run.
    pub what: String,
    pub detail: String,
}

impl Found {
    pub const fn new(what: String) -> Self {
        Self { what, detail: String::new() }
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.what)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}
