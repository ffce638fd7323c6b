//! The digest that a client sends of its body: `Content-Digest` (RFC 9530).

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{RequestHeaders, structured_field};

/// The SHA-256 of the body, if the client sends it. Other algorithms are passed over.
///
/// # Errors
/// The header is malformed, or its SHA-256 has not 32 bytes.
pub(crate) fn content_digest(headers: RequestHeaders<'_>) -> Result<Option<[u8; 32]>, MalformedDigest> {
    let lines = headers.iter().filter(|(name, _)| *name == "content-digest").map(|(_, value)| value.as_bytes());
    let lines: Vec<&[u8]> = lines.collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let text = structured_field::bytes_of_member(&lines.join(&b", "[..]), b"sha-256").map_err(|()| MalformedDigest)?;
    let Some(text) = text else { return Ok(None) };
    let bytes = STANDARD.decode(text).map_err(|_| MalformedDigest)?;
    bytes.try_into().map(Some).map_err(|_| MalformedDigest)
}

/// The header is not what RFC 9530 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedDigest;

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    /// The examples of RFC 9530 have the digest of `{"hello": "world"}` and a line feed.
    const HELLO: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";

    fn digest(lines: &[&[u8]]) -> Result<Option<[u8; 32]>, MalformedDigest> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HeaderName::from_static("content-digest"), HeaderValue::from_bytes(line).unwrap());
        }
        content_digest((&headers).into())
    }

    #[test]
    fn the_digest_is_the_sha_256_among_other_algorithms() {
        use sha2::{Digest as _, Sha256};
        let hello = Ok(Some(<[u8; 32]>::from(Sha256::digest("{\"hello\": \"world\"}\n"))));
        let with_more = format!("sha-512=:AAAA:, {HELLO};x=\"a, b\" ,\tother=?1, flag");
        for lines in [&[HELLO][..], &[&with_more], &["sha-512=:AAAA:", HELLO], &["sha-256=:AAAA:", HELLO]] {
            assert_eq!(digest(&lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>()), hello, "{lines:?}");
        }
        for line in ["sha-512=:AAAA:", "sha-2567=:AAAA:", "unixsum=30637", ""] {
            assert_eq!(digest(&[line.as_bytes()]), Ok(None), "{line}");
        }
        assert_eq!(digest(&[]), Ok(None));
    }

    #[test]
    fn a_digest_that_is_none_is_malformed() {
        for line in [
            "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=",
            "SHA-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:",
            "sha-256=RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=",
            "sha-256=:AAAA:",
            "sha-256=:RK/0:qy",
            "sha-256",
            "sha-256=()",
            "sha-256=:AAAA:,",
            "a=1 b=2",
        ] {
            assert_eq!(digest(&[line.as_bytes()]), Err(MalformedDigest), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(bytes in "[ -~]{0,60}", is_ours in any::<bool>()) {
            let line = if is_ours { format!("sha-256={bytes}") } else { bytes };
            let _ = digest(&[line.as_bytes()]);
        }
    }
}
