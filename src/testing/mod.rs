//! Tools for tests (feature `testing`).
//!
//! - For a store: [`accept_store`], the rules that every store must follow, and [`model`], which plays random sequences
//!   of calls to the store and to a model of it.
//! - For a store with the feature `encryption`: `sealed_store`, as the middleware uses it, with sealed records only.
//! - For a ledger: [`accept_ledger`], the rules that every ledger must follow.
//! - For a service: [`FaultyStore`] and [`FaultyLedger`], whose calls fail on demand, and [`storm`], which sends
//!   duplicates of one request.
//!
//! [`Clock::steered`](crate::store::Clock::steered) makes time pass in tests.
//!
//! ```
//! use actix_idempotency::{Idempotency, IdempotencyKey, Settings, store::{Clock, MemoryLimits, MemoryStore}};
//! use actix_idempotency::testing::{Call, Fault, FaultyStore, storm};
//! use actix_web::{App, HttpResponse, test, web};
//!
//! # actix_web::rt::System::new().block_on(async {
//! // A store whose first two completions fail: the handler has run by then.
//! let (store, faults) = FaultyStore::new(MemoryStore::default());
//! faults.next(Call::Complete, Fault::Fail);
//! faults.next(Call::Complete, Fault::Fail);
//! let mut settings = Settings::default();
//! settings.storage.class = "faulty".into();
//! let idempotency = Idempotency::builder().settings(settings).store("faulty", store).build().unwrap();
//! let app = App::new()
//!     .app_data(web::Data::new(idempotency))
//!     .wrap(IdempotencyKey::default())
//!     .route("/pay", web::post().to(HttpResponse::Created));
//! let app = test::init_service(app).await;
//!
//! let pay = || test::TestRequest::post().uri("/pay").insert_header(("idempotency-key", "order-17"));
//! let answers = storm(&app, 20, pay).await;
//! assert_eq!(answers.iter().filter(|answer| answer.ran()).count(), 1);
//! # });
//! ```

mod acceptance;
mod faulty;
mod ledger;
pub mod model;
#[cfg(feature = "encryption")]
mod sealed;
mod storm;

#[cfg(feature = "encryption")]
pub use self::sealed::sealed_store;
pub use self::{
    acceptance::{accept_composed_store, accept_store},
    faulty::{Call, Fault, Faults, FaultyStore},
    ledger::{FaultyLedger, LedgerCall, LedgerFault, LedgerFaults, LedgerGate, accept_ledger},
    storm::{Answer, storm},
};
