//! A handler's word on whether its response is stored, and for how long.

use std::time::Duration;

use actix_web::HttpResponse;

/// Lets a handler decide whether its response is stored, whatever `storage.store_on_statuses` says.
///
/// ```
/// use actix_idempotency::ResponseExt as _;
/// use actix_web::HttpResponse;
///
/// async fn pay() -> HttpResponse {
///     HttpResponse::Accepted().body("try again in a minute").do_not_store()
/// }
/// ```
pub trait ResponseExt {
    /// Keeps the response out of the store. The key is free again.
    #[must_use]
    fn do_not_store(self) -> Self;

    /// Stores the response. A response that can't be replayed (1xx, 304, a failed stream) still isn't stored.
    #[must_use]
    fn store_anyway(self) -> Self;

    /// Keeps the record of the response for this long, from completion, in place of `storage.ttl`. More than
    /// `storage.max_ttl` is that much. Zero is [`do_not_store`](Self::do_not_store).
    ///
    /// The settings still say whether the response is stored at all; [`store_anyway`](Self::store_anyway) can be added.
    #[must_use]
    fn keep_for(self, time: Duration) -> Self;
}

impl<B> ResponseExt for HttpResponse<B> {
    fn do_not_store(self) -> Self {
        StoreOverride::Never.on(self)
    }

    fn store_anyway(self) -> Self {
        StoreOverride::Always.on(self)
    }

    fn keep_for(mut self, time: Duration) -> Self {
        if time.is_zero() {
            return self.do_not_store();
        }
        self.extensions_mut().insert(KeepFor(time));
        self
    }
}

/// The extension that [`ResponseExt::keep_for`] leaves in a response. Code that has a response's extensions only can insert
/// it there. A time of zero is a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepFor(pub Duration);

/// The extension that [`ResponseExt`] leaves in a response. Code that has a response's extensions only can insert it
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOverride {
    /// The response is stored.
    Always,
    /// The response is not stored.
    Never,
}

impl StoreOverride {
    fn on<B>(self, mut response: HttpResponse<B>) -> HttpResponse<B> {
        response.extensions_mut().insert(self);
        response
    }
}
