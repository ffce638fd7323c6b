//! Records as operators read them, in JSON.

use std::time::SystemTime;

use actix_web::http::header::{self, HeaderName, HeaderValue, HttpDate};
use serde::Serialize;
use serde_json::Value;

use crate::{
    app::Idempotency,
    key::digest::hex,
    record::{OBSERVED, Record, StoredResponse},
    store::{Inspection, SeenStep, Step},
};

#[derive(Serialize)]
pub(super) struct Status<'a> {
    running: usize,
    mode: &'static str,
    /// The request header with the key.
    header: &'a str,
    /// The cache of wraps that name none.
    cache: &'a str,
    caches: Vec<CacheRow>,
}

#[derive(Serialize)]
struct CacheRow {
    name: String,
    class: String,
}

#[derive(Serialize)]
pub(super) struct Page<'a> {
    pub(super) records: Vec<Row<'a>>,
    /// The parameter `after` of the next page.
    pub(super) next: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Export<'a> {
    pub(super) records: Vec<Detail<'a>>,
    /// The member `after` of the next request.
    pub(super) next: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Found<'a> {
    pub(super) cache: &'a str,
    pub(super) id: String,
    /// Whether the record was only observed (`mode = observe`).
    pub(super) observed: bool,
    pub(super) record: Option<Detail<'a>>,
}

#[derive(Serialize)]
pub(super) struct Row<'a> {
    cache: &'a str,
    id: String,
    state: &'static str,
    owner: Option<String>,
    attempt: u32,
    /// Whether an owner was lost while it ran, and no response was stored since.
    lost_owner: Option<bool>,
    /// The status of a response that was not stored, where a client was promised an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_stored: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepRow>,
    replays: Option<u64>,
    first_seen: Option<String>,
    last_seen: Option<String>,
    remaining_seconds: u64,
    /// Whether the record was only observed (`mode = observe`). Known once it has a response.
    observed: bool,
    /// Whether there is a response that the keys of the server do not open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
    response: Option<Response>,
}

#[derive(Serialize)]
struct StepRow {
    name: String,
    /// The size of the result. `None`: the step was started, and its result is not known.
    result_bytes: Option<usize>,
    /// When the process that ran the step saved it.
    saved: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Steps {
    steps: Vec<StepDetail>,
}

#[derive(Serialize)]
struct StepDetail {
    #[serde(flatten)]
    row: StepRow,
    /// Whether only the client's key opens the result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
    /// `None`: there is none yet, or it is sealed.
    result: Option<Value>,
}

#[derive(Serialize)]
struct Response {
    status: u16,
    record_bytes: usize,
    /// `None`: the body was not kept.
    body_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<(String, String)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Body>,
}

#[derive(Serialize)]
pub(super) struct Body {
    encoding: &'static str,
    data: String,
}

/// A row with its whole response.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Detail<'a>(Row<'a>);

impl<'a> Status<'a> {
    pub(super) fn of(idempotency: &'a Idempotency) -> Self {
        let settings = idempotency.settings();
        let caches = settings.all_caches().into_iter();
        let caches = caches.map(|(name, cache)| CacheRow { name, class: cache.class }).collect();
        let cache = settings.storage.cache_name.as_str();
        let mode = if settings.is_observed() { "observe" } else { "enforce" };
        Self {
            running: idempotency.running(),
            mode,
            header: settings.header.first().map_or("", |name| name.as_str()),
            cache,
            caches,
        }
    }
}

impl<'a> Row<'a> {
    pub(super) fn of(cache: &'a str, record: &Inspection) -> Self {
        let bytes = record.record.as_ref().map_or(0, Record::len);
        let response = record.record.as_ref().and_then(|record| record.response().ok());
        Self {
            cache,
            id: record.id.to_string(),
            state: record.state.name(),
            owner: record.owner.map(|owner| hex(&owner.as_bytes()[..4])),
            attempt: record.attempt,
            lost_owner: record.lost_owner,
            not_stored: record.not_stored,
            steps: record.steps.iter().map(StepRow::of).collect(),
            replays: record.replays,
            first_seen: record.first_seen.map(date),
            last_seen: record.last_seen.map(date),
            remaining_seconds: record.remaining.as_secs(),
            observed: response.as_ref().is_some_and(|response| response.header(&OBSERVED.0).is_some()),
            sealed: record.record.as_ref().is_some_and(Record::is_sealed),
            response: response.map(|response| Response {
                status: response.status().as_u16(),
                record_bytes: bytes,
                body_bytes: response.body().map(bytes::Bytes::len),
                headers: None,
                body: None,
            }),
        }
    }
}

impl StepRow {
    fn of(step: &SeenStep) -> Self {
        Self { name: step.name.to_string(), result_bytes: step.size, saved: step.at.map(date) }
    }
}

impl Steps {
    pub(super) fn of(steps: &[Step]) -> Self {
        let detail = |step: &Step| StepDetail {
            row: StepRow::of(&SeenStep::from(step)),
            sealed: step.is_sealed(),
            result: step.result.as_ref().and_then(|result| serde_json::from_slice(result).ok()),
        };
        Self { steps: steps.iter().map(detail).collect() }
    }
}

impl<'a> Detail<'a> {
    /// A row without the headers and the body of its response.
    pub(super) fn short(cache: &'a str, record: &Inspection) -> Self {
        Self(Row::of(cache, record))
    }

    pub(super) fn of(cache: &'a str, record: &Inspection, stored: Option<&StoredResponse>, body: Option<Body>) -> Self {
        let mut row = Row::of(cache, record);
        if let (Some(response), Some(stored)) = (&mut row.response, stored) {
            let text = |name: &HeaderName, value: &HeaderValue| match name {
                // A session's cookie would let the operator act as that user.
                name if name == header::SET_COOKIE => "(not shown)".to_owned(),
                _ => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            };
            let headers = stored.headers().iter().map(|(name, value)| (name.to_string(), text(name, value)));
            response.headers = Some(headers.collect());
            response.body = body;
        }
        Self(row)
    }
}

impl Body {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { encoding: "utf-8", data: text.to_owned() },
            Err(_) => Self { encoding: "hex", data: hex(bytes) },
        }
    }
}

fn date(time: SystemTime) -> String {
    HttpDate::from(time).to_string()
}
