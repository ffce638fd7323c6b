//! Lists records, filtered.

use std::str::FromStr as _;

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::{
    cache_of, id_of,
    refusal::Refusal,
    view::{Page, Row},
};
use crate::{
    app::Idempotency,
    key::RecordId,
    settings::Statuses,
    store::{Inspection, RecordState},
};

/// The greatest page.
const MOST: usize = 500;

/// How many records one request looks at, to find those that pass its filters; and how many it holds at a time, because
/// they come with their responses.
const MOST_LOOKED_AT: usize = 5_000;
const AT_ONCE: usize = 50;

/// The query of a listing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    cache: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
    state: Option<String>,
    status: Option<String>,
    replayed: Option<bool>,
    /// The beginning of the id, which is all that the log shows.
    id: Option<String>,
}

/// The conditions that a record must meet to be listed.
struct Filter {
    id: String,
    /// In one of these states.
    of_state: Vec<RecordState>,
    status: Option<Statuses>,
    replayed: Option<bool>,
}

impl Filter {
    fn of(listing: &Listing) -> Result<Self, Refusal> {
        let all = RecordState::ALL.into_iter();
        let of_state: Vec<RecordState> = match listing.state.as_deref() {
            None => all.collect(),
            Some("unfinished") => all.filter(|one| *one != RecordState::Completed).collect(),
            Some(name) => all.filter(|one| one.name() == name).collect(),
        };
        if of_state.is_empty() {
            return Err(Refusal::bad("state is one of in-flight, lapsed, lost, free, completed, unfinished"));
        }
        let status =
            listing.status.as_deref().map(|list| Statuses::from_str(list).map_err(|error| Refusal::bad(&error)));
        let id = listing.id.as_deref().unwrap_or_default().to_ascii_lowercase();
        if id.len() > 64 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Refusal::bad("id is the beginning of a record id, which has 64 hexadecimal digits"));
        }
        Ok(Self { id, of_state, status: status.transpose()?, replayed: listing.replayed })
    }

    /// The last id before the ids that begin as asked for.
    fn before(&self) -> Option<RecordId> {
        let least: RecordId = format!("{:0<64}", self.id).parse().ok()?;
        let mut bytes = *least.as_bytes();
        let at = bytes.iter().rposition(|byte| *byte > 0)?;
        bytes[at] -= 1;
        bytes[at + 1..].fill(0xff);
        Some(RecordId::from_bytes(bytes))
    }

    fn begins(&self, id: &RecordId) -> bool {
        id.to_string().starts_with(&self.id)
    }

    fn passes(&self, record: &Inspection) -> bool {
        let status = || record.record.as_ref().and_then(|record| record.response().ok()).map(|r| r.status());
        self.of_state.contains(&record.state)
            && self.replayed.is_none_or(|replayed| (record.replays.unwrap_or(0) > 0) == replayed)
            && self.status.as_ref().is_none_or(|statuses| status().is_some_and(|status| statuses.contains(status)))
    }
}

pub(super) async fn list(
    idempotency: web::Data<Idempotency>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Refusal> {
    let filter = Filter::of(&listing)?;
    let cache = cache_of(&idempotency, listing.cache.as_deref())?;
    let limit = listing.limit.unwrap_or(50);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::bad(&format!("limit is 1 to {MOST}")));
    }
    let after = listing.after.as_deref().map(id_of).transpose()?;
    let mut after = after.max(filter.before());
    let mut records = Vec::new();
    for _ in 0..MOST_LOOKED_AT / AT_ONCE {
        let found = idempotency.list(cache, after, AT_ONCE).await?;
        // A store that answers at once would keep this worker from its other requests.
        tokio::task::yield_now().await;
        if found.is_empty() {
            return Ok(HttpResponse::Ok().json(Page { records, next: None }));
        }
        for record in found {
            // Records come in the order of their ids.
            if !filter.begins(&record.id) {
                return Ok(HttpResponse::Ok().json(Page { records, next: None }));
            }
            if records.len() == limit {
                return Ok(HttpResponse::Ok().json(Page { records, next: after.map(|id| id.to_string()) }));
            }
            after = Some(record.id);
            if filter.passes(&record) {
                records.push(Row::of(cache, &record));
            }
        }
    }
    Ok(HttpResponse::Ok().json(Page { records, next: after.map(|id| id.to_string()) }))
}
