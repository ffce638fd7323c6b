//! Sealed bytes: what opens them, and what does not.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use actix_web::http::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use bytes::Bytes;
use proptest::prelude::*;

use super::{
    CacheSeals, Encryption, STEP_OVERHEAD, Sealing, SealingKey, SealingMode, Seals, SecretSource,
    nonce::Nonce,
    ring::{Place, Ring},
};
use crate::{
    key::{Principal, RecordId, digest::hex},
    record::{Record, SealingAlgorithm, UnreadableRecord},
};

const ALGORITHMS: [SealingAlgorithm; 2] = [SealingAlgorithm::XChaCha20Poly1305, SealingAlgorithm::Aes256GcmSiv];

fn encryption(keys: &[(u16, u8)]) -> Encryption {
    Encryption {
        keys: keys.iter().map(|(id, byte)| SealingKey::new(*id, SecretSource::given([*byte; 32]))).collect(),
        ..Encryption::default()
    }
}

fn seals_of(encryption: &Encryption) -> CacheSeals {
    CacheSeals::new(&Seals::read(encryption).unwrap(), "", "default")
}

fn seals(keys: &[(u16, u8)]) -> CacheSeals {
    seals_of(&encryption(keys))
}

fn id(byte: u8) -> RecordId {
    RecordId::from_bytes([byte; 32])
}

fn record(body: Option<&[u8]>) -> Record {
    let kind = (HeaderName::from_static("content-type"), HeaderValue::from_static("text/plain"));
    Record::new(StatusCode::CREATED, [(&kind.0, &kind.1)], body)
}

fn bytes(record: &Record) -> Vec<u8> {
    record.to_bytes().to_vec()
}

/// The record whose bytes a store has kept, unless a store would refuse them.
fn kept(bytes: Vec<u8>) -> Option<Record> {
    Record::from_bytes(bytes.into()).ok()
}

#[track_caller]
fn does_not_open(seals: &CacheSeals, id: &RecordId, bytes: Vec<u8>) {
    if let Some(record) = kept(bytes) {
        assert!(seals.open(id, &record, None).is_err(), "it opened");
    }
}

/// A changed byte would make every sealed record of a store unreadable.
#[test]
fn sealed_bytes_stay_as_they_are() {
    let id = id(9);
    let place = Place { id: &id, cache: "default" };
    let client = Sealing::new("k1", &Principal::new("alice"));
    let modes = [
        (ALGORITHMS[0], SealingMode::Server),
        (ALGORITHMS[1], SealingMode::Server),
        (ALGORITHMS[0], SealingMode::Client),
        (ALGORITHMS[1], SealingMode::Client),
    ];
    let sealed = modes.map(|(algorithm, mode)| {
        let ring = Ring::read(&Encryption { algorithm, mode, ..encryption(&[(258, 7)]) }).unwrap().unwrap();
        let nonce = &Nonce::known(&[5; 24][..if algorithm == SealingAlgorithm::Aes256GcmSiv { 12 } else { 24 }]);
        let record = Record::new(StatusCode::CREATED, [], Some(b"paid"));
        let sealed = ring.seal(place, &record, Some(client.client()), nonce).unwrap();
        let opened = ring.open(place, &sealed.sealed_parts().unwrap().unwrap(), Some(client.client())).unwrap();
        assert_eq!(opened, record);
        let step = ring.seal_step(place, "charge", b"\"ch_1\"", Some(client.client()), nonce).unwrap();
        assert_eq!(ring.open_step(place, "charge", &step, Some(client.client())).unwrap(), "\"ch_1\"");
        [hex(&sealed.to_bytes()), hex(&step)]
    });
    assert_eq!(sealed.as_flattened(), VECTORS);
}

