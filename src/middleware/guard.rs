//! Route guards that declare the policy of a single route.
//!
//! ```
//! use actix_idempotency::{IdempotencyKey, guard};
//! use actix_web::{App, HttpResponse, web};
//!
//! let app = App::new().wrap(IdempotencyKey::default()).service(
//!     web::resource("/webhook").route(web::post().guard(guard::exempt()).to(HttpResponse::Ok)),
//! );
//! # let _ = app;
//! ```
//!
//! A policy guard lets every request through; it only reports its policy to the wrap outside. The report stays when a
//! later guard rejects the route. So a policy guard must be the *last* guard of its route, and each sibling route of
//! the same resource that takes the same method needs a policy guard too. Where that does not hold, wrap the route
//! instead: `web::post().to(handler).wrap(ExemptIdempotencyKey::default())`.

use actix_web::guard::{Guard, GuardContext};

use super::nesting;
use crate::{handler::IdempotencyInfo, policy::Policy};

/// The route demands a key: [`Policy::Required`].
#[must_use]
pub fn required() -> impl Guard {
    PolicyGuard::new(Policy::Required)
}

/// The route takes a key or none: [`Policy::Optional`].
#[must_use]
pub fn optional() -> impl Guard {
    PolicyGuard::new(Policy::Optional)
}

/// The route ignores keys: [`Policy::Exempt`].
#[must_use]
pub fn exempt() -> impl Guard {
    PolicyGuard::new(Policy::Exempt)
}

/// The handler decides itself: [`Policy::Manual`].
#[must_use]
pub fn manual() -> impl Guard {
    PolicyGuard::new(Policy::Manual)
}

struct PolicyGuard {
    policy: Policy,
    _alive: nesting::LiveGuard,
}

impl PolicyGuard {
    fn new(policy: Policy) -> Self {
        Self { policy, _alive: nesting::LiveGuard::new() }
    }
}

impl Guard for PolicyGuard {
    fn check(&self, ctx: &GuardContext<'_>) -> bool {
        if let Some(info) = ctx.req_data().get::<IdempotencyInfo>() {
            info.declare(self.policy);
        }
        true
    }
}
