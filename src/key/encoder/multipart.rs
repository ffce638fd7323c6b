//! Compares `multipart/form-data` by its parts. Most clients make a new boundary for each attempt, so neither the bytes
//! of the body nor the `Content-Type` are equal when such a request is sent again.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;

use crate::key::digest::Digest;

/// Adds content type and body to a fingerprint. `false`, and nothing is added, when this is no well-formed multipart body:
/// then its bytes are compared.
pub(super) fn add_parts(digest: &mut Digest, content_type: &[u8], body: &[Bytes]) -> bool {
    let Some(boundary) = boundary(content_type) else { return false };
    let whole: Cow<'_, [u8]> = match body {
        [one] => Cow::Borrowed(one),
        pieces => Cow::Owned(pieces.concat()),
    };
    let Some(parts) = parts(&whole, &boundary) else { return false };
    digest.part(b"multipart/form-data by parts");
    for part in parts {
        digest.part(part);
    }
    true
}

/// The boundary of a `multipart/form-data`. `None`: the content is of another type, or the parameter is malformed.
fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    // Most requests are of another type.
    if !content_type.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/")) {
        return None;
    }
    let text = std::str::from_utf8(content_type).ok()?;
    let (media, parameters) = text.split_once(';')?;
    if !media.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut found = None;
    for parameter in parameters.split(';') {
        let (name, value) = parameter.split_once('=')?;
        // Other parameters would have to be compared too, so they are left to the comparison of bytes.
        if !name.trim().eq_ignore_ascii_case("boundary") || found.is_some() {
            return None;
        }
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let is_boundary = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
        // RFC 2046, 5.1.1.
        if value.is_empty() || value.len() > 70 || !value.bytes().all(is_boundary) {
            return None;
        }
        found = Some(value.as_bytes().to_vec());
    }
    found
}

/// The parts of a body: headers and content of each, as they are. `None`: the body is not exactly parts between
/// boundaries, so it may say more than its parts do.
fn parts<'a>(body: &'a [u8], boundary: &[u8]) -> Option<Vec<&'a [u8]>> {
    let delimiter = [b"\r\n--", boundary].concat();
    // The first boundary stands at the beginning of the body, without a line break before it.
    let mut rest = body.strip_prefix(&delimiter[2..])?;
    let mut parts = Vec::new();
    loop {
        match rest {
            // Some libraries end a form with more than one line break.
            [b'-', b'-', end @ ..] if end.iter().all(|byte| b"\r\n".contains(byte)) => return Some(parts),
            [b'\r', b'\n', content @ ..] => {
                let end = memmem::find(content, &delimiter)?;
                parts.push(&content[..end]);
                rest = &content[end + delimiter.len()..];
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(content_type: &str, body: &[u8]) -> Option<[u8; 32]> {
        let mut digest = Digest::new(b"t");
        add_parts(&mut digest, content_type.as_bytes(), &[Bytes::copy_from_slice(body)]).then(|| digest.finish())
    }

    fn form(boundary: &str, parts: &[&str]) -> (String, Vec<u8>) {
        let parts = parts.iter().map(|part| format!("--{boundary}\r\n{part}\r\n")).collect::<Vec<_>>().concat();
        (format!("multipart/form-data; boundary={boundary}"), format!("{parts}--{boundary}--\r\n").into_bytes())
    }

    fn of(boundary: &str, parts: &[&str]) -> [u8; 32] {
        let (content_type, body) = form(boundary, parts);
        hash(&content_type, &body).expect("well-formed")
    }

    const AMOUNT: &str = "Content-Disposition: form-data; name=\"amount\"\r\n\r\n100";
    const OTHER: &str = "Content-Disposition: form-data; name=\"amount\"\r\n\r\n999";

    #[test]
    fn line_breaks_after_the_end_do_not_count() {
        let end_of = |boundary: &str, end: &str| {
            let (content_type, mut body) = form(boundary, &[AMOUNT]);
            body.extend_from_slice(end.as_bytes());
            hash(&content_type, &body)
        };
        assert_eq!(end_of("aaaa", "\r\n"), end_of("bbbb", "\r\n"));
        assert_eq!(end_of("aaaa", ""), end_of("bbbb", "\r\n"));
        assert_eq!(end_of("aaaa", "more"), None);
    }

    #[test]
    fn the_boundary_does_not_count_and_the_parts_do() {
        assert_eq!(of("aaaa", &[AMOUNT]), of("WebKit-bbb", &[AMOUNT]));
        assert_ne!(of("aaaa", &[AMOUNT]), of("aaaa", &[OTHER]));
        assert_ne!(of("aaaa", &[AMOUNT, OTHER]), of("aaaa", &[OTHER, AMOUNT]));
        assert_ne!(of("aaaa", &[AMOUNT]), of("aaaa", &[AMOUNT, AMOUNT]));
        assert_eq!(of("aaaa", &[]), of("b", &[]));
    }

    #[test]
    fn a_body_that_says_more_than_its_parts_is_compared_by_its_bytes() {
        let (kind, good) = form("b", &[AMOUNT]);
        for body in [&b"--b--x"[..], b"preamble\r\n--b--", b"--b\r\nopen", b"", b"--b\r\nx\r\n--bb--"] {
            assert_eq!(hash(&kind, body), None, "{}", String::from_utf8_lossy(body));
        }
        for kind in [
            "multipart/form-data",
            "multipart/mixed; boundary=b",
            "multipart/form-data; boundary=\u{7f}",
            "multipart/form-data; boundary=b; charset=utf-8",
            "multipart/form-data; boundary=",
            "text/plain",
        ] {
            assert!(!add_parts(&mut Digest::new(b"t"), kind.as_bytes(), &[good.clone().into()]), "{kind}");
        }
        assert!(hash("Multipart/Form-Data;boundary=\"b\"", &good).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200), cuts in proptest::collection::vec("[-\r\nb]{1,6}", 0..20)) {
            hash("multipart/form-data; boundary=b", &body);
            hash("multipart/form-data; boundary=b", cuts.concat().as_bytes());
        }

        #[test]
        fn different_parts_differ(a in proptest::collection::vec("[a-c]{0,3}", 0..4), b in proptest::collection::vec("[a-c]{0,3}", 0..4)) {
            let strs = |parts: &[String]| parts.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
            let (left, right) = (strs(&a), strs(&b));
            let hash_of = |parts: &[String], boundary| of(boundary, &parts.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(hash_of(&left, "x-x-x") == hash_of(&right, "y-y-y"), a == b);
        }
    }
}
