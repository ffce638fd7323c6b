//! Keys for calls to other services, made from the id of a record.

use crate::key::{Key, RecordId, digest::Digest};

/// The key for a call.
pub(super) fn call_key(id: &RecordId, service: &str, call: &str) -> Key {
    let mut digest = Digest::new(b"derived");
    digest.part(id.as_bytes()).part(service.as_bytes()).part(call.as_bytes());
    Key::derived(digest.finish())
}

/// The key of a step. A run over a record that was completed before is another operation, and has other keys.
pub(super) fn step_key(id: &RecordId, completions: u32, name: &str) -> Key {
    if completions == 0 {
        return call_key(id, "step", name);
    }
    let mut digest = Digest::new(b"derived");
    digest.part(id.as_bytes()).part(b"step").part(name.as_bytes()).part(&completions.to_le_bytes());
    Key::derived(digest.finish())
}
