//! Records in Redis, shared by any number of processes.

mod check;
mod connections;
mod lock;
mod names;
mod poll;
mod reply;
mod scripts;

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use futures_util::future::try_join_all;

pub use self::lock::RedisLock;
use self::{
    connections::Connections,
    names::Names,
    poll::Polls,
    reply::{Reply, ReplyExt as _},
    scripts::Scripts,
};
use super::{
    Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, Found, IfCompleted, Inspection, Location,
    LocationError, Moment, OnUnknown, OwnerToken, RecordState, ReleaseAs, Renewal, Restore, Saved, SeenStep,
    StartupCheck, Step, Store, StoreError, StoreFuture, Wait, lifecycle::NOT_STORED_KEPT,
};
use crate::{
    key::{Fingerprint, PrincipalTag, RecordId},
    record::Record,
};

/// A store in Redis 6.2 or later, or what speaks its protocol (setting `storage.class = redis`).
///
/// # Layout
///
/// One hash per record, named `idempotency:{namespace}:{cache}:{record id}`. The id is 64 hexadecimal digits and does
/// not contain the client's key. Every record has a TTL.
///
/// | field | meaning |
/// |---|---|
/// | `v` | version of the layout: 2 |
/// | `s` | state: `I` claimed, `L` lapsed, `X` lost, `F` free, `D` completed |
/// | `o` | owner token of the last claim |
/// | `f` | fingerprint |
/// | `i` | principal tag |
/// | `a` | attempt |
/// | `n` | fencing token |
/// | `l` | end of the lease, or of the grace, in ms of the server's clock |
/// | `g`, `q` | grace, and how long the record is kept without a response, in ms |
/// | `x` | 1 when an owner was lost since the last response was stored |
/// | `m` | how often the record was completed |
/// | `w` | status of a response that was not stored |
/// | `j`, `J1`…, `R1`… | number of steps, their names and their results |
/// | `c`, `u` | when the key was first claimed, and last claimed or replayed, in ms |
/// | `k` | how often the response was replayed |
/// | `r` | the record of the response |
/// | `e`, `p` | expiry and owner of the completed record beneath a manual claim |
///
/// A later layout is deployed in two steps: a release that reads both and writes this one, then one that writes the new
/// one. A claim of another layout is in flight until its lease ends, and is then taken over; no process writes into it. A
/// layout that a release does not know is an error, never a run.
///
/// Each call is one script and one round trip, and the clock is the server's. A script touches one key, so the
/// primaries of a cluster can share the records among them.
///
/// # What Redis itself can lose
///
/// A server without persistence that dies forgets claims and responses, and a fail-over may lose the newest. An
/// operation whose record was lost may run again. An evicting `maxmemory-policy` would lose records at any time, and is
/// refused at start.
pub struct RedisStore {
    connections: Connections,
    scripts: &'static Scripts,
    /// The beginning of every record's name.
    prefix: String,
    names: Names,
    polls: Polls,
    location: Location,
    replicas: usize,
    /// How long a write waits for replicas.
    replicas_within: Duration,
    on_evicting: StartupCheck,
    on_unreachable: StartupCheck,
}

/// How to reach a Redis, and what to call the records there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Host, host:port or URL, of one server, of nodes of a cluster or of sentinels; setting `storage.location`.
    pub location: Location,
    /// How long one call may take; setting `storage.timeout`, 500 ms.
    pub timeout: Duration,
    /// Keeps services apart that share a Redis; setting `storage.namespace`, empty.
    pub namespace: String,
    /// The name of the cache, `default`.
    pub cache: String,
    /// How many replicas must have a claim, a response or a step before it counts; setting `storage.replicas`, 0.
    pub replicas: usize,
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
            replicas: 0,
            on_evicting: StartupCheck::Reject,
            on_unreachable: StartupCheck::Reject,
        }
    }
}

