//! Lost runs: what is known of them, and what a service found out about them.
//!
//! A run whose process died, or that lost its claim, may have had effects. With
//! [`on_unknown`](crate::IdempotencyKey::on_unknown) the service looks into the world before the next run begins, for
//! example into the list of charges of its provider.

use std::{fmt, time::SystemTime};

use actix_web::{
    HttpResponse,
    http::{
        Method, Uri,
        header::{HeaderName, HeaderValue},
    },
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::derive::{call_key, step_key};
use crate::{
    key::{Key, RecordId},
    store::Step,
};

/// A lost run, as the next request with the key finds it.
#[non_exhaustive]
pub struct Lost {
    /// The record.
    pub record: RecordId,
    /// How often the key was claimed before.
    pub attempt: u32,
    /// When the key was first claimed, if the store tells.
    pub since: Option<SystemTime>,
    /// The steps that were saved or started.
    pub steps: Vec<Step>,
    /// The request that is asked about: its payload is that of the lost run.
    pub request: LostRequest,
    /// The id that the record has with `mode = enforce`.
    pub(crate) id: RecordId,
    /// How often the record was completed before.
    pub(crate) completions: u32,
}

/// The request of a [`Lost`] run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LostRequest {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub uri: Uri,
    /// The headers of the request that asks.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, as it was sent. Empty with `body = stream`, since it is not read before the run: the headers may have its
    /// `Content-Digest`.
    pub body: Bytes,
}

/// The end of a lost run, as the service has found it out.
#[derive(Debug)]
pub enum Verdict {
    /// The lost run was done. This response is stored whatever its status, and replayed from now on.
    Done(HttpResponse),
    /// The lost run had no effect, or effects that a run takes up: the handler runs, and the record forgets the lost
    /// owner.
    NotDone,
    /// The service can't tell. The request gets 409 `outcome-unknown`, and the hook is asked again at the next one.
    Unknown,
}

impl Lost {
    /// The key that the closure of the [step](crate::IdempotencyInfo::step) of this name got.
    #[must_use]
    pub fn step_key(&self, name: &str) -> Key {
        step_key(&self.id, self.completions, name)
    }

    /// The key that [`IdempotencyInfo::derive`](crate::IdempotencyInfo::derive) gave to the handler.
    #[must_use]
    pub fn derive(&self, service: &str, call: &str) -> Key {
        call_key(&self.id, service, call)
    }

    /// The saved result of the step of this name, if there is one of this type.
    #[must_use]
    pub fn result<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let step = self.steps.iter().find(|step| *step.name == *name)?;
        serde_json::from_slice(step.result.as_ref()?).ok()
    }
}

impl LostRequest {
    pub(crate) const fn new(method: Method, uri: Uri, headers: Vec<(HeaderName, HeaderValue)>, body: Bytes) -> Self {
        Self { method, uri, headers, body }
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lost")
            .field("record", &self.record)
            .field("attempt", &self.attempt)
            .field("since", &self.since)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