/// Record and step: XChaCha20-Poly1305 and AES-256-GCM-SIV, each with the server's key alone and then with the client's.
const VECTORS: [&str; 8] = [
    "020202010505050505050505050505050505050505050505050505051400000031dad320c257f1455a24e3246d40c4cdfbe686cbf8b9844fd239245a19a0967a81bca23ea9d6ae7d",
    "00020201050505050505050505050505050505050505050505050505dab9ba7b7b906487d5b70af0b107baf4cb8a2a050573",
    "02030201050505050505050505050505140000008d90b1750577b40aa7f67a9cb269b6d1c5352166b8a3f80908539f558133e59e7d7ff124c5a24639",
    "000302010505050505050505050505052f518cb74fbb9a2876eed454cad825e0facac68ddcc8",
    "0282020105050505050505050505050505050505050505050505050514000000175a438ad3f4ce6538ea38af127fcf9de5eb20dc16e1e348df5d05e51c0974c8acec7735268161d4",
    "00820201050505050505050505050505050505050505050505050505fc392ad1535429109bfb2955da5c0c930e5a9e5b1046",
    "0283020105050505050505050505050514000000ef0b8468beecff9fe51e0ac597d233b078749ee88bf198c0f9e75d0d0f75fa9ba69ea01ef55d9eb7",
    "00830201050505050505050505050505b5606b0309ebf443c2360f40596d25b08d637ec3fc27",
];

#[test]
fn sealed_bytes_have_nothing_of_the_response() {
    for algorithm in ALGORITHMS {
        let seals = seals_of(&Encryption { algorithm, ..encryption(&[(1, 1)]) });
        let sealed = bytes(&seals.seal(&id(1), &record(Some(b"a secret body")), None).unwrap());
        for secret in [&b"secret"[..], b"text/plain", b"content-type"] {
            assert!(!sealed.windows(secret.len()).any(|window| window == secret));
        }
        let step = seals.seal_step(&id(1), "charge", &Bytes::from_static(b"\"ch_secret\""), None).unwrap();
        assert!(!step.windows(6).any(|window| window == b"secret"));
        assert!(step.len() <= STEP_OVERHEAD + 11);
    }
}

#[test]
fn a_new_key_seals_and_the_old_one_still_opens() {
    let before = seals(&[(1, 1)]).seal(&id(1), &record(Some(b"paid")), None).unwrap();
    let rotated = seals(&[(2, 2), (1, 1)]);
    assert_eq!(rotated.open(&id(1), &before, None).unwrap(), record(Some(b"paid")));
    let after = rotated.seal(&id(1), &record(Some(b"paid")), None).unwrap();
    assert_eq!(after.sealed_parts().unwrap().unwrap().key, 2);
    let removed = seals(&[(2, 2)]);
    assert_eq!(removed.open(&id(1), &after, None).unwrap(), record(Some(b"paid")));
    let error = removed.open(&id(1), &before, None).unwrap_err();
    assert_eq!(error.to_string(), "the record is sealed with key 1: that key is not in `encryption.keys`");
}

#[test]
fn another_algorithm_still_opens_what_the_first_has_sealed() {
    let with = |algorithm| seals_of(&Encryption { algorithm, ..encryption(&[(1, 1)]) });
    for [first, other] in [ALGORITHMS, [ALGORITHMS[1], ALGORITHMS[0]]] {
        let sealed = with(first).seal(&id(1), &record(Some(b"paid")), None).unwrap();
        assert_eq!(with(other).open(&id(1), &sealed, None).unwrap(), record(Some(b"paid")));
    }
}

#[test]
fn swapped_keys_open_nothing() {
    let sealed = seals(&[(1, 1), (2, 2)]).seal(&id(1), &record(Some(b"paid")), None).unwrap();
    let swapped = seals(&[(1, 2), (2, 1)]);
    assert!(matches!(swapped.open(&id(1), &sealed, None), Err(UnreadableRecord::Sealed { key: 1, .. })));
}

#[test]
fn a_record_opens_in_its_place_only() {
    let seals = seals(&[(1, 1)]);
    let sealed = seals.seal(&id(1), &record(Some(b"paid")), None).unwrap();
    assert!(seals.open(&id(1), &sealed, None).is_ok());
    assert!(seals.open(&id(2), &sealed, None).is_err(), "the record of another key");
    let elsewhere = CacheSeals::new(&Seals::read(&encryption(&[(1, 1)])).unwrap(), "", "other");
    assert!(elsewhere.open(&id(1), &sealed, None).is_err(), "the record of another cache");
}

