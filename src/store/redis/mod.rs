//! Records in Redis, shared by any number of processes.

mod check;
mod connections;
mod lock;
mod poll;
mod reply;

use std::{collections::BTreeSet, fmt, sync::LazyLock, time::Duration};

use bb8_redis::redis::{self, Script};

pub use self::lock::RedisLock;
use self::{
    connections::{Connections, of_redis},
    poll::Polls,
    reply::{Reply, ReplyExt as _},
};
use super::{
    Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, Found, IfCompleted, Inspection, Location,
    LocationError, OnUnknown, RecordState, ReleaseAs, Renewal, StartupCheck, Store, StoreError, StoreFuture, Wait,
};
use crate::{key::RecordId, record::Record};

/// A store in Redis 6.2 or later, or what speaks its protocol (setting `storage.class = redis`).
///
/// # Layout
///
/// One hash per record, named `idempotency:{namespace}:{cache}:{record id}`. The id is 64 hexadecimal digits and does
/// not contain the client's key. Every record has a TTL.
///
/// | field | meaning |
/// |---|---|
/// | `v` | version of the layout |
/// | `s` | state: `I` in flight, `D` done |
/// | `o` | owner token |
/// | `f` | fingerprint |
/// | `a` | attempt |
/// | `n` | fencing token |
/// | `l` | end of the lease, in ms of the server's clock |
/// | `t` | 1 when the claim was taken over from a lost owner |
/// | `c`, `u` | when the key was first claimed, and last claimed or replayed, in ms |
/// | `k` | how often the response was replayed |
/// | `r` | the record of the response |
/// | `e`, `p` | expiry and owner of the completed record beneath a manual claim |
///
/// Each call is one script and one round trip, and the clock is the server's. A script touches one key, so a cluster
/// could hold the records; this client speaks to one primary.
///
/// # What Redis itself can lose
///
/// A server without persistence that dies forgets claims and responses, and a fail-over may lose the newest. An
/// operation whose record was lost may run again. An evicting `maxmemory-policy` would lose records at any time, and is
/// refused at start.
pub struct RedisStore {
    connections: Connections,
    /// The beginning of every record's name.
    prefix: String,
    polls: Polls,
    location: Location,
    on_evicting: StartupCheck,
    on_unreachable: StartupCheck,
}

/// How to reach a Redis, and what to call the records there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Host, host:port or URL; setting `storage.location`.
    pub location: Location,
    /// How long one call may take; setting `storage.timeout`, 500 ms.
    pub timeout: Duration,
    /// Keeps services apart that share a Redis; setting `storage.namespace`, empty.
    pub namespace: String,
    /// The name of the cache, `default`.
    pub cache: String,
    /// Setting `storage.on_evicting`, `reject`.
    pub on_evicting: StartupCheck,
    /// Setting `storage.on_unreachable`, `reject`.
    pub on_unreachable: StartupCheck,
}

impl RedisOptions {
    /// Options with the defaults named at the fields.
    #[must_use]
    pub fn new(location: impl Into<Location>) -> Self {
        Self {
            location: location.into(),
            timeout: Duration::from_millis(500),
            namespace: String::new(),
            cache: "default".into(),
            on_evicting: StartupCheck::Reject,
            on_unreachable: StartupCheck::Reject,
        }
    }
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
    /// A store that connects when it is first used.
    ///
    /// # Errors
    /// [`LocationError`] when the location is no address of a Redis.
    pub fn new(options: RedisOptions) -> Result<Self, LocationError> {
        Ok(Self {
            connections: Connections::new(&options.location, options.timeout)?,
            prefix: format!("idempotency:{}:{}:", options.namespace, options.cache),
            polls: Polls::default(),
            location: options.location,
            on_evicting: options.on_evicting,
            on_unreachable: options.on_unreachable,
        })
    }

    fn name(&self, id: &RecordId) -> String {
        format!("{}{id}", self.prefix)
    }

    async fn ids(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<RecordId>, StoreError> {
        let mut connection = self.connections.connection().await?;
        // The smallest ids greater than `after`, out of all that the scan finds.
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
        let mut inspection = Inspection::new(id, state, reply.millis(2)?);
        inspection.attempt = reply.number(1)?;
        inspection.record = reply.record(3)?;
        inspection.owner = reply.token(4)?;
        inspection.replays = Some(reply.number(5)?);
        inspection.first_seen = reply.time(6)?;
        inspection.last_seen = reply.time(7)?;
        Ok(Some(inspection))
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
            .arg(if request.if_completed == IfCompleted::Rerun { "rerun" } else { "replay" })
            .arg(if request.on_unknown == OnUnknown::Reject { "reject" } else { "rerun" });
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            Ok(match reply.code()? {
                b"A" => {
                    let claim = Claim::new(request, reply.number(1)?, reply.number(2)?);
                    let claim = claim.taken_over(reply.number::<u8>(3)? != 0);
                    Begin::Acquired(Acquired::new(claim).previous(reply.record(4)?))
                }
                b"P" => Begin::InFlight(Wait::new(reply.millis(1)?)),
                b"M" => Begin::Mismatch,
                b"X" => Begin::OwnerLost,
                b"R" => {
                    let record = reply.record(1)?;
                    let record = record.ok_or(StoreError::foreign("a completed record without a response"))?;
                    Begin::Completed(Found::new(record, reply.millis(2)?))
                }
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

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        let mut script = RELEASE.key(self.name(&claim.id));
        script.arg(claim.token.as_bytes()).arg(if release_as == ReleaseAs::Unknown { "unknown" } else { "free" });
        StoreFuture::boxed(self.connections.run::<bool>(script))
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, _round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(self.polls.wait_for_change(&self.connections, self.name(id), *id, at_most))
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

    /// Each page scans all names: made for people, not for loops.
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::boxed(async move {
            let mut after = after;
            loop {
                let ids = self.ids(after, limit).await?;
                let mut page = Vec::with_capacity(ids.len());
                for id in &ids {
                    page.extend(self.inspected(*id).await?);
                }
                // Every record of a page can have expired since the scan.
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

/// Milliseconds, at least 1: Redis takes 0 for no time at all.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}

/// A pattern for SCAN that matches exactly this text.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
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
