//! Warnings of settings that give promises up.

use std::collections::HashSet;

use actix_web::http::Method;
use parking_lot::Mutex;

use crate::settings::{Methods, OnError, Settings};

/// Warns of the promises that these settings give up. `process`: for a wrap, the settings of the process, of which a
/// warning was given already. Each worker makes its wraps, so a wrap's warning is given once.
pub(crate) fn warn_of_given_up_promises(settings: &Settings, process: Option<&Settings>) {
    static GIVEN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let known = process.map(given_up).unwrap_or_default();
    for warning in given_up(settings).into_iter().filter(|warning| !known.contains(warning)) {
        if process.is_none() {
            tracing::warn!("{warning}");
        } else if GIVEN.lock().get_or_insert_default().insert(warning.clone()) {
            tracing::warn!("at a wrap: {warning}");
        }
    }
}

fn given_up(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |warning: String| warnings.push(warning);
    if settings.is_observed() {
        warn("mode = observe: every request runs, retries too; what enforcing would have done is only reported".into());
    }
    if let Methods::List(methods) = &settings.methods {
        let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for method in methods.iter().filter(|method| !known.contains(method)) {
            warn(format!("methods: {method} is not one of POST, PUT, PATCH and DELETE; is it meant?"));
        }
    }
    if !settings.lock.enable {
        warn("lock.enable = false: duplicates may run side by side".into());
    }
    let caches = settings.all_caches();
    if let Some((_, cache)) = caches.iter().find(|(_, cache)| !matches!(cache.class.as_str(), "memory" | "sqlite"))
        && settings.lock.lease < cache.timeout * 4
    {
        warn(format!(
            "lock.lease ({:?}) is less than four times storage.timeout ({:?}): one slow call can cost a live owner its lease",
            settings.lock.lease, cache.timeout,
        ));
    }
    if settings.lock.ttl.is_some() {
        warn("lock.ttl is set: an operation that runs longer may be run again beside".into());
    }
    if caches.iter().any(|(_, cache)| cache.on_error == OnError::Run) || settings.storage.on_error == OnError::Run {
        warn("storage.on_error = run: while the store can't answer, operations run unprotected".into());
    }
    warnings
}
