//! No layer at all, and one that is broken.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use actix_web::middleware::DefaultHeaders;

use super::Layer;
use crate::erased::Erased;

pub(super) struct None;

impl Layer for None {}

/// Has another number at each server, which it shows in a header and in what it has seen.
pub(super) struct Broken(usize);

impl Default for Broken {
    fn default() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        Self(LAST.fetch_add(1, SeqCst))
    }
}

impl Layer for Broken {
    fn wrap(&self) -> Erased {
        Erased::new(DefaultHeaders::new().add(("x-server", self.0)))
    }

    fn seen(&self) -> Vec<String> {
        vec![format!("server {}", self.0)]
    }
}
