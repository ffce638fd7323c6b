//! A response: from its handler into a record, and from a record to a retry.

mod body;
pub(super) mod capture;
pub(super) mod commit;
mod keep;
mod pump;
mod recording;
mod replay;
mod transaction;

pub use self::body::AnswerBody;
pub(super) use self::{
    keep::{is_event_stream, is_replayable, record_of},
    replay::replay,
    transaction::{abandon, end_ordinary},
};
