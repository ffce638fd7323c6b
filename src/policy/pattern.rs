//! Route patterns in the router's own syntax, checked before the router panics on them.

use std::{fmt::Write as _, panic};

use actix_web::dev::ResourceDef;

use super::Policy;

/// As many as the router takes.
const MOST_SEGMENTS: usize = 16;

/// Why a route pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The router would refuse the pattern.
    #[error("route pattern `{pattern}` is malformed: {why}")]
    Malformed {
        /// The pattern.
        pattern: String,
        /// The reason.
        why: String,
    },
    /// The pattern was given two policies.
    #[error("route pattern `{pattern}` can't be both {first:?} and {second:?}")]
    Contradiction {
        /// The pattern.
        pattern: String,
        /// One policy.
        first: Policy,
        /// The other policy.
        second: Policy,
    },
}

pub(super) fn parse(pattern: &str) -> Result<ResourceDef, PatternError> {
    let refused = |why: String| PatternError::Malformed { pattern: pattern.to_owned(), why };
    if !pattern.is_empty() && !pattern.starts_with('/') {
        return Err(refused("it does not start with `/`".into()));
    }
    check(pattern).map_err(refused)?;
    // `ResourceDef::new` panics on a pattern that it can't parse. Left for it are regular expressions that are too large.
    panic::catch_unwind(|| ResourceDef::new(pattern)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        refused(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}

/// Finds without a panic what the router refuses, since a panic ends a process that was built with `panic = "abort"`.
fn check(pattern: &str) -> Result<(), String> {
    // The regular expression that the router makes of a pattern.
    let mut whole = "^".to_owned();
    let (mut rest, mut segments) = (pattern, 0);
    while let Some((constant, opened)) = rest.split_once('{') {
        let end = end_of_segment(opened).ok_or("a brace has no counterpart")?;
        let (segment, after) = (&opened[..end], &opened[end + 1..]);
        let (name, expression) = match segment.split_once(':') {
            Some(_) if after == "*" => return Err("a tail takes no regular expression".into()),
            Some((name, expression)) => (name, expression),
            None => (segment, "[^/]+"),
        };
        write!(whole, "{}(?P<{name}>{expression})", regex_lite::escape(constant)).expect("a string takes everything");
        (rest, segments) = (after, segments + 1);
    }
    if rest.contains('}') {
        return Err("a brace has no counterpart".into());
    }
    if segments > MOST_SEGMENTS {
        return Err(format!("it has more than {MOST_SEGMENTS} dynamic segments"));
    }
    regex_lite::Regex::new(&whole).map(|_| ()).map_err(|error| error.to_string())
}

/// The place of the brace that ends a segment, counted from after the one that opens it.
fn end_of_segment(opened: &str) -> Option<usize> {
    let mut depth = 1_u32;
    opened.bytes().position(|byte| {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}
