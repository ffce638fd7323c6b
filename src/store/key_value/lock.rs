//! Locks for a user's own [`Storage`](super::Storage): one per key, owned by a token, with a TTL.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::store::{
    OwnerToken, StoreError,
    clock::{Clock, Micros, micros},
};

/// Mutual exclusion per name: the counterpart of Django's lock class, where one lock served all keys.
///
/// Registered with [`Builder::lock`](crate::Builder::lock) and chosen by `lock.class`.
pub trait Lock: Send + Sync + 'static {
    /// Takes the lock of `name` for `ttl`, unless another token holds it. Taking it again with the same token extends
    /// it: a call that timed out can be repeated.
    fn acquire(
        &self,
        name: &str,
        token: OwnerToken,
        ttl: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Extends the lock to `ttl` from now. `false`: this token does not hold the lock any more.
    fn renew(
        &self,
        name: &str,
        token: OwnerToken,
        ttl: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Frees the lock if this token holds it.
    fn release(&self, name: &str, token: OwnerToken) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// A fencing token: greater than any that this lock gave before, to any process.
    ///
    /// The default knows none. Then the clock of this process stands in, whose tokens grow within the process, and over
    /// processes as far as their clocks agree.
    fn fence(&self) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// [`Lock`] as a trait object.
pub(crate) trait ErasedLock: Send + Sync {
    fn acquire<'a>(&'a self, name: &'a str, token: OwnerToken, ttl: Duration) -> BoxFuture<'a, bool>;
    fn renew<'a>(&'a self, name: &'a str, token: OwnerToken, ttl: Duration) -> BoxFuture<'a, bool>;
    fn release<'a>(&'a self, name: &'a str, token: OwnerToken) -> BoxFuture<'a, ()>;
    fn fence(&self) -> BoxFuture<'_, Option<u64>>;
}

impl<L: Lock> ErasedLock for L {
    fn acquire<'a>(&'a self, name: &'a str, token: OwnerToken, ttl: Duration) -> BoxFuture<'a, bool> {
        Box::pin(Lock::acquire(self, name, token, ttl))
    }

    fn renew<'a>(&'a self, name: &'a str, token: OwnerToken, ttl: Duration) -> BoxFuture<'a, bool> {
        Box::pin(Lock::renew(self, name, token, ttl))
    }

    fn release<'a>(&'a self, name: &'a str, token: OwnerToken) -> BoxFuture<'a, ()> {
        Box::pin(Lock::release(self, name, token))
    }

    fn fence(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(Lock::fence(self))
    }
}

/// A [`Lock`] of any type.
#[derive(Clone)]
pub(crate) struct AnyLock(pub(crate) Arc<dyn ErasedLock>);

impl fmt::Debug for AnyLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// A lock between the threads of one process (`lock.class = thread`), the default of a custom `Storage`.
///
/// The table has an entry for each held lock and none for others.
#[derive(Debug, Default)]
pub struct ThreadLock {
    held: Mutex<Table>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Table {
    locks: HashMap<Box<str>, HeldLock>,
    /// At this number of locks the table is swept for locks that have ended.
    sweep_at: usize,
}

#[derive(Debug)]
struct HeldLock {
    token: OwnerToken,
    ends: Micros,
}

impl ThreadLock {
    /// A lock that takes its time from `clock`.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        Self { held: Mutex::default(), clock }
    }

    fn end(&self, ttl: Duration) -> Micros {
        self.clock.now().saturating_add(micros(ttl))
    }
}

impl Lock for ThreadLock {
    async fn acquire(&self, name: &str, token: OwnerToken, ttl: Duration) -> Result<bool, StoreError> {
        let (now, new) = (self.clock.now(), HeldLock { token, ends: self.end(ttl) });
        let mut held = self.held.lock();
        if held.locks.len() >= held.sweep_at {
            // Lost owners never release theirs.
            held.locks.retain(|_, lock| now < lock.ends);
            held.sweep_at = (held.locks.len() * 2).max(64);
        }
        match held.locks.entry(name.into()) {
            Entry::Vacant(free) => {
                free.insert(new);
            }
            Entry::Occupied(mut held) => {
                if held.get().token != token && now < held.get().ends {
                    return Ok(false);
                }
                held.insert(new);
            }
        }
        Ok(true)
    }

    async fn renew(&self, name: &str, token: OwnerToken, ttl: Duration) -> Result<bool, StoreError> {
        let ends = self.end(ttl);
        // A lock that has ended and that nobody took still belongs to its owner.
        Ok(match self.held.lock().locks.get_mut(name) {
            Some(held) if held.token == token => {
                held.ends = ends;
                true
            }
            _ => false,
        })
    }

    async fn release(&self, name: &str, token: OwnerToken) -> Result<(), StoreError> {
        if let Entry::Occupied(held) = self.held.lock().locks.entry(name.into())
            && held.get().token == token
        {
            held.remove();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const TICK: Duration = Duration::from_micros(1);

    /// Elsewhere the lock table leaked every key.
    #[actix_web::test]
    async fn a_released_lock_leaves_nothing_behind() {
        let lock = ThreadLock::default();
        let (a, b) = (OwnerToken::random(), OwnerToken::random());
        assert!(Lock::acquire(&lock, "k", a, TTL).await.unwrap());
        assert!(Lock::acquire(&lock, "k", a, TTL).await.unwrap(), "repeatable with the same token");
        assert!(!Lock::acquire(&lock, "k", b, TTL).await.unwrap());
        assert!(Lock::acquire(&lock, "other", b, TTL).await.unwrap(), "one lock per name");
        Lock::release(&lock, "k", b).await.unwrap();
        assert!(!Lock::acquire(&lock, "k", b, TTL).await.unwrap(), "only the owner frees it");
        Lock::release(&lock, "k", a).await.unwrap();
        Lock::release(&lock, "other", b).await.unwrap();
        assert!(lock.held.lock().locks.is_empty());
    }

    #[actix_web::test]
    async fn locks_of_lost_owners_are_swept() {
        let clock = Clock::steered();
        let lock = ThreadLock::with_clock(clock.clone());
        for n in 0..10_000 {
            assert!(Lock::acquire(&lock, &n.to_string(), OwnerToken::random(), TTL).await.unwrap());
            clock.advance(TTL / 10);
        }
        assert!(lock.held.lock().locks.len() <= 100);
    }

    #[actix_web::test]
    async fn a_lock_ends_with_its_ttl_unless_renewed() {
        let clock = Clock::steered();
        let lock = ThreadLock::with_clock(clock.clone());
        let (a, b) = (OwnerToken::random(), OwnerToken::random());
        assert!(Lock::acquire(&lock, "k", a, TTL).await.unwrap());
        clock.advance(TTL.saturating_sub(TICK));
        assert!(Lock::renew(&lock, "k", a, TTL).await.unwrap());
        clock.advance(TTL.saturating_sub(TICK));
        assert!(!Lock::acquire(&lock, "k", b, TTL).await.unwrap());
        clock.advance(TICK);
        assert!(Lock::acquire(&lock, "k", b, TTL).await.unwrap());
        assert!(!Lock::renew(&lock, "k", a, TTL).await.unwrap(), "taken over");
    }
}
