//! From a question ("may this request run?") to a held claim, and from a held claim to a stored response. The calls to
//! the store are bounded and repeated here, so that stores need not.

mod ask;
pub(crate) mod background;
mod config;
mod give_up;
mod held;
pub(crate) mod in_flight;
mod local;
mod renewal;
mod store_handle;
mod waiting_room;

pub(crate) use self::{
    ask::{Claimed, Claims, Question},
    config::century,
    held::{Held, Written},
    store_handle::Cache,
};
