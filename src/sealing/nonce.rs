//! Nonces: one for each sealed record, and for each sealed result of a step.

use std::cell::RefCell;

use crate::record::SealingAlgorithm;

/// A nonce of 12 or 24 bytes.
#[derive(Clone, Copy)]
pub(super) struct Nonce {
    bytes: [u8; LONG],
    length: usize,
}

const LONG: usize = 24;
const SHORT: usize = 12;

/// The nonces that a thread gets from the system at once.
const BATCH: usize = 21;

/// Random nonces that nothing was sealed with yet: the first `left` of them.
struct Batch {
    nonces: [[u8; SHORT]; BATCH],
    left: usize,
}

thread_local! {
    static NEXT: RefCell<Batch> = const { RefCell::new(Batch { nonces: [[0; SHORT]; BATCH], left: 0 }) };
}

impl Nonce {
    /// A fresh nonce.
    ///
    /// Nonces for AES-256-GCM-SIV come in batches, because a call of the system costs as much as sealing a short part. A
    /// forked process, and a machine that is restored from a snapshot, may use the rest of a batch a second time: this
    /// algorithm allows it. XChaCha20-Poly1305 does not, so each of its nonces comes from the system.
    pub(super) fn fresh(algorithm: SealingAlgorithm) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; LONG];
        match algorithm {
            SealingAlgorithm::XChaCha20Poly1305 => getrandom::fill(&mut bytes)?,
            SealingAlgorithm::Aes256GcmSiv => {
                let nonce = NEXT.with_borrow_mut(Batch::next)?;
                bytes[..SHORT].copy_from_slice(&nonce);
                return Ok(Self { bytes, length: SHORT });
            }
        }
        Ok(Self { bytes, length: LONG })
    }

    /// A nonce that a store has kept, or one of a test.
    pub(super) fn known(nonce: &[u8]) -> Self {
        let mut bytes = [0; LONG];
        bytes[..nonce.len()].copy_from_slice(nonce);
        Self { bytes, length: nonce.len() }
    }

    /// The nonce of a body, whose head has this one: the last bit is turned.
    pub(super) fn of_body(mut self) -> Self {
        self.bytes[self.length - 1] ^= 1;
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Batch {
    fn next(&mut self) -> Result<[u8; SHORT], getrandom::Error> {
        if self.left == 0 {
            getrandom::fill(self.nonces.as_flattened_mut())?;
            self.left = BATCH;
        }
        self.left -= 1;
        Ok(self.nonces[self.left])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_nonce_comes_twice() {
        for algorithm in [SealingAlgorithm::XChaCha20Poly1305, SealingAlgorithm::Aes256GcmSiv] {
            let some = move || (0..5 * BATCH).map(|_| Nonce::fresh(algorithm).unwrap()).collect::<Vec<_>>();
            let threads = [(); 4].map(|()| std::thread::spawn(some));
            let nonces: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).chain(some()).collect();
            let both = nonces.iter().flat_map(|nonce| [*nonce, nonce.of_body()]);
            let different: HashSet<_> = both.map(|nonce| nonce.as_bytes().to_vec()).collect();
            assert_eq!(different.len(), 2 * nonces.len());
        }
    }
}
