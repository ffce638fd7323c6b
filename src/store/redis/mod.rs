//! Records in Redis, shared by any number of processes.

mod check;
pub(crate) mod connections;
mod lock;
mod poll;

use std::{
    collections::BTreeSet,
    fmt,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bb8_redis::redis::{self, Script, Value};

use self::connections::{Connections, of_redis};
pub use self::lock::RedisLock;
use self::poll::Polls;
use super::{
    Begin, BeginRequest, Claim, Completion, Fate, Forgotten, Inspection, Mode, OwnerToken, RecordState, Renewal, Store,
    StoreError, StoreFuture,
};
use crate::{
    key::RecordId,
    record::Record,
    settings::{AtStart, ConfigError, Location, OnUnknown, StorageSettings},
};

/// A store in Redis 6.2 or later, or what speaks its protocol (setting `storage.class = redis`).
///
/// # Layout
///
/// One hash per record, named `idempotency:{namespace}:{cache}:{record id}`; the id is 64 hexadecimal digits and holds
/// no client's key. Fields: `v` version, `s` state (`I` in flight, `D` done), `o` owner token, `f` fingerprint,
/// `a` attempt, `n` fence, `l` end of the lease (ms of the server's clock), `t` taken over, `c` and `u` when it was first
/// claimed, and last claimed or replayed, `k` how often it was replayed, `r` response (bincode behind a version byte), `e` and
/// `p` end and owner of the completed record beneath a manual claim. Every record has a TTL.
///
/// Each call is one script and one round trip; the clock is the server's. One key per script, so that a cluster could
/// hold the records; the bundled client speaks to one primary.
///
/// # What Redis itself can lose
///
/// A server without persistence that dies forgets claims and responses; a fail-over may lose the newest. What was lost may
/// run again. An evicting `maxmemory-policy` would do so at any time, and is refused at start.
pub struct RedisStore {
    connections: Connections,
    /// Of all names of records here.
    prefix: String,
    polls: Polls,
    location: Location,
    on_evicting: AtStart,
    on_unreachable: AtStart,
}

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));)*
    };
}

scripts! {
    BEGIN = "begin.lua";
    RENEW = "renew.lua";
    COMPLETE = "complete.lua";
    RELEASE = "release.lua";
    INSPECT = "inspect.lua";
    FORGET = "forget.lua";
}

impl RedisStore {
    /// The store of the cache `name`. Connects when first used.
    ///
    /// # Errors
    /// [`ConfigError::InvalidValue`] for a location that is no address of a Redis.
    pub fn new(name: &str, settings: &StorageSettings) -> Result<Self, ConfigError> {
        let setting = format!("caches.{name}.location");
        Ok(Self {
            connections: Connections::new(&setting, &settings.location, settings.timeout)?,
            prefix: format!("idempotency:{}:{name}:", settings.namespace),
            polls: Polls::default(),
            location: settings.location.clone(),
            on_evicting: settings.on_evicting,
            on_unreachable: settings.on_unreachable,
        })
    }

    fn name(&self, id: &RecordId) -> String {
        format!("{}{id}", self.prefix)
    }

    async fn ids(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<RecordId>, StoreError> {
        let mut connection = self.connections.connection().await?;
        // The least ids behind `after`, of however many there are.
        let mut page = BTreeSet::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", escape(&self.prefix))).arg("COUNT").arg(1000);
            let (next, names): (u64, Vec<String>) = scan.query_async(&mut connection).await.map_err(of_redis)?;
            let ids = names.iter().filter_map(|name| name[self.prefix.len()..].parse::<RecordId>().ok());
            page.extend(ids.filter(|id| after.is_none_or(|after| *id > after)));
            while page.len() > limit {
                page.pop_last();
            }
            cursor = next;
            if cursor == 0 {
                return Ok(page.into_iter().collect());
            }
        }
    }

    async fn inspected(&self, id: RecordId) -> Result<Option<Inspection>, StoreError> {
        let reply: Reply = self.connections.run(INSPECT.key(self.name(&id))).await?;
        let state = match reply.code()? {
            b"N" => return Ok(None),
            b"D" => RecordState::Completed,
            b"P" => RecordState::InFlight,
            b"X" => RecordState::OwnerLost,
            _ => return Err(StoreError::foreign("a record of another version")),
        };
        Ok(Some(Inspection {
            id,
            state,
            attempt: reply.number(1)?,
            remaining: reply.millis(2)?,
            record: reply.record(3)?,
            owner: reply.token(4)?,
            replays: Some(reply.number(5)?),
            first_seen: reply.time(6)?,
            last_seen: reply.time(7)?,
        }))
    }
}

