//! The preferences of a client (RFC 7240): to wait for so long, or an answer at once.

use std::time::Duration;

use actix_web::http::header::HeaderValue;

/// The preferences that this crate knows, of all lines of `Prefer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// `respond-async`: 202 instead of waiting.
    pub(crate) respond_async: bool,
    /// `wait`: how long the client wants to wait.
    pub(crate) wait: Option<Duration>,
}

impl Prefer {
    /// A preference that is named twice counts as it is named first. One that can't be read is ignored.
    pub(crate) fn of<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> Self {
        let mut prefer = Self::default();
        let texts = lines.filter_map(|line| line.to_str().ok());
        for preference in texts.flat_map(|text| text.split(',')) {
            let (name, value) = match preference.split(';').next().unwrap_or_default().split_once('=') {
                Some((name, value)) => (name.trim(), value.trim().trim_matches('"')),
                None => (preference.split(';').next().unwrap_or_default().trim(), ""),
            };
            if name.eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait")
                && prefer.wait.is_none()
                && let Ok(seconds) = value.parse::<u32>()
            {
                prefer.wait = Some(Duration::from_secs(seconds.into()));
            }
        }
        prefer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_in_any_form_that_the_rfc_allows() {
        let of = |lines: &[&'static str]| {
            let lines: Vec<HeaderValue> = lines.iter().map(|line| HeaderValue::from_static(line)).collect();
            let prefer = Prefer::of(lines.iter());
            (prefer.respond_async, prefer.wait.map(|wait| wait.as_secs()))
        };
        assert_eq!(of(&[]), (false, None));
        assert_eq!(of(&["respond-async, wait=10"]), (true, Some(10)));
        assert_eq!(of(&["return=minimal; foo=\"a\"", "Wait = \"3\" ; x, Respond-Async"]), (true, Some(3)));
        assert_eq!(of(&["wait=3, wait=9"]), (false, Some(3)));
        assert_eq!(of(&["wait, wait=-1, wait=soon, wait=1.5, respond-asynchronously"]), (false, None));
    }
}
