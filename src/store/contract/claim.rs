//! A claim: the right to run one operation, and what can become of it.

use std::fmt;

use super::BeginRequest;
use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
};

/// The right to run one operation. Stores make it; its owner hands it back with every later call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// Which record.
    pub id: RecordId,
    /// Which operation.
    pub fingerprint: Fingerprint,
    /// The owner.
    pub token: OwnerToken,
    /// How often this record was claimed, from 1.
    pub attempt: u32,
    /// The fencing token: grows with every claim of the same key, so that another system can refuse a late writer.
    pub fence: u64,
    /// Whether the previous owner was lost while it ran.
    pub taken_over: bool,
}

impl Claim {
    /// The claim that a store grants to `request`. It takes nothing over.
    #[must_use]
    pub const fn new(request: &BeginRequest, attempt: u32, fence: u64) -> Self {
        let BeginRequest { id, fingerprint, token, .. } = *request;
        Self { id, fingerprint, token, attempt, fence, taken_over: false }
    }

    /// Sets [`taken_over`](Self::taken_over).
    #[must_use]
    pub const fn taken_over(mut self, taken_over: bool) -> Self {
        self.taken_over = taken_over;
        self
    }
}

/// The owner token: 128 bits that tell owners apart, over all processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerToken([u8; 16]);

impl OwnerToken {
    /// A new token.
    #[must_use]
    pub fn random() -> Self {
        use std::{
            cell::Cell,
            hash::{BuildHasher, RandomState},
        };
        // Each thread starts at a random number and counts on. A token need not be hard to guess: whoever can present
        // one to the store can change its records anyway.
        thread_local! {
            static NEXT: Cell<u128> = {
                let random = RandomState::new();
                Cell::new(u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1)))
            };
        }
        NEXT.with(|next| Self(next.replace(next.get().wrapping_add(1)).to_le_bytes()))
    }

    /// The 16 bytes of the token.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A token from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerToken({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The answer of [`Store::renew`](super::Store::renew).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was extended.
    Extended,
    /// Another owner holds the record, or has completed it.
    Lost,
    /// The store has no such record any more. The owner can still complete it.
    Gone,
}

/// The answer of [`Store::complete`](super::Store::complete).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The response is stored, perhaps by an earlier call with the same token.
    Stored,
    /// Another owner took over. If that owner has completed the record, here is its response.
    Superseded(Option<Record>),
}

/// The state of a record after its claim is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseAs {
    /// Free: the next request may run.
    Free,
    /// Unknown: nobody knows what the run did, and the record stays as *owner lost*.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_owners_have_the_same_token() {
        let some = || (0..1000).map(|_| OwnerToken::random()).collect::<Vec<_>>();
        let others = [std::thread::spawn(some), std::thread::spawn(some)].map(|thread| thread.join().unwrap());
        let all: HashSet<OwnerToken> = others.into_iter().flatten().chain(some()).collect();
        assert_eq!(all.len(), 3000);
    }
}
