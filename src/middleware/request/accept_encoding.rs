//! A protected request goes inside without `Accept-Encoding`, so that its stored response is not compressed. The header
//! is restored where an inner instance turns out to govern.

use actix_web::{
    dev::ServiceRequest,
    http::header::{self, HeaderValue},
};

use crate::{handler::IdempotencyInfo, key::RequestHeaders};

/// Takes the header away and keeps its lines in `info`.
pub(in crate::middleware) fn take(request: &mut ServiceRequest, info: &IdempotencyInfo) {
    // `headers_mut` must not be called while a layer outside holds a clone of the request. Where some of the path is left, a
    // router is inside, and a clone would make it panic anyway. At a resource or a route the header stays.
    let has_router_inside = !request.match_info().unprocessed().is_empty();
    if has_router_inside && request.headers().contains_key(header::ACCEPT_ENCODING) {
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

/// Whether the client can read a body in this coding.
pub(in crate::middleware) fn accepts(
    headers: RequestHeaders<'_>,
    info: &IdempotencyInfo,
    coding: &HeaderValue,
) -> bool {
    let mut coded = coding.to_str().unwrap_or_default().split(',').map(str::trim);
    let sent = headers.iter().filter(|(name, _)| **name == header::ACCEPT_ENCODING).map(|(_, line)| line.clone());
    let lines: Vec<HeaderValue> = sent.chain(info.kept_accept_encoding()).collect();
    coded.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity") || admits(&lines, coding))
}

/// RFC 9110, 12.5.3. Without the header every coding is acceptable.
fn admits(lines: &[HeaderValue], coding: &str) -> bool {
    let mut any = None;
    for item in lines.iter().flat_map(|line| line.to_str().unwrap_or_default().split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0))
        });
        if name.eq_ignore_ascii_case(coding) {
            return !refused;
        }
        if name == "*" {
            any = Some(!refused);
        }
    }
    any.unwrap_or(lines.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_is_acceptable_where_the_client_names_it_or_says_nothing() {
        let admits = |lines: &[&'static str], coding| {
            let lines: Vec<HeaderValue> = lines.iter().map(|line| HeaderValue::from_static(line)).collect();
            super::admits(&lines, coding)
        };
        assert!(admits(&[], "gzip") && admits(&["br, gzip;q=0.5"], "gzip") && admits(&["br", "GZIP"], "gzip"));
        assert!(admits(&["*"], "gzip") && admits(&["*;q=0, gzip"], "gzip"));
        assert!(!admits(&["br"], "gzip") && !admits(&["identity"], "gzip") && !admits(&[""], "gzip"));
        assert!(!admits(&["gzip;q=0"], "gzip") && !admits(&["*;q=0.0"], "gzip") && !admits(&["gzip; q=0, *"], "gzip"));
    }
}
