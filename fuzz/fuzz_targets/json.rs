//! Canonical JSON: no body makes the encoder panic, and the fingerprint does not depend on the pieces in which a body
//! arrives.
#![no_main]

use actix_idempotency::{KeyEncoder as _, Principal, key::{CanonicalJsonEncoder, Key, KeyRequest, Syntax}};
use actix_web::http::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let key = Key::parse(b"k", Syntax::Raw, 1).expect("a key");
    let principal = Principal::anonymous();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (front, back) = body.split_at(body.len() / 2);
    let whole = [Bytes::copy_from_slice(body)];
    let halves = [Bytes::copy_from_slice(front), Bytes::copy_from_slice(back)];
    let of = |body: &[Bytes]| {
        let request = KeyRequest::new(&key, &principal, &Method::POST, "/", "", &headers, body);
        CanonicalJsonEncoder.fingerprint(&request)
    };
    assert_eq!(of(&whole), of(&halves));
});
