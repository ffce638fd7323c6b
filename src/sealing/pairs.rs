//! Pairs: what a record keeps of a JSON body, so that a later mismatch can say where the new body differs.

use super::{Index, mac::Mac};
use crate::key::{Leaf, RecordId};

/// The bytes of a pair: 4 of a keyed hash of the pointer to a leaf, and 4 of one of its value there.
const PAIR: usize = 8;

/// The key of the pairs of one record: pairs of two records can't be compared.
struct PairKey(Mac);

impl Index {
    /// The pairs of the leaves of a body, for the record `id`. `None`: there is no index key.
    ///
    /// Without a key anybody who reads a store could try guesses of each member apart.
    pub(crate) fn pairs(&self, id: &RecordId, leaves: &[Leaf]) -> Option<Vec<u8>> {
        let key = self.pair_key(id)?;
        let mut pairs: Vec<[u8; PAIR]> = leaves.iter().map(|leaf| key.pair(leaf)).collect();
        // The order of the members is nobody's business.
        pairs.sort_unstable();
        Some(pairs.concat())
    }

    /// The pointers to the leaves of a body that the body of the record did not have, sorted. `None`: there is no index key.
    pub(crate) fn differences(&self, id: &RecordId, leaves: &[Leaf], pairs: &[u8]) -> Option<Vec<String>> {
        let key = self.pair_key(id)?;
        let (known, _) = pairs.as_chunks::<PAIR>();
        let other = leaves.iter().filter(|leaf| known.binary_search(&key.pair(leaf)).is_err());
        let mut pointers: Vec<String> = other.map(|leaf| leaf.pointer.clone()).collect();
        pointers.sort_unstable();
        Some(pointers)
    }

    fn pair_key(&self, id: &RecordId) -> Option<PairKey> {
        self.key().map(|key| PairKey(Mac::new(&key.value(b"pairs", [id.as_bytes(), &[], &[]]))))
    }
}

impl PairKey {
    /// The value is hashed with its pointer, so that equal values at two places look different.
    fn pair(&self, leaf: &Leaf) -> [u8; PAIR] {
        let pointer = self.0.value(b"pointer", [leaf.pointer.as_bytes(), &[], &[]]);
        let value = self.0.value(b"value", [&pointer, &leaf.value, &[]]);
        let mut pair = [0; PAIR];
        pair[..PAIR / 2].copy_from_slice(&pointer[..PAIR / 2]);
        pair[PAIR / 2..].copy_from_slice(&value[..PAIR / 2]);
        pair
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{super::secret::Secret, *};
    use crate::key::{MOST_LEAVES, leaves};

    const ID: RecordId = RecordId::from_bytes([1; 32]);

    fn index(byte: u8) -> Index {
        Index::new(Some(&Secret::new([byte; 32])))
    }

    fn differences(first: &Value, second: &Value) -> Option<Vec<String>> {
        let (index, of) = (index(7), |value: &Value| leaves(value.to_string().as_bytes(), &[]));
        let pairs = index.pairs(&ID, &of(first)?)?;
        assert!(pairs.len() <= 512);
        index.differences(&ID, &of(second)?, &pairs)
    }

    #[test]
    fn what_is_new_or_has_another_value_is_named_and_what_is_gone_is_not() {
        let first = json!({ "amount": 1, "to": { "name": "x", "tags": ["a", "b"] }, "note": null });
        for (second, expected) in [
            (first.clone(), &[][..]),
            (json!({ "amount": 2, "to": { "name": "x", "tags": ["a", "b"] }, "note": null }), &["/amount"]),
            (json!({ "amount": 1, "to": { "name": "x", "tags": ["b", "a"] } }), &["/to/tags/0", "/to/tags/1"]),
            (json!({ "to": { "name": "x" } }), &[]),
            (json!({ "amount": 1, "to": {}, "a~/": 1 }), &["/a~0~1", "/to"]),
            (json!({ "amount": 1.0 }), &["/amount"]),
            (json!([1]), &["/0"]),
            (json!("x"), &[""]),
        ] {
            assert_eq!(differences(&first, &second).unwrap(), expected, "{second}");
        }
    }

    #[test]
    fn pairs_of_two_records_or_of_two_keys_have_nothing_in_common_nor_have_equal_values_at_two_places() {
        let of = |text: &str| leaves(text.as_bytes(), &[]).unwrap();
        let pairs = |index: &Index, id, text| index.pairs(id, &of(text)).unwrap();
        let other = RecordId::from_bytes([2; 32]);
        let one = pairs(&index(7), &ID, r#"{"a":1}"#);
        for another in [pairs(&index(7), &other, r#"{"a":1}"#), pairs(&index(8), &ID, r#"{"a":1}"#)] {
            assert!(one[..4] != another[..4] && one[4..] != another[4..]);
        }
        let twice = pairs(&index(7), &ID, r#"{"a":1,"b":1}"#);
        assert_ne!(twice[4..8], twice[12..]);
        assert_eq!(twice, pairs(&index(7), &ID, r#"{"b":1,"a":1}"#), "the order of members does not show");
        assert_eq!(Index::default().pairs(&ID, &of("1")), None);
    }

    /// A changed byte would explain every mismatch with the record of an earlier version by naming every member.
    #[test]
    fn pairs_stay_as_they_are() {
        let pairs = index(7).pairs(&ID, &leaves(br#"{"amount":17}"#, &[]).unwrap()).unwrap();
        assert_eq!(crate::key::digest::hex(&pairs), "b68eed2e710365a1");
    }

    fn body() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn equal_bodies_have_no_differences_and_a_changed_leaf_is_the_only_one(body in body(), at: prop::sample::Index) {
            let Some(all) = leaves(body.to_string().as_bytes(), &[]) else { return Ok(()) };
            prop_assert!(all.len() <= MOST_LEAVES);
            prop_assert_eq!(differences(&body, &body), Some(Vec::new()));
            let pointer = &all[at.index(all.len())].pointer;
            let mut changed = body.clone();
            *changed.pointer_mut(pointer).unwrap() = json!("a text that is longer than those above");
            prop_assert_eq!(differences(&body, &changed), Some(vec![pointer.clone()]));
        }

        #[test]
        fn every_difference_is_a_leaf_of_the_new_body_with_another_value_or_none_before(a in body(), b in body()) {
            let Some(found) = differences(&a, &b) else { return Ok(()) };
            prop_assert!(found.is_sorted());
            for leaf in leaves(b.to_string().as_bytes(), &[]).unwrap() {
                let differs = a.pointer(&leaf.pointer) != b.pointer(&leaf.pointer);
                prop_assert_eq!(found.contains(&leaf.pointer), differs, "{}", leaf.pointer);
            }
        }
    }
}
