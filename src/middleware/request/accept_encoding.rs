//! A protected request goes inside without `Accept-Encoding`, so that its stored response is not compressed. The header
//! is restored where an inner instance turns out to govern.

use actix_web::{dev::ServiceRequest, http::header};

use crate::handler::IdempotencyInfo;

/// Takes the header away and keeps its lines in `info`.
pub(in crate::middleware) fn take(request: &mut ServiceRequest, info: &IdempotencyInfo) {
    // Only if there is such a header: `headers_mut` must not be called while anything else holds the request.
    if request.headers().contains_key(header::ACCEPT_ENCODING) {
        let taken = request.headers_mut().remove(header::ACCEPT_ENCODING);
        info.keep_accept_encoding(taken);
    }
}

/// Restores what the outer instance took away.
pub(in crate::middleware) fn restore(request: &mut ServiceRequest, outer: &IdempotencyInfo) {
    for line in outer.take_accept_encoding() {
        request.headers_mut().append(header::ACCEPT_ENCODING, line);
    }
}
