//! Settings that the stores themselves act on.

/// The reaction to an owner that was lost while it ran; setting `on_unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnUnknown {
    /// The next request runs again.
    #[default]
    Rerun,
    /// The next request gets 409 `outcome-unknown`, until an operator forgets the key. Panics and cancelled runs count
    /// as lost owners too.
    Reject,
    /// The service is asked, by the hook of [`on_unknown`](crate::IdempotencyKey::on_unknown). Panics and cancelled runs
    /// count as lost owners too. Stores take it for `Rerun`.
    Ask,
}

/// The reaction of a full embedded store; setting `storage.on_full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// Over `max_bytes`, gives up the bodies of the oldest records (in SQLite the whole records); over `max_entries`, evicts the oldest records past
    /// `min_retention`; when neither helps, refuses new keys with 503.
    #[default]
    Shrink,
    /// Refuses new keys with 503 and evicts nothing.
    Reject,
}

/// What a write of an embedded store survives; setting `storage.durability`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A loss of power: an answer is given once it is on the disk.
    #[default]
    Power,
    /// The end of the process, also by `kill -9`. A loss of power may take the last writes with it.
    Process,
}

/// The reaction to a danger that is seen at startup; settings `storage.on_evicting` and `storage.on_unreachable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartupCheck {
    /// The server does not start.
    #[default]
    Reject,
    /// The server starts, and the log warns of the danger.
    Warn,
}
