//! Records: no stored bytes make the decoder panic, and every record that it accepts becomes a response.
#![no_main]

use actix_idempotency::record::Record;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::from_bytes(Bytes::copy_from_slice(bytes)) {
        assert_eq!(record.to_bytes(), bytes);
        if record.is_sealed() {
            // Whether it opens is what the target `sealed` is about.
            assert!(record.response().is_err());
            return;
        }
        let response = record.response().expect("a record that was accepted has a response");
        assert!(response.body().is_none_or(|body| body.len() <= bytes.len()));
        let _ = response.to_response();
    }
});
