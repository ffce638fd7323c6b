//! The settings that shape what fingerprints compare: more headers, the order of the query, and parts of JSON bodies.

use std::borrow::Cow;

use actix_web::http::header::{self, HeaderName};

use super::{KeyRequest, digest::Digest};

/// Parts of a request that fingerprints compare beside those of their encoder; settings `fingerprint.*`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comparison {
    /// Headers that are compared, too.
    pub(crate) headers: Vec<HeaderName>,
    /// Whether the order of the query's fields does not count.
    pub(crate) sorts_query: bool,
    /// Whether forms are compared by their bytes, with the boundary.
    pub(crate) has_boundary: bool,
    /// Members and items of JSON bodies that do not count.
    pub(crate) ignored: Vec<Pointer>,
}

/// The comparison without any setting.
pub(super) static PLAIN: Comparison =
    Comparison { headers: Vec::new(), sorts_query: false, has_boundary: false, ignored: Vec::new() };

/// A JSON pointer (RFC 6901) to a part of a document, as its tokens.
pub(crate) type Pointer = Vec<String>;

/// Parses a JSON pointer. `None`: it is malformed, or points to the whole document.
pub(crate) fn pointer(text: &str) -> Option<Pointer> {
    let token = |token: &str| {
        let is_escaped = token.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        is_escaped.then(|| token.replace("~1", "/").replace("~0", "~"))
    };
    text.strip_prefix('/')?.split('/').map(token).collect()
}

impl Comparison {
    /// The name of the scheme of fingerprints. Without settings it is that of the encoder.
    pub(crate) fn scheme<'a>(&self, encoder: &'a str) -> Cow<'a, str> {
        let Self { headers, sorts_query, has_boundary, ignored } = self;
        if headers.is_empty() && !sorts_query && !has_boundary && ignored.is_empty() {
            return Cow::Borrowed(encoder);
        }
        let headers: Vec<&str> = headers.iter().map(HeaderName::as_str).collect();
        Cow::Owned(format!("{encoder} {headers:?} {sorts_query} {has_boundary} {ignored:?}"))
    }

    /// The query as it is compared.
    #[inline]
    pub(crate) fn query<'a>(&self, sent: &'a str) -> Cow<'a, str> {
        if self.sorts_query { sorted(sent) } else { Cow::Borrowed(sent) }
    }

    /// The digest of an encoder, with the headers that are compared, too. `authority`: the host of a request that names it
    /// in its target.
    #[inline]
    pub(crate) fn with_headers(&self, digest: [u8; 32], request: &KeyRequest<'_>, authority: Option<&str>) -> [u8; 32] {
        if self.headers.is_empty() { digest } else { self.add_headers(digest, request, authority) }
    }

    fn add_headers(&self, digest: [u8; 32], request: &KeyRequest<'_>, authority: Option<&str>) -> [u8; 32] {
        let mut all = Digest::new(b"request with headers");
        all.part(&digest);
        for name in &self.headers {
            let lines = request.headers.iter().filter(|(each, _)| *each == name).map(|(_, value)| value.as_bytes());
            let mut lines: Vec<Cow<'_, [u8]>> = lines.map(Cow::Borrowed).collect();
            if name == header::HOST {
                // Over HTTP/2 the host is a part of the target. Hosts have no case.
                if lines.is_empty() {
                    lines.extend(authority.map(|host| Cow::Borrowed(host.as_bytes())));
                }
                for line in &mut lines {
                    line.to_mut().make_ascii_lowercase();
                }
            }
            all.part(name.as_str().as_bytes()).part(&(lines.len() as u64).to_le_bytes());
            for line in &lines {
                all.part(line);
            }
        }
        all.finish()
    }
}

/// A query whose fields are in the order of their names. Fields of one name keep their order, which may mean something.
fn sorted(query: &str) -> Cow<'_, str> {
    let name = |field: &&str| field.split('=').next().unwrap_or_default().to_owned();
    let mut fields: Vec<&str> = query.split('&').collect();
    if fields.is_sorted_by_key(name) {
        return Cow::Borrowed(query);
    }
    fields.sort_by_key(name);
    Cow::Owned(fields.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_those_of_rfc_6901() {
        let tokens = |text: &str| pointer(text).map(|tokens| tokens.join("|"));
        assert_eq!(tokens("/sent_at").as_deref(), Some("sent_at"));
        assert_eq!(tokens("/meta/0/a~1b~0c~01").as_deref(), Some("meta|0|a/b~c~1"));
        assert_eq!(tokens("/").as_deref(), Some(""), "the member with an empty name");
        for text in ["", "sent_at", "/a~", "/a~2", "#/a"] {
            assert_eq!(pointer(text), None, "{text}");
        }
    }

    #[test]
    fn fields_are_sorted_by_name_and_those_of_one_name_keep_their_order() {
        for (sent, compared) in [
            ("", ""),
            ("a=1&b=2", "a=1&b=2"),
            ("b=2&a=1", "a=1&b=2"),
            ("b&a=2&a=1&", "&a=2&a=1&b"),
            ("a-b=1&a=2", "a=2&a-b=1"),
        ] {
            assert_eq!(sorted(sent), compared);
        }
    }

    /// A changed scheme would compare every live key by method and path only.
    #[test]
    fn the_scheme_without_settings_is_that_of_the_encoder() {
        assert_eq!(PLAIN.scheme("basic"), "basic");
        let each = [
            Comparison { headers: vec![header::HOST], ..Comparison::default() },
            Comparison { sorts_query: true, ..Comparison::default() },
            Comparison { has_boundary: true, ..Comparison::default() },
            Comparison { ignored: vec![vec!["a".into()]], ..Comparison::default() },
            Comparison { ignored: vec![vec!["a".into(), "b".into()]], ..Comparison::default() },
        ];
        let schemes: std::collections::HashSet<_> = each.iter().map(|each| each.scheme("basic").into_owned()).collect();
        assert_eq!(schemes.len(), each.len());
        assert!(!schemes.contains("basic"));
    }
}