#[test]
fn a_head_does_not_open_with_another_body() {
    let seals = seals(&[(1, 1)]);
    let [first, second] = [b"first", b"secnd"].map(|body| seals.seal(&id(1), &record(Some(body)), None).unwrap());
    let (first_parts, second_parts) = (first.sealed_parts().unwrap().unwrap(), second.sealed_parts().unwrap().unwrap());
    let mut mixed = bytes(&first);
    let at = mixed.len() - first_parts.body.len();
    mixed[at..].copy_from_slice(second_parts.body);
    does_not_open(&seals, &id(1), mixed);
    // A head in the place of a body, and a body in that of a head.
    let AsParts { header, head, body } = as_parts(&first);
    does_not_open(&seals, &id(1), joined(header, body, head));
    does_not_open(&seals, &id(1), joined(header, head, head));
    does_not_open(&seals, &id(1), joined(header, body, body));
    assert!(seals.open(&id(1), &kept(joined(header, head, body)).unwrap(), None).is_ok());
}

struct AsParts<'a> {
    header: &'a [u8],
    head: &'a [u8],
    body: &'a [u8],
}

fn as_parts(record: &Record) -> AsParts<'static> {
    let all: &'static [u8] = Vec::leak(bytes(record));
    let parts = record.sealed_parts().unwrap().unwrap();
    let (header, rest) = all.split_at(4 + parts.nonce.len());
    let (head, body) = rest[4..].split_at(parts.head.len());
    AsParts { header, head, body }
}

fn joined(header: &[u8], head: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(head.len()).unwrap().to_le_bytes();
    [header, &length, head, body].concat()
}

#[test]
fn a_step_opens_under_its_name_and_is_no_record() {
    let seals = seals(&[(1, 1)]);
    let step = seals.seal_step(&id(1), "charge", &Bytes::from_static(b"1"), None).unwrap();
    assert_eq!(seals.open_step(&id(1), "charge", &step, None).unwrap(), "1");
    assert!(seals.open_step(&id(1), "refund", &step, None).is_err(), "another step");
    assert!(seals.open_step(&id(2), "charge", &step, None).is_err(), "another record");
    let mut bytes = step.to_vec();
    bytes[0] = 2;
    does_not_open(&seals, &id(1), bytes);
    let AsParts { header, head, .. } = as_parts(&seals.seal(&id(1), &record(None), None).unwrap());
    let as_step = [&[0], &header[1..], head].concat();
    assert!(seals.open_step(&id(1), "charge", &as_step.into(), None).is_err(), "a record as a step");
}

#[test]
fn damaged_bytes_do_not_open() {
    for algorithm in ALGORITHMS {
        let seals = seals_of(&Encryption { algorithm, ..encryption(&[(1, 1)]) });
        let sealed = seals.seal(&id(1), &record(Some(b"paid")), None).unwrap();
        let whole = bytes(&sealed);
        let body = sealed.sealed_parts().unwrap().unwrap().body.len();
        for length in (0..whole.len()).filter(|length| *length != whole.len() - body) {
            does_not_open(&seals, &id(1), whole[..length].to_vec());
        }
        for at in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            does_not_open(&seals, &id(1), flipped);
        }
        let step = seals.seal_step(&id(1), "charge", &Bytes::from_static(b"\"ch_1\""), None).unwrap();
        for at in 0..step.len() * 8 {
            let mut flipped = step.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(seals.open_step(&id(1), "charge", &flipped.into(), None).is_err());
        }
        for length in 1..step.len() {
            assert!(seals.open_step(&id(1), "charge", &step.slice(..length), None).is_err());
        }
    }
}