impl RedisStore {
    /// A store that connects when it is first used.
    ///
    /// # Errors
    /// [`LocationError`] when the location is no address of a Redis.
    pub fn new(options: RedisOptions) -> Result<Self, LocationError> {
        Ok(Self {
            connections: Connections::new(&options.location, options.timeout)?,
            scripts: Scripts::current(),
            names: Names::default(),
            prefix: format!("idempotency:{}:{}:", options.namespace, options.cache),
            polls: Polls::default(),
            location: options.location,
            replicas: options.replicas,
            replicas_within: options.timeout / 2,
            on_evicting: options.on_evicting,
            on_unreachable: options.on_unreachable,
        })
    }

    /// For tests of a release that writes one layout and reads another one too.
    #[doc(hidden)]
    #[must_use]
    pub fn with_layouts(self, writes: &str, reads: &str) -> Self {
        Self { scripts: Box::leak(Box::new(Scripts::new(writes, reads))), ..self }
    }

    fn name(&self, id: &RecordId) -> String {
        format!("{}{id}", self.prefix)
    }

    /// Waits until enough replicas have what was written. `is_there`: fields of the record, with their values.
    async fn have_replicas(&self, id: &RecordId, is_there: &[(&str, &[u8])]) -> Result<(), StoreError> {
        if self.replicas == 0 {
            return Ok(());
        }
        let name = self.name(id);
        if self.connections.have_replicas(&name, is_there, self.replicas, self.replicas_within).await? {
            return Ok(());
        }
        Err(StoreError::unavailable(format!("fewer than {} replicas have what was written", self.replicas)))
    }

    /// Waits until enough replicas have the response of this owner, and notes it, so that replays need not wait again.
    async fn response_has_replicas(&self, id: &RecordId, owner: OwnerToken) -> Result<(), StoreError> {
        if self.replicas == 0 {
            return Ok(());
        }
        self.have_replicas(id, &[(STATE, b"D"), (OWNER, owner.as_bytes())]).await?;
        let mut script = self.scripts.acknowledge.key(self.name(id));
        script.arg(owner.as_bytes());
        // No request waits for the note: without it, the next replay asks the replicas.
        let note = self.connections.run::<Reply>(script);
        tokio::spawn(async move { drop(note.await) });
        Ok(())
    }

    /// A record, and whether enough replicas have had its response.
    async fn inspected(&self, id: RecordId) -> Result<Option<(Inspection, bool)>, StoreError> {
        let reply: Reply = self.connections.run(self.scripts.inspect.key(self.name(&id))).await?;
        let state = match reply.code()? {
            b"N" => return Ok(None),
            b"D" => RecordState::Completed,
            b"P" => RecordState::InFlight,
            b"L" => RecordState::Lapsed,
            b"X" => RecordState::Lost,
            b"F" => RecordState::Free,
            _ => return Err(foreign()),
        };
        let mut inspection = Inspection::new(id, state, reply.millis(2)?);
        inspection.attempt = reply.number(1)?;
        inspection.record = reply.record(3)?;
        inspection.owner = reply.array(4)?.map(OwnerToken::from_bytes);
        inspection.fingerprint = reply.array(5)?.map(Fingerprint::from_bytes);
        inspection.replays = Some(reply.number(6)?);
        inspection.first_seen = reply.time(7)?;
        inspection.last_seen = reply.time(8)?;
        inspection.lost_owner = Some(reply.number::<u8>(9)? != 0);
        inspection.not_stored = reply.text(10)?.and_then(|status| status.parse().ok());
        inspection.principal = reply.array(11)?.map(PrincipalTag::from_bytes);
        for at in (13..reply.len()).step_by(3) {
            let name = reply.text(at)?.unwrap_or_default();
            let mut step = SeenStep::new(name, usize::try_from(reply.number::<i64>(at + 1)?).ok());
            step.at = reply.time(at + 2)?;
            inspection.steps.push(step);
        }
        Ok(Some((inspection, reply.number::<u8>(12)? != 0)))
    }
}

