//! What is kept of a completed record, as small as it can be: there are many.

use std::time::{Duration, SystemTime};

use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Inspection, OwnerToken, RecordState,
        clock::{Micros, system_time},
    },
};

/// What a record costs beyond its bytes: its place in the tables, its expiry, the allocator. Measured, rounded up.
const UPKEEP: usize = 288;

#[derive(Clone)]
pub(super) struct Done {
    pub(super) token: OwnerToken,
    pub(super) operation: Operation,
    pub(super) attempt: u32,
    pub(super) seen: Seen,
    pub(super) completed: Micros,
    pub(super) expires: Micros,
    pub(super) record: Record,
}

/// The fingerprint of a completed operation, cut short: 192 bits tell operations apart, and a record is to be small.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation([u8; 24]);

impl From<Fingerprint> for Operation {
    fn from(fingerprint: Fingerprint) -> Self {
        let (head, _) = fingerprint.as_bytes().split_first_chunk().expect("a fingerprint is longer");
        Self(*head)
    }
}

impl Done {
    /// The record with its body given up.
    pub(super) fn without_body(self) -> Self {
        Self { record: self.record.with_body(None), ..self }
    }

    pub(super) fn cost(&self) -> usize {
        self.record.as_bytes().len() + UPKEEP
    }
}

/// What an operator is told of a record's use. In seconds: a record is to be small.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    first: u32,
    last: u32,
    pub(super) replays: u32,
}

impl Seen {
    pub(super) fn now(now: Micros) -> Self {
        let now = seconds(now);
        Self { first: now, last: now, replays: 0 }
    }

    pub(super) fn again(&mut self, now: Micros) {
        self.last = seconds(now);
    }

    pub(super) fn inspection(
        self,
        id: RecordId,
        state: RecordState,
        owner: OwnerToken,
        attempt: u32,
        remaining: Duration,
        record: Option<Record>,
    ) -> Inspection {
        Inspection {
            id,
            state,
            attempt,
            remaining,
            record,
            owner: Some(owner),
            replays: Some(self.replays.into()),
            first_seen: Some(time(self.first)),
            last_seen: Some(time(self.last)),
        }
    }
}

/// Good until 2106.
fn seconds(now: Micros) -> u32 {
    u32::try_from(now / 1_000_000).unwrap_or(u32::MAX)
}

fn time(seconds: u32) -> SystemTime {
    system_time(u64::from(seconds) * 1_000_000)
}
