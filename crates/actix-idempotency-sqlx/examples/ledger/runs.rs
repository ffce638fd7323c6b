//! Counts how often each handler runs, for tests from outside.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderValue, web};

/// Counts and logs the runs of this process.
pub(crate) struct Runs {
    count: Mutex<BTreeMap<String, u64>>,
    log: Option<File>,
}

/// A handler that has started.
pub(crate) struct Run {
    runs: web::Data<Runs>,
    line: String,
    /// How often this path was run by this process.
    pub(crate) n: u64,
    /// The request's key, as sent.
    pub(crate) key: String,
}

impl Runs {
    /// With `RUN_LOG`, each run appends a `start` and an `end` line to that file.
    pub(crate) fn from_environment() -> io::Result<Self> {
        let log =
            env::var_os("RUN_LOG").map(|path| File::options().append(true).create(true).open(path)).transpose()?;
        Ok(Self { count: Mutex::default(), log })
    }
}

impl Run {
    pub(crate) fn start(runs: &web::Data<Runs>, request: &HttpRequest) -> Self {
        let n = {
            let mut count = runs.count.lock().unwrap_or_else(PoisonError::into_inner);
            let n = count.entry(request.path().to_owned()).or_default();
            *n += 1;
            *n
        };
        let key = request.headers().get("idempotency-key").map(HeaderValue::as_bytes);
        let key = key.map_or("-".into(), |key| String::from_utf8_lossy(key).into_owned());
        let shown = key.replace(' ', "%20").replace('\t', "%09");
        let line = format!("{} {} {} {shown}", std::process::id(), request.method(), request.path());
        let run = Self { runs: runs.clone(), line, n, key };
        run.log("start");
        run
    }

    pub(crate) fn end(&self) {
        self.log("end");
    }

    fn log(&self, what: &str) {
        if let Some(mut log) = self.runs.log.as_ref() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            // The line is written in one call, so that lines of several processes don't mix.
            let _ = log.write_all(format!("{what} {now} {}\n", self.line).as_bytes());
        }
    }
}

pub(crate) async fn counted(runs: web::Data<Runs>) -> HttpResponse {
    HttpResponse::Ok().json(&*runs.count.lock().unwrap_or_else(PoisonError::into_inner))
}
