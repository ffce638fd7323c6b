//! The fingerprint: the operation that a request asks for, as a hash.

use super::digest::hash_type;

hash_type! {
    /// Identifies the operation: SHA-256 over everything of a request that must be the same when its key is used again.
    Fingerprint
}