impl Store for RedisStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        let mut script = self.scripts.begin.key(self.name(&request.id));
        script
            .arg(request.token.as_bytes())
            .arg(&request.fingerprint.as_bytes()[..])
            .arg(millis(request.lease))
            .arg(millis_or_none(request.grace))
            .arg(millis(request.keep))
            .arg(request.principal.tag(&request.id).as_bytes())
            .arg(if request.if_completed == IfCompleted::Rerun { "rerun" } else { "replay" })
            .arg(if request.on_unknown == OnUnknown::Reject { "reject" } else { "rerun" });
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            Ok(match reply.code()? {
                b"A" => {
                    let claim = Claim::new(request, reply.number(1)?, reply.number(2)?);
                    let claim = claim.taken_over(reply.number::<u8>(3)? != 0).completions(reply.number(4)?);
                    if let Err(error) = self.have_replicas(&request.id, &[(OWNER, request.token.as_bytes())]).await {
                        // Its key would be locked for a lease, and nothing runs under it.
                        let _ = self.release(&claim, ReleaseAs::Free).await;
                        return Err(error);
                    }
                    let acquired = Acquired::new(claim).other_scheme(reply.number::<u8>(5)? != 0);
                    Begin::Acquired(acquired.previous(reply.record(6)?).steps(reply.steps(7)?))
                }
                b"P" if reply.number::<u8>(2)? != 0 => Begin::InFlight(Wait::grace(reply.millis(1)?)),
                b"P" => Begin::InFlight(Wait::lease(reply.millis(1)?)),
                b"M" => Begin::Mismatch,
                b"X" => Begin::OwnerLost,
                b"R" => {
                    let record = reply.record(1)?;
                    let record = record.ok_or(StoreError::foreign("a completed record without a response"))?;
                    // A replaced primary that does not know it yet may have a response that no other server has.
                    if let Some(owner) = reply.array(4)? {
                        self.response_has_replicas(&request.id, OwnerToken::from_bytes(owner)).await?;
                    }
                    let found = Found::new(record, reply.millis(2)?);
                    Begin::Completed(found.other_scheme(reply.number::<u8>(3)? != 0))
                }
                _ => return Err(foreign()),
            })
        })
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        let mut script = self.scripts.renew.key(self.name(&claim.id));
        script.arg(claim.token.as_bytes()).arg(millis(lease));
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            Ok(match reply.code()? {
                b"K" => Renewal::Extended,
                b"S" => Renewal::Lost,
                b"G" => Renewal::Gone(Moment::new(reply.number(1)?)),
                _ => return Err(foreign()),
            })
        })
    }

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        let mut script = self.scripts.restore.key(self.name(&claim.id));
        script
            .arg(claim.token.as_bytes())
            .arg(&claim.fingerprint.as_bytes()[..])
            .arg(millis(restore.lease))
            .arg(millis_or_none(claim.grace))
            .arg(millis(claim.keep))
            .arg(claim.principal.as_bytes())
            .arg(claim.attempt)
            .arg(claim.fence)
            .arg(u8::from(claim.taken_over))
            .arg(claim.completions)
            .arg(restore.gone.get().saturating_add(millis(restore.within)));
        for step in &restore.steps {
            script.arg(&*step.name).arg(result_of(step)).arg(moment_of(step));
        }
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            Ok(match reply.await?.code()? {
                b"K" => Renewal::Extended,
                b"S" => Renewal::Lost,
                _ => return Err(foreign()),
            })
        })
    }

    fn saves_steps(&self) -> bool {
        true
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        if !step.fits() {
            return StoreFuture::ready(Ok(Saved::Full));
        }
        let mut script = self.scripts.save_step.key(self.name(&claim.id));
        script.arg(claim.token.as_bytes()).arg(Step::MOST).arg(&*step.name).arg(result_of(step)).arg(moment_of(step));
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = match reply.await {
                Err(StoreError::Full) => return Ok(Saved::Full),
                reply => reply?,
            };
            Ok(match reply.code()? {
                b"K" => {
                    self.have_replicas(&claim.id, &[(OWNER, claim.token.as_bytes())]).await?;
                    Saved::Saved
                }
                b"S" => Saved::Lost,
                b"G" => Saved::Gone,
                b"F" => Saved::Full,
                _ => return Err(foreign()),
            })
        })
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        let mut script = self.scripts.complete.key(self.name(&claim.id));
        script
            .arg(claim.token.as_bytes())
            .arg(&claim.fingerprint.as_bytes()[..])
            .arg(claim.attempt)
            .arg(claim.fence)
            .arg(claim.completions)
            .arg(claim.principal.as_bytes())
            .arg(millis(ttl))
            .arg(&record.to_bytes()[..]);
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            Ok(match reply.code()? {
                b"K" => {
                    self.response_has_replicas(&claim.id, claim.token).await?;
                    Completion::Stored
                }
                b"S" => Completion::Superseded(reply.record(1)?),
                _ => return Err(foreign()),
            })
        })
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        let mut script = self.scripts.release.key(self.name(&claim.id));
        let (release_as, status) = match release_as {
            ReleaseAs::Free => ("free", 0),
            ReleaseAs::Unknown => ("unknown", 0),
            ReleaseAs::NotStored { status } => ("not-stored", status),
            ReleaseAs::Ended => ("ended", 0),
        };
        script.arg(claim.token.as_bytes()).arg(release_as).arg(status).arg(millis(NOT_STORED_KEPT));
        let reply = self.connections.run::<Reply>(script);
        StoreFuture::boxed(async move {
            Ok(match reply.await?.code()? {
                b"K" => true,
                b"S" => false,
                _ => return Err(foreign()),
            })
        })
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, _round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(self.polls.wait_for_change(&self.connections, self.name(id), *id, at_most))
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::boxed(async move {
            let Some((inspection, is_acknowledged)) = self.inspected(*id).await? else { return Ok(None) };
            // A client may be answered with this response, as by a replay.
            if let Some(owner) = inspection.owner.filter(|_| inspection.record.is_some() && !is_acknowledged) {
                self.response_has_replicas(id, owner).await?;
            }
            Ok(Some(inspection))
        })
    }

    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        let reply = self.connections.run::<Reply>(self.scripts.steps.key(self.name(id)));
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            match reply.code()? {
                b"K" => reply.steps(1),
                b"N" => Ok(Vec::new()),
                _ => Err(foreign()),
            }
        })
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        let reply = self.connections.run::<Reply>(self.scripts.forget.key(self.name(id)));
        StoreFuture::boxed(async move {
            Ok(match reply.await?.code()? {
                b"K" => Forgotten::Removed,
                b"N" => Forgotten::Absent,
                _ => Forgotten::InFlight,
            })
        })
    }

    /// Each page scans all names: made for people, not for loops.
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::boxed(async move {
            let mut after = after;
            loop {
                let ids = self.names.after(after, limit, &self.connections, &self.prefix).await?;
                let page = try_join_all(ids.iter().map(|id| self.inspected(*id))).await?;
                let page: Vec<Inspection> = page.into_iter().flatten().map(|(inspection, _)| inspection).collect();
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

/// The fields of a record that hold its state and the token of its owner.
const STATE: &str = "s";
const OWNER: &str = "o";

/// Milliseconds, at least 1: Redis takes 0 for no time at all.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}

/// Milliseconds, 0 included.
fn millis_or_none(duration: Duration) -> u64 {
    if duration.is_zero() { 0 } else { millis(duration) }
}

/// The result of a step as the scripts take it: `0`, or `1` and its bytes.
fn result_of(step: &Step) -> Vec<u8> {
    step.result.as_ref().map_or_else(|| b"0".to_vec(), |result| [b"1", &result[..]].concat())
}

/// When a step was saved, in milliseconds since the epoch. 0: it is not known.
fn moment_of(step: &Step) -> u64 {
    let since = step.at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

fn foreign() -> StoreError {
    StoreError::foreign("a record of another version")
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
