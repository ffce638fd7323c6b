//! Keys: no header value makes the parser panic, and every value that it accepts is a valid key.
#![no_main]

use actix_idempotency::key::{Key, Syntax};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    for syntax in [Syntax::Strict, Syntax::Lenient, Syntax::Raw] {
        if let Ok(key) = Key::parse(value, syntax, 255) {
            let text = key.as_str();
            assert!(text.is_ascii() && !text.trim().is_empty() && text.len() <= 255);
            // The quoted form of the key is the same key.
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            assert_eq!(Key::parse(quoted.as_bytes(), Syntax::Strict, 255).as_ref(), Ok(&key));
        }
    }
});
