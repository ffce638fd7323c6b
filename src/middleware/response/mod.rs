//! A response: from its handler into a record, and from a record to a retry.

mod body;
pub(super) mod capture;
mod keep;
mod pump;
mod recording;
mod replay;

pub use self::body::AnswerBody;
pub(super) use self::replay::replay;