#[test]
fn a_store_gives_a_body_up_without_opening_it() {
    let seals = seals(&[(1, 1)]);
    for body in [Some(&b"paid"[..]), Some(b""), None] {
        let sealed = seals.seal(&id(1), &record(body), None).unwrap();
        let given_up = seals.open(&id(1), &sealed.without_body(), None).unwrap();
        assert_eq!(given_up, record(body).without_body());
        assert_eq!(seals.open(&id(1), &sealed, None).unwrap(), record(body));
    }
}

#[test]
fn a_record_that_is_not_sealed_is_refused_unless_that_is_meant() {
    let plain = record(Some(b"paid"));
    let refused = seals(&[(1, 1)]).open(&id(1), &plain, None).unwrap_err();
    assert!(matches!(refused, UnreadableRecord::Unsealed));
    let accepting = seals_of(&Encryption { accept_unsealed: true, ..encryption(&[(1, 1)]) });
    assert_eq!(accepting.open(&id(1), &plain, None).unwrap(), plain);
    let step = Bytes::from_static(b"1");
    assert!(seals(&[(1, 1)]).open_step(&id(1), "charge", &step, None).is_err());
    assert_eq!(accepting.open_step(&id(1), "charge", &step, None).unwrap(), step);
}

#[test]
fn only_the_clients_key_opens_its_record() {
    let seals = seals_of(&Encryption { mode: SealingMode::Client, ..encryption(&[(1, 1)]) });
    let (alice, bob) = (Principal::new("alice"), Principal::new("bob"));
    let operation = |key, principal| Sealing::new(key, principal);
    let (mine, paid) = (operation("k1", &alice), record(Some(b"paid")));
    let sealed = seals.seal(&id(1), &paid, Some(&mine)).unwrap();
    assert_eq!(seals.open(&id(1), &sealed, Some(&operation("k1", &alice))).unwrap(), paid);
    assert!(seals.open(&id(1), &sealed, Some(&operation("k2", &alice))).is_err());
    assert!(seals.open(&id(1), &sealed, Some(&operation("k1", &bob))).is_err());
    let error = seals.open(&id(1), &sealed, None).unwrap_err();
    assert_eq!(error.to_string(), "the record is sealed with key 1: its client's idempotency key is needed too");
    assert!(seals.seal(&id(1), &paid, None).is_err(), "nothing is sealed by the server's key alone");
    let step = seals.seal_step(&id(1), "charge", &Bytes::from_static(b"1"), Some(&mine)).unwrap();
    assert!(seals.open_step(&id(1), "charge", &step, None).is_err());
    assert_eq!(seals.open_step(&id(1), "charge", &step, Some(&mine)).unwrap(), "1");
}

#[test]
fn a_repeated_completion_has_the_same_bytes() {
    let seals = seals(&[(1, 1)]);
    let operation = Sealing::new("k", &Principal::anonymous());
    let first = seals.seal(&id(1), &record(Some(b"paid")), Some(&operation)).unwrap();
    let again = seals.seal(&id(1), &record(Some(b"paid")), Some(&operation)).unwrap();
    assert_eq!(bytes(&first), bytes(&again));
    let other = seals.seal(&id(1), &record(Some(b"other")), Some(&operation)).unwrap();
    assert_eq!(seals.open(&id(1), &other, None).unwrap(), record(Some(b"other")));
    let fresh = seals.seal(&id(1), &record(Some(b"paid")), None).unwrap();
    assert_ne!(bytes(&first), bytes(&fresh), "no nonce is used twice");
}

