//! Stored responses for requests that look them up, instead of sending the operation again.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpResponse,
    body::BoxBody,
    dev::ServiceRequest,
    http::header::{HeaderMap, HeaderValue},
};

use super::{config::WrapConfig, plan::WrapPlan, request::accept_encoding, response::replay};
use crate::{
    app::Idempotency,
    client::problem::ProblemStyle,
    handler::IdempotencyInfo,
    key::{InvalidKey, Key, Principal, RecordId, RequestHeaders},
    policy::Policy,
    record::{Record, UnreadableRecord},
    settings::{ConfigError, Settings},
};

/// Makes the answers of look-ups in one cache, as a wrap with the settings of the process would replay them.
pub(crate) struct StoredAnswers(WrapConfig);

impl StoredAnswers {
    /// `cache`: where keys are looked up. `None`: where wraps look that name no cache.
    pub(crate) fn new(idempotency: &Idempotency, cache: Option<String>) -> Result<Self, ConfigError> {
        let mut plan = WrapPlan::new(Policy::Exempt);
        plan.is_operators = true;
        plan.cache_name = cache;
        // A look-up is no retry: it gets the first status.
        plan.changes.push(Arc::new(|settings| settings.conflict_status_code = None));
        WrapConfig::new(&plan, idempotency).map(Self)
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) const fn style(&self) -> &ProblemStyle {
        &self.0.style
    }

    /// The name of the cache.
    pub(crate) fn cache(&self) -> &str {
        &self.0.claims.handle.name
    }

    pub(crate) fn principal(&self, request: &ServiceRequest) -> Principal {
        self.0.principal(request)
    }

    /// The key of a request.
    pub(crate) fn key_of(&self, headers: &HeaderMap) -> Result<Option<Key>, InvalidKey> {
        let Settings { header, syntax, max_key_length, .. } = self.settings();
        Key::of_request(headers, header, *syntax, *max_key_length)
    }

    /// The id of the record of a key.
    pub(crate) fn id_of(&self, principal: &Principal, key: &Key) -> RecordId {
        self.0.id_of_key(principal, key)
    }

    /// A principal as stores know it.
    pub(crate) fn stored_principal(&self, principal: &Principal) -> Principal {
        self.0.stored_ids.index.principal(principal.clone())
    }

    /// The stored response with its first status.
    pub(crate) fn response(
        &self,
        record: &Record,
        remaining: Duration,
        headers: &HeaderMap,
    ) -> Result<HttpResponse, UnreadableRecord> {
        let (headers, info) = (RequestHeaders::from(headers), IdempotencyInfo::default());
        let accepts = |coding: &HeaderValue| accept_encoding::accepts(headers, &info, coding);
        let response = replay::<BoxBody>(record, Some(remaining), &self.0, accepts)?;
        Ok(response.map_into_boxed_body())
    }
}
