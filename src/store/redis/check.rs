//! Checks the servers of a Redis before the application starts.

use std::{collections::BTreeSet, time::Duration};

use bb8_redis::redis;

use super::{
    RedisStore,
    connections::{Server, is_denied},
};
use crate::{
    key::RecordId,
    store::{StartupCheck, StoreError},
};

const HIDDEN: &str = "this Redis does not show its settings: make sure that maxmemory-policy is noeviction";

/// How long a server may take to tell of itself.
const PATIENCE: Duration = Duration::from_secs(5);

impl RedisStore {
    /// Refuses servers whose configuration would break promises, or warns of it.
    pub(super) async fn checked(&self) -> Result<(), StoreError> {
        let mut warnings = BTreeSet::new();
        match in_time(self.connections.servers()).await {
            Ok(servers) => {
                for server in servers {
                    match in_time(self.info(&server)).await {
                        Ok(Some(info)) => warnings.extend(self.may_be_used(&info)?),
                        Ok(None) => drop(warnings.insert(HIDDEN)),
                        Err(error) => return self.unreachable(&error),
                    }
                    if self.connections.is_cluster() {
                        self.answers_no_reads_when_down(&server).await?;
                    }
                }
            }
            Err(error) => return self.unreachable(&error),
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        // Everything else is made of scripts, so one is tried.
        self.inspected(RecordId::from_bytes([0; 32])).await.map(drop)
    }

    fn unreachable(&self, error: &StoreError) -> Result<(), StoreError> {
        if self.on_unreachable == StartupCheck::Warn {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "Redis can't be reached: protected requests are answered 503 until it can"
            );
            return Ok(());
        }
        Err(StoreError::unavailable(format!(
            "Redis at {} can't be reached: {}. To start without it, set storage.on_unreachable = warn",
            self.location,
            std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string),
        )))
    }

    /// Whether what a server tells of itself allows to use it, and what its operators should know.
    fn may_be_used(&self, info: &Info) -> Result<Vec<&'static str>, StoreError> {
        let mut warnings = Vec::new();
        let policy = info.said("maxmemory_policy");
        if !matches!(policy, "noeviction" | "") {
            let danger = format!(
                "maxmemory-policy is `{policy}`: at maxmemory this Redis evicts claims and responses, and what was evicted \
                 runs a second time. Set it to `noeviction`, or set storage.on_evicting = warn"
            );
            if self.on_evicting == StartupCheck::Reject {
                return Err(StoreError::unavailable(danger));
            }
            tracing::warn!("{danger}");
        }
        if policy.is_empty() {
            warnings.push(HIDDEN);
        }
        match (info.said("cluster_enabled") == "1", self.connections.is_cluster()) {
            (true, false) => {
                return Err(StoreError::unavailable("this Redis is a cluster: use redis-cluster:// as the location"));
            }
            (false, true) => {
                return Err(StoreError::unavailable("this Redis is no cluster: use redis:// as the location"));
            }
            _ => {}
        }
        let version = info.said("redis_version");
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(u32::MAX));
        if !version.is_empty() && (numbers.next(), numbers.next()) < (Some(6), Some(2)) {
            return Err(StoreError::unavailable(format!("this Redis is {version}: 6.2 is the oldest that will do")));
        }
        if info.said("role") == "slave" {
            return Err(StoreError::unavailable("this Redis is a replica: claims need a primary"));
        }
        if info.said("aof_enabled") == "0" {
            warnings.push("this Redis has no append-only file: if it dies, claims and responses are lost");
        }
        if self.connections.fails_over() && self.replicas == 0 && info.said("min_slaves_good_slaves").is_empty() {
            warnings.push(
                "a primary that is cut off from its replicas goes on taking claims, which are lost when it comes back: set \
                 min-replicas-to-write to 1 there, or storage.replicas here",
            );
        }
        Ok(warnings)
    }

    /// A node that serves reads while its cluster is down may show records that have changed elsewhere.
    async fn answers_no_reads_when_down(&self, server: &Server) -> Result<(), StoreError> {
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("cluster-allow-reads-when-down");
        let setting = in_time(self.connections.command_at::<Vec<String>>(server, ask)).await;
        // Managed services often show no settings.
        match setting.unwrap_or_default().get(1).map(String::as_str) {
            Some("yes") => Err(StoreError::unavailable(
                "cluster-allow-reads-when-down is `yes`: a node that was cut off would show records that have changed \
                 elsewhere. Set it to `no`",
            )),
            _ => Ok(()),
        }
    }

    /// The answer to `INFO`. `None`: this user may not ask.
    async fn info(&self, server: &Server) -> Result<Option<Info>, StoreError> {
        match self.connections.command_at::<String>(server, redis::cmd("INFO")).await {
            Ok(info) => Ok(Some(Info(info))),
            Err(error) if is_denied(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a server tells of itself.
struct Info(String);

impl Info {
    fn said(&self, name: &str) -> &str {
        let lines = self.0.lines();
        lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).next().unwrap_or_default()
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, call).await.unwrap_or(Err(StoreError::TimedOut(PATIENCE)))
}
