//! The bytes of a slot, for stores that outlive their process: a version byte, then bincode.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{
    State,
    state::{Completed, Journal, Phase, Unfinished, Usage},
};
use crate::{
    key::{Fingerprint, PrincipalTag},
    record::{MAX_RECORD, Record, UnreadableRecord},
    store::{OwnerToken, Step},
};

/// Format 2, as that of records and of the Redis store.
const VERSION: u8 = 2;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD>,
>;
const CONFIG: Config = bincode::config::standard().with_limit::<MAX_RECORD>();

#[derive(Serialize, Deserialize)]
enum WireState {
    Vacant,
    Unfinished(Box<WireUnfinished>),
    Completed(Box<WireCompleted>),
}

#[derive(Serialize, Deserialize)]
enum WirePhase {
    Claimed(u64),
    Lapsed(u64),
    Lost,
    Free(Option<u16>),
}

#[derive(Serialize, Deserialize)]
struct WireUnfinished {
    phase: WirePhase,
    token: [u8; 16],
    #[serde(with = "serde_bytes")]
    fingerprint: [u8; Fingerprint::LENGTH],
    attempt: u32,
    fence: u64,
    lost_owner: bool,
    completions: u32,
    principal: [u8; 8],
    usage: [u32; 3],
    grace: u64,
    keep: u64,
    expires: u64,
    journal: Vec<WireStep>,
    previous: Option<WireCompleted>,
}

