#![doc = include_str!("../../docs/links.md")]
#![doc = ""]
#![doc = include_str!("../../../docs/steps.md")]

mod call;
mod error;
mod journal;

use std::borrow::Cow;

use actix_web::Error;
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::journal::{Journal, SaveSteps};
pub use self::{
    call::StepCall,
    error::{NotDone, StepError},
};
use super::IdempotencyInfo;
use crate::key::Key;

impl IdempotencyInfo {
    /// Runs a part of the operation, unless an earlier attempt has saved its result.
    ///
    /// The result is written into the record of the request, as JSON, before the step returns. When the run ends without a
    /// stored response (an error, a panic, a crash), the steps stay for `storage.ttl`, and the next request with the key
    /// gets the saved results without running their closures.
    ///
    /// `name` is unique within the operation. The closure gets a key for a call to another service, which is the same on
    /// every attempt: [`derive("step", name)`](Self::derive). A step can run more than once: when the process dies after
    /// the call and before its result is saved, and when it fails. The key keeps the other service from doing it twice.
    /// For a service without such keys there is [`at_most_once`](StepCall::at_most_once).
    ///
    /// Where no claim protects the request (no key, an exempt route, `mode = observe`, `lock.enable = false`) the closure
    /// runs each time, and nothing is saved.
    ///
    /// ```
    /// use actix_idempotency::IdempotencyInfo;
    /// use actix_web::{Error, HttpResponse};
    /// # use actix_idempotency::key::Key;
    /// # async fn charge(_: Key) -> Result<String, Error> { Ok("ch_1".into()) }
    /// # async fn ship(_: Key, _: &str) -> Result<u64, Error> { Ok(7) }
    ///
    /// async fn checkout(info: IdempotencyInfo) -> Result<HttpResponse, Error> {
    ///     let charge: String = info.step("charge", async |key| charge(key).await).await?;
    ///     let parcel: u64 = info.step("ship", async |key| ship(key, &charge).await).await?;
    ///     Ok(HttpResponse::Created().json(parcel))
    /// }
    /// ```
    ///
    /// # Errors
    /// [`StepError`], which a handler returns as it is. The error of the closure is [`StepError::Failed`]: its answer is
    /// that of the error, and nothing is saved.
    pub fn step<'a, T, E, F>(&'a self, name: impl Into<Cow<'a, str>>, work: F) -> StepCall<'a, F>
    where
        F: AsyncFnOnce(Key) -> Result<T, E> + 'a,
        T: Serialize + DeserializeOwned + 'a,
        E: Into<Error> + 'a,
    {
        StepCall::new(self, name.into(), work)
    }
}
