//! A step that a handler calls: its choices, and its run.

use std::{any::type_name, borrow::Cow, fmt};

use actix_web::Error;
use futures_util::future::LocalBoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use super::{NotDone, StepError, journal::Known};
use crate::{
    handler::IdempotencyInfo,
    key::{Key, digest::Digest},
    store::{OwnerToken, Step},
};

/// A step, before it runs: a future once it is awaited. Made by [`IdempotencyInfo::step`].
#[must_use = "a step does nothing before it is awaited"]
pub struct StepCall<'a, F> {
    info: &'a IdempotencyInfo,
    name: Cow<'a, str>,
    work: F,
    key: Option<Key>,
    at_most_once: bool,
    reruns: bool,
}

impl<'a, F> StepCall<'a, F> {
    pub(super) const fn new(info: &'a IdempotencyInfo, name: Cow<'a, str>, work: F) -> Self {
        Self { info, name, work, key: None, at_most_once: false, reruns: false }
    }

    /// Runs the step at most once, for a service that has no idempotency keys of its own.
    ///
    /// Before the closure runs, the record notes that the step was started. After a crash, a drop or an error in the middle
    /// every later attempt gets [`StepError::Unknown`], unless the closure says with [`NotDone`] that nothing was done.
    /// This costs a second round trip to the store.
    pub const fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// Gives the closure this key instead of `info.derive("step", name)`, for code that derived keys before it had steps.
    /// `None`, which `derive` gives where no key protects the request, changes nothing.
    pub fn key(mut self, key: impl Into<Option<Key>>) -> Self {
        self.key = key.into();
        self
    }

    /// Runs the closure again, at each attempt, where the saved result can't be read as its type, instead of
    /// [`StepError::Undecodable`]. A step that runs at most once is not run again.
    pub const fn or_rerun(mut self) -> Self {
        self.reruns = true;
        self
    }
}

impl<'a, T, E, F> IntoFuture for StepCall<'a, F>
where
    F: AsyncFnOnce(Key) -> Result<T, E> + 'a,
    T: Serialize + DeserializeOwned + 'a,
    E: Into<Error> + 'a,
{
    type Output = Result<T, StepError>;
    type IntoFuture = LocalBoxFuture<'a, Result<T, StepError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<F> StepCall<'_, F> {
    async fn run<T, E>(self) -> Result<T, StepError>
    where
        F: AsyncFnOnce(Key) -> Result<T, E>,
        T: Serialize + DeserializeOwned,
        E: Into<Error>,
    {
        let Self { info, name, work, key, at_most_once, reruns } = self;
        let step = || Box::from(&*name);
        if info.is_in_transaction() {
            return Err(StepError::InTransaction { step: step() });
        }
        let key = key.or_else(|| info.step_key(&name)).unwrap_or_else(any_key);
        let Some((journal, claim)) = info.journal() else {
            if at_most_once {
                return Err(StepError::Unprotected { step: step() });
            }
            return work(key).await.map_err(|error| StepError::Failed(error.into()));
        };
        let (turn, known) = journal.begin(&name)?;
        match known {
            Known::Started if at_most_once => return Err(StepError::Unknown { step: step() }),
            Known::Started | Known::Nothing => {}
            Known::Done(bytes) => match serde_json::from_slice(&bytes) {
                Ok(result) => {
                    turn.end();
                    return Ok(result);
                }
                Err(source) if at_most_once || !reruns => {
                    return Err(StepError::Undecodable { step: step(), type_name: type_name::<T>(), source });
                }
                Err(_) => {}
            },
        }
        if at_most_once {
            turn.save(claim, Step::started(&*name)).await?;
        }
        let result = match work(key).await {
            Ok(result) => result,
            Err(error) => {
                let error = error.into();
                if at_most_once && error.as_error::<NotDone>().is_some() {
                    turn.save(claim, Step::not_done(&*name)).await?;
                }
                return Err(StepError::Failed(error));
            }
        };
        let bytes = serde_json::to_vec(&result).map_err(|source| StepError::Unencodable { step: step(), source })?;
        turn.save(claim, Step::done(&*name, bytes)).await?;
        turn.end();
        Ok(result)
    }
}

/// A key for a run that no key protects: nothing ties it to another one.
fn any_key() -> Key {
    let mut digest = Digest::new(b"step");
    digest.part(OwnerToken::random().as_bytes());
    Key::derived(digest.finish())
}

impl<F> fmt::Debug for StepCall<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepCall").field("name", &self.name).finish_non_exhaustive()
    }
}
