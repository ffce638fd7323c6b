//! What handlers touch.

pub(crate) mod info;

pub use self::info::IdempotencyInfo;