#[test]
fn keys_that_can_not_be_read_are_named_without_the_key() {
    let file = std::env::temp_dir().join(format!("sealing-key-{}", std::process::id()));
    std::fs::write(&file, "not-a-key-but-secret").unwrap();
    let entry = format!("1:file:{}", file.display());
    let read = |keys: &str, index_key: Option<&str>| {
        let keys = keys.split(',').filter(|key| !key.is_empty()).map(|key| key.parse().unwrap()).collect();
        let index_key = index_key.map(|key| key.parse().unwrap());
        Seals::read(&Encryption { keys, index_key, ..Encryption::default() })
    };
    let error = read(&entry, None).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("setting `encryption.keys`: `{entry}`: not a key: 64 hexadecimal digits, or base64 of 32 bytes")
    );
    let error = read("2:env:NO_SUCH_KEY_HERE", None).unwrap_err().to_string();
    assert_eq!(error, "setting `encryption.keys`: `2:env:NO_SUCH_KEY_HERE`: environment variable not found");
    let error = read("", Some("file:/no/such/key")).unwrap_err().to_string();
    assert!(error.starts_with("setting `encryption.index_key`: `file:/no/such/key`: "), "{error}");
    std::fs::write(&file, format!("{}\n", "ab".repeat(32))).unwrap();
    assert!(CacheSeals::new(&read(&entry, None).unwrap(), "", "default").are_set());
    let same = read(&entry, Some(&format!("file:{}", file.display()))).unwrap_err().to_string();
    assert!(same.contains("is the same key"), "{same}");
    assert!(!CacheSeals::new(&read("", None).unwrap(), "", "default").are_set());
    std::fs::remove_file(file).unwrap();
}

proptest! {
    #[test]
    fn every_record_and_step_opens_as_it_was(
        body in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
        status in 200_u16..600,
        value in "[ -~]{0,40}",
        name in ".{0,20}",
        aes in any::<bool>(),
        client in any::<bool>(),
    ) {
        let algorithm = ALGORITHMS[usize::from(aes)];
        let mode = if client { SealingMode::Client } else { SealingMode::Server };
        let seals = seals_of(&Encryption { algorithm, mode, ..encryption(&[(65535, 3), (1, 1)]) });
        let (header, value) = (HeaderName::from_static("x-any"), HeaderValue::from_str(&value).unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        let record = Record::new(status, [(&header, &value)], body.as_deref());
        let operation = Sealing::new("k", &Principal::anonymous());
        let sealed = seals.seal(&id(4), &record, Some(&operation)).unwrap();
        prop_assert!(sealed.is_sealed());
        let from_store = Record::from_bytes(sealed.to_bytes()).unwrap();
        prop_assert_eq!(seals.open(&id(4), &from_store, Some(&operation)).unwrap(), record);
        let result = Bytes::from(body.unwrap_or_default());
        let step = seals.seal_step(&id(4), &name, &result, Some(&operation)).unwrap();
        prop_assert_eq!(step.is_empty(), result.is_empty(), "an empty result is none");
        prop_assert_eq!(seals.open_step(&id(4), &name, &step, Some(&operation)).unwrap(), result);
    }

    #[test]
    fn no_bytes_make_opening_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), algorithm in 0_u8..6) {
        let seals = seals(&[(1, 1), (2, 2)]);
        let operation = Sealing::new("k", &Principal::anonymous());
        let sealed = [&[2, algorithm | bytes.first().unwrap_or(&0) & 0x80, 1, 0], &bytes[..]].concat();
        if let Some(record) = kept(sealed) {
            prop_assert!(seals.open(&id(1), &record, Some(&operation)).is_err());
        }
        let step = [&[0, algorithm, 1, 0], &bytes[..]].concat();
        prop_assert!(seals.open_step(&id(1), "a", &step.into(), Some(&operation)).is_err());
    }
}

#[test]
fn an_index_key_hides_the_ids_and_leaves_the_sealing_alone() {
    let with = |index_key| Encryption { index_key, ..encryption(&[(1, 1)]) };
    let plain = Seals::read(&with(None)).unwrap();
    let keyed = Seals::read(&with(Some(SecretSource::given([9; 32])))).unwrap();
    assert_eq!(plain.index.id(id(1)), id(1));
    assert_ne!(keyed.index.id(id(1)), id(1));
    let caches: Vec<_> = [&plain, &keyed].iter().map(|seals| CacheSeals::new(seals, "", "default")).collect();
    let sealed = caches[0].seal(&id(1), &record(None), None).unwrap();
    assert_eq!(caches[1].open(&id(1), &sealed, None).unwrap(), record(None));
    let _: Arc<Seals> = plain;
}
