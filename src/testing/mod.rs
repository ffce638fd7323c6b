//! Tools for tests (feature `testing`): a suite that every store must pass, a store that fails as told, and storms of
//! duplicates for your own handlers. Time is steered by [`Clock::steered`](crate::store::Clock::steered).
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
mod storm;

pub use self::{
    acceptance::{accept_composed_store, accept_store},
    faulty::{Call, Fault, Faults, FaultyStore},
    storm::{Answer, storm},
};
