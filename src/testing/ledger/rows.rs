//! The rules of one transaction and its row.

use std::time::{Duration, Instant};

use actix_web::http::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue, LOCATION},
};

use super::{LIMIT, Subject, Try, ends, id, row, same};
use crate::{
    key::RecordId,
    ledger::{Ledger, NewRow},
    record::Record,
};

impl<L: Ledger> Subject<L> {
    pub(super) async fn shows_a_row_once_it_is_committed(&self) {
        let rule = "a row is seen once it is committed, and not before";
        let look = self.has_none(rule, 1).await;
        assert!(look.over.is_none(), "{rule}: `over` without an expired row");
        let new = row(1, 1, &look);
        let tx = self.written(rule, &new).await;
        self.has_none(rule, 1).await;
        let listed = ends(rule, self.ledger.list(None, 10)).await.expect(rule);
        assert!(listed.is_empty(), "{rule}: it is listed");
        self.commit(rule, tx).await;
        self.has(rule, &new).await;
        let later = self.look(rule, 1).await;
        assert!(later.looked_at.get() >= look.looked_at.get(), "the clock of a ledger does not go back");
    }

    pub(super) async fn keeps_every_byte_of_an_answer(&self) {
        let rule = "an answer is kept as it is";
        let every: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let texts =
            [(&CONTENT_TYPE, HeaderValue::from_static("text/plain")), (&LOCATION, "/a?b=c".parse().expect(rule))];
        let headers = || texts.iter().map(|(name, value)| (*name, value));
        let records = [
            Record::new(StatusCode::OK, headers(), Some(&every)),
            Record::new(StatusCode::SEE_OTHER, headers(), Some(&[])),
            Record::new(StatusCode::OK, [], None),
        ];
        for (n, record) in (1..).zip(records) {
            let look = self.has_none(rule, n).await;
            self.is_committed(rule, &NewRow { record, ..row(n, n, &look) }).await;
        }
        let look = self.has_none(rule, 9).await;
        let extreme =
            NewRow { keep: Duration::from_secs(100 * 366 * 86400), attempt: 2_000_000_000, ..row(9, 255, &look) };
        self.is_committed("a row may be kept for a century", &extreme).await;
    }

    pub(super) async fn leaves_nothing_of_a_rolled_back_transaction(&self) {
        let rule = "a transaction that was rolled back leaves nothing";
        let look = self.has_none(rule, 1).await;
        let tx = self.written(rule, &row(1, 1, &look)).await;
        ends(rule, self.ledger.rollback(tx)).await;
        let look = self.has_none(rule, 1).await;
        assert!(look.over.is_none(), "{rule}: it left an expired row");
        self.is_committed("and its id is free", &row(1, 2, &look)).await;
    }

    pub(super) async fn leaves_nothing_of_a_dropped_transaction(&self) {
        let rule = "a transaction that was dropped commits nothing, and its id becomes free";
        let look = self.has_none(rule, 1).await;
        drop(self.begin(rule).await);
        drop(self.written(rule, &row(1, 1, &look)).await);
        self.has_none(rule, 1).await;
        let second = NewRow { patience: super::SHORT, ..row(1, 2, &look) };
        let until = Instant::now() + LIMIT;
        loop {
            match self.attempt(rule, &second).await {
                Try::Committed => break,
                Try::Hindered if Instant::now() < until => {}
                other => panic!("{rule}: expected Written, got {other:?}"),
            }
        }
        self.has(rule, &second).await;
    }

    pub(super) async fn commits_a_transaction_without_a_row(&self) {
        let rule = "a transaction without a row can be probed and committed, or rolled back";
        let mut tx = self.begin(rule).await;
        ends(rule, self.ledger.probe(&mut tx)).await.expect(rule);
        self.commit(rule, tx).await;
        let tx = self.begin(rule).await;
        ends(rule, self.ledger.rollback(tx)).await;
        let listed = ends(rule, self.ledger.list(None, 10)).await.expect(rule);
        assert!(listed.is_empty(), "{rule}: it left a row");
    }

    pub(super) async fn keeps_ids_apart(&self) {
        let rule = "ids are apart if one bit differs, wherever it is";
        let look = self.has_none(rule, 0).await;
        let base = row(0, 1, &look);
        self.is_committed(rule, &base).await;
        for bit in [0, 7, 64, 127, 200, 255] {
            let mut bytes = *id(0).as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let other = RecordId::from_bytes(bytes);
            let found = ends(rule, self.ledger.look(&other)).await.expect(rule);
            assert!(found.row.is_none(), "{rule}: bit {bit}");
            let n = u8::try_from(bit).expect(rule);
            self.is_committed(rule, &NewRow { id: other, ..row(0, n, &look) }).await;
        }
        self.has(rule, &base).await;
    }

    pub(super) async fn passes_its_own_check(&self) {
        let rule = "`check` passes on a ledger that can be used, and leaves nothing";
        for _ in 0..2 {
            ends(rule, self.ledger.check()).await.unwrap_or_else(|error| panic!("{rule}: {error}"));
        }
        let listed = ends(rule, self.ledger.list(None, 10)).await.expect(rule);
        assert!(listed.is_empty(), "{rule}: {listed:?}");
        let look = self.has_none(rule, 1).await;
        self.is_committed(rule, &row(1, 1, &look)).await;
        ends(rule, self.ledger.check()).await.unwrap_or_else(|error| panic!("{rule}, with rows: {error}"));
    }

    pub(super) async fn is_apart_from(&self, other: &Self) {
        let rule = "two ledgers are apart, and have names of their own";
        assert_ne!(self.ledger.name(), other.ledger.name(), "{rule}");
        same("clones are one ledger", self.ledger.clone().name(), self.ledger.name());
        let (here, there) = (self.has_none(rule, 1).await, other.has_none(rule, 1).await);
        let (one, two) = (row(1, 1, &here), row(1, 2, &there));
        self.is_committed(rule, &one).await;
        other.has_none(rule, 1).await;
        other.is_committed(rule, &two).await;
        self.has(rule, &one).await;
        assert!(ends(rule, self.ledger.clone().forget(&id(1))).await.expect(rule), "{rule}");
        self.has_none("clones are one ledger", 1).await;
        other.has(rule, &two).await;
    }
}
