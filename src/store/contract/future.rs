//! The future of a store call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::store::StoreError;

/// The future of a store call. A store that knows the answer at once gives it without an allocation.
#[must_use = "futures do nothing unless polled"]
pub struct StoreFuture<'a, T>(Call<'a, T>);

enum Call<'a, T> {
    Ready(Option<Result<T, StoreError>>),
    Boxed(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>),
}

impl<'a, T> StoreFuture<'a, T> {
    /// The answer is known.
    pub const fn ready(answer: Result<T, StoreError>) -> Self {
        Self(Call::Ready(Some(answer)))
    }

    /// The answer takes time.
    pub fn boxed(future: impl Future<Output = Result<T, StoreError>> + Send + 'a) -> Self {
        Self(Call::Boxed(Box::pin(future)))
    }

    /// The answer when it is known already: such a call needs no timer.
    pub(crate) fn try_ready(self) -> Result<Result<T, StoreError>, Self> {
        match self.0 {
            Call::Ready(Some(answer)) => Ok(answer),
            call => Err(Self(call)),
        }
    }
}

impl<T> Future for StoreFuture<'_, T>
where
    T: Unpin,
{
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Call::Ready(answer) => Poll::Ready(answer.take().expect("polled after completion")),
            Call::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for StoreFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Call::Ready(_) => "StoreFuture(ready)",
            Call::Boxed(_) => "StoreFuture(boxed)",
        })
    }
}