#[derive(Serialize, Deserialize)]
struct WireCompleted {
    token: [u8; 16],
    #[serde(with = "serde_bytes")]
    fingerprint: [u8; Fingerprint::LENGTH],
    attempt: u32,
    completions: u32,
    lost_owner: bool,
    principal: [u8; 8],
    usage: [u32; 3],
    journal: Vec<WireStep>,
    since: u64,
    expires: u64,
    #[serde(with = "serde_bytes")]
    record: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct WireStep {
    name: String,
    #[serde(with = "serde_bytes")]
    result: Option<Vec<u8>>,
    /// In milliseconds since the epoch.
    at: Option<u64>,
}

pub(super) fn encode(state: &State) -> Vec<u8> {
    let wire = match state {
        State::Vacant => WireState::Vacant,
        State::Unfinished(unfinished) => WireState::Unfinished(Box::new(unfinished.into())),
        State::Completed(completed) => WireState::Completed(Box::new(completed.into())),
    };
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(wire, &mut bytes, CONFIG)
        .expect("a Vec takes any bytes, and sequences know their length");
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<State, UnreadableRecord> {
    let damaged = |error: Box<dyn std::error::Error + Send + Sync>| UnreadableRecord::Damaged(error);
    let (&version, rest) = bytes.split_first().ok_or(UnreadableRecord::Version(None))?;
    if version != VERSION {
        return Err(UnreadableRecord::Version(Some(version)));
    }
    let (wire, read) =
        bincode::serde::decode_from_slice::<WireState, _>(rest, CONFIG).map_err(|e| damaged(e.into()))?;
    if read != rest.len() {
        return Err(damaged("bytes after the slot".into()));
    }
    Ok(match wire {
        WireState::Vacant => State::Vacant,
        WireState::Unfinished(unfinished) => State::Unfinished((*unfinished).try_into()?),
        WireState::Completed(completed) => State::Completed((*completed).try_into()?),
    })
}

impl From<&Unfinished> for WireUnfinished {
    fn from(record: &Unfinished) -> Self {
        Self {
            phase: match record.phase {
                Phase::Claimed { lease_ends } => WirePhase::Claimed(lease_ends),
                Phase::Lapsed { grace_ends } => WirePhase::Lapsed(grace_ends),
                Phase::Lost => WirePhase::Lost,
                Phase::Free { not_stored } => WirePhase::Free(not_stored),
            },
            token: *record.token.as_bytes(),
            fingerprint: *record.fingerprint.as_bytes(),
            attempt: record.attempt,
            fence: record.fence,
            lost_owner: record.lost_owner,
            completions: record.completions,
            principal: *record.principal.as_bytes(),
            usage: record.usage.into(),
            grace: record.grace,
            keep: record.keep,
            expires: record.expires,
            journal: (&record.journal).into(),
            previous: record.previous().map(Into::into),
        }
    }
}

impl TryFrom<WireUnfinished> for Unfinished {
    type Error = UnreadableRecord;

    fn try_from(wire: WireUnfinished) -> Result<Self, UnreadableRecord> {
        Ok(Self {
            phase: match wire.phase {
                WirePhase::Claimed(lease_ends) => Phase::Claimed { lease_ends },
                WirePhase::Lapsed(grace_ends) => Phase::Lapsed { grace_ends },
                WirePhase::Lost => Phase::Lost,
                WirePhase::Free(not_stored) => Phase::Free { not_stored },
            },
            token: OwnerToken::from_bytes(wire.token),
            fingerprint: Fingerprint::from_bytes(wire.fingerprint),
            attempt: wire.attempt,
            fence: wire.fence,
            lost_owner: wire.lost_owner,
            completions: wire.completions,
            principal: PrincipalTag::from_bytes(wire.principal),
            usage: wire.usage.into(),
            grace: wire.grace,
            keep: wire.keep,
            expires: wire.expires,
            journal: wire.journal.into(),
            previous: wire.previous.map(|previous| previous.try_into().map(Box::new)).transpose()?,
        })
    }
}

impl From<&Completed> for WireCompleted {
    fn from(record: &Completed) -> Self {
        Self {
            token: *record.token.as_bytes(),
            fingerprint: *record.fingerprint.as_bytes(),
            attempt: record.attempt,
            completions: record.completions,
            lost_owner: record.lost_owner,
            principal: *record.principal.as_bytes(),
            usage: record.usage.into(),
            journal: (&record.journal).into(),
            since: record.since,
            expires: record.expires,
            record: record.record.to_bytes().to_vec(),
        }
    }
}

impl TryFrom<WireCompleted> for Completed {
    type Error = UnreadableRecord;

    fn try_from(wire: WireCompleted) -> Result<Self, UnreadableRecord> {
        Ok(Self {
            token: OwnerToken::from_bytes(wire.token),
            fingerprint: Fingerprint::from_bytes(wire.fingerprint),
            attempt: wire.attempt,
            completions: wire.completions,
            lost_owner: wire.lost_owner,
            principal: PrincipalTag::from_bytes(wire.principal),
            usage: wire.usage.into(),
            journal: wire.journal.into(),
            since: wire.since,
            expires: wire.expires,
            record: Record::from_bytes(wire.record.into())?,
        })
    }
}

impl From<Usage> for [u32; 3] {
    fn from(usage: Usage) -> Self {
        [usage.first, usage.last, usage.replays]
    }
}

impl From<[u32; 3]> for Usage {
    fn from([first, last, replays]: [u32; 3]) -> Self {
        Self { first, last, replays }
    }
}

impl From<&Journal> for Vec<WireStep> {
    fn from(journal: &Journal) -> Self {
        let steps = journal.steps().iter();
        steps
            .map(|step| WireStep {
                name: step.name.to_string(),
                result: step.result.as_ref().map(|r| r.to_vec()),
                at: step.at.map(millis_of),
            })
            .collect()
    }
}

fn millis_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn time_of(millis: u64) -> SystemTime {
    // Beyond what a clock can show, after damage only.
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

impl From<Vec<WireStep>> for Journal {
    fn from(steps: Vec<WireStep>) -> Self {
        let steps = steps.into_iter();
        Self::new(
            steps
                .map(|step| Step {
                    name: step.name.into(),
                    result: step.result.map(Into::into),
                    at: step.at.map(time_of),
                })
                .collect(),
        )
    }
}