impl Store for RedisStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        let mut script = BEGIN.key(self.name(&request.id));
        script
            .arg(request.token.as_bytes())
            .arg(request.fingerprint.as_bytes())
            .arg(millis(request.lease))
            .arg(millis(request.keep))
            .arg(if request.mode == Mode::Again { "again" } else { "once" })
            .arg(if request.on_unknown == OnUnknown::Reject { "reject" } else { "rerun" });
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            Ok(match reply.code()? {
                b"A" => Begin::Fresh {
                    claim: Claim {
                        id: request.id,
                        fingerprint: request.fingerprint,
                        token: request.token,
                        attempt: reply.number(1)?,
                        fence: reply.number(2)?,
                        taken_over: reply.number::<u8>(3)? != 0,
                    },
                    previous: reply.record(4)?,
                },
                b"P" => Begin::InFlight { retry_after: Duration::from_millis(reply.number(1)?) },
                b"M" => Begin::Mismatch,
                b"X" => Begin::OwnerLost,
                b"R" => Begin::Completed {
                    record: reply.record(1)?.ok_or(StoreError::foreign("a completed record without a response"))?,
                    remaining: reply.millis(2)?,
                },
                _ => return Err(StoreError::foreign("a record of another version")),
            })
        })
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        let mut script = RENEW.key(self.name(&claim.id));
        script.arg(claim.token.as_bytes()).arg(millis(lease));
        let renewed = self.connections.run::<u8>(script);
        StoreFuture::boxed(async move {
            Ok(match renewed.await? {
                0 => Renewal::Gone,
                1 => Renewal::Extended,
                _ => Renewal::Lost,
            })
        })
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        let mut script = COMPLETE.key(self.name(&claim.id));
        script
            .arg(claim.token.as_bytes())
            .arg(claim.fingerprint.as_bytes())
            .arg(claim.attempt)
            .arg(claim.fence)
            .arg(millis(ttl))
            .arg(&record.as_bytes()[..]);
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            Ok(match reply.code()? {
                b"K" => Completion::Stored,
                b"S" => Completion::Superseded(reply.record(1)?),
                _ => return Err(StoreError::foreign("a record of another version")),
            })
        })
    }

    fn release<'a>(&'a self, claim: &'a Claim, fate: Fate) -> StoreFuture<'a, bool> {
        let mut script = RELEASE.key(self.name(&claim.id));
        script.arg(claim.token.as_bytes()).arg(if fate == Fate::Unknown { "unknown" } else { "free" });
        StoreFuture::boxed(self.connections.run::<bool>(script))
    }

    fn changed<'a>(&'a self, id: &'a RecordId, _round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(self.polls.changed(&self.connections, self.name(id), *id, at_most))
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::boxed(self.inspected(*id))
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        let forgotten = self.connections.run::<u8>(FORGET.key(self.name(id)));
        StoreFuture::boxed(async move {
            Ok(match forgotten.await? {
                0 => Forgotten::Absent,
                1 => Forgotten::Removed,
                _ => Forgotten::InFlight,
            })
        })
    }

    /// Each page scans all names: meant for people, not for loops.
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::boxed(async move {
            let mut after = after;
            loop {
                let ids = self.ids(after, limit).await?;
                let mut page = Vec::with_capacity(ids.len());
                for id in &ids {
                    page.extend(self.inspected(*id).await?);
                }
                // All of a page can have expired since its names were read.
                if ids.is_empty() || !page.is_empty() {
                    return Ok(page);
                }
                after = ids.last().copied();
            }
        })
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        StoreFuture::boxed(self.checked())
    }
}

/// At least 1: to Redis, 0 is no time at all.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}

/// A pattern that matches this text alone.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

/// What a script answered: a code, then what belongs to it.
type Reply = Vec<Value>;

trait ReplyExt {
    fn code(&self) -> Result<&[u8], StoreError>;
    fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError>;
    fn record(&self, at: usize) -> Result<Option<Record>, StoreError>;
    fn token(&self, at: usize) -> Result<Option<OwnerToken>, StoreError>;

    /// A duration. What is over is zero.
    fn millis(&self, at: usize) -> Result<Duration, StoreError> {
        Ok(Duration::from_millis(self.number::<i64>(at)?.max(0).unsigned_abs()))
    }

    /// A time, which the record may lack.
    fn time(&self, at: usize) -> Result<Option<SystemTime>, StoreError> {
        let since_epoch = self.millis(at)?;
        Ok((!since_epoch.is_zero()).then(|| UNIX_EPOCH + since_epoch))
    }
}

impl ReplyExt for Reply {
    fn code(&self) -> Result<&[u8], StoreError> {
        match self.first() {
            Some(Value::BulkString(code)) => Ok(code),
            _ => Err(StoreError::foreign("an answer without a code")),
        }
    }

    fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T, StoreError> {
        let number = match self.get(at) {
            Some(Value::Int(number)) => T::try_from(*number).ok(),
            _ => None,
        };
        number.ok_or(StoreError::foreign("a number that is none"))
    }

    fn record(&self, at: usize) -> Result<Option<Record>, StoreError> {
        match self.get(at) {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => Ok(Some(Record::from_bytes(bytes.clone().into())?)),
            Some(_) => Err(StoreError::foreign("a response that is none")),
        }
    }

    fn token(&self, at: usize) -> Result<Option<OwnerToken>, StoreError> {
        match self.get(at) {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => Ok(bytes.as_slice().try_into().ok().map(OwnerToken::from_bytes)),
            Some(_) => Err(StoreError::foreign("an owner that is none")),
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_itself_alone() {
        assert_eq!(escape("idempotency:a*b[c]?\\:x:"), "idempotency:a\\*b\\[c\\]\\?\\\\:x:");
    }
}
