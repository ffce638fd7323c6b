//! Policies by path pattern.

use std::{collections::HashMap, panic};

use actix_web::dev::{Path, ResourceDef, ServiceRequest, Url};

use super::Policy;

/// Policies by path pattern, in the router's own syntax: `/webhooks/{tail}*`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    pattern: ResourceDef,
    policy: Policy,
    path: MatchedPath,
}

/// Which part of the path a rule is matched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatchedPath {
    /// The part that the wrap's own scope has not consumed, for rules that code gives to a wrap.
    Rest,
    /// The whole path, for rules from settings.
    Whole,
}

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

impl Rules {
    /// The rules of one list.
    ///
    /// # Errors
    /// The first pattern that the router would refuse, or that has two policies.
    pub(crate) fn new<'a>(
        rules: impl IntoIterator<Item = (&'a str, Policy)>,
        path: MatchedPath,
    ) -> Result<Self, PatternError> {
        let (mut seen, mut parsed) = (HashMap::new(), Vec::new());
        for (pattern, policy) in rules {
            match seen.insert(pattern, policy) {
                Some(first) if first != policy => {
                    return Err(PatternError::Contradiction { pattern: pattern.to_owned(), first, second: policy });
                }
                Some(_) => {}
                None => parsed.push(Rule { pattern: parse(pattern)?, policy, path }),
            }
        }
        Ok(Self(parsed))
    }

    /// The policy of the first rule that matches.
    #[inline]
    pub(crate) fn policy(&self, request: &ServiceRequest) -> Option<Policy> {
        if self.0.is_empty() { None } else { self.first_match(request) }
    }

    fn first_match(&self, request: &ServiceRequest) -> Option<Policy> {
        let path: &Path<Url> = request.match_info();
        let matches = |rule: &&Rule| match rule.path {
            MatchedPath::Rest => rule.pattern.is_match(path.unprocessed()),
            MatchedPath::Whole => rule.pattern.is_match(path.as_str()),
        };
        self.0.iter().find(matches).map(|rule| rule.policy)
    }
}

fn parse(pattern: &str) -> Result<ResourceDef, PatternError> {
    let refused = |why: String| PatternError::Malformed { pattern: pattern.to_owned(), why };
    if !pattern.is_empty() && !pattern.starts_with('/') {
        return Err(refused("it does not start with `/`".into()));
    }
    let open = pattern.bytes().try_fold(0_u32, |open, byte| match byte {
        b'{' => Some(open + 1),
        b'}' => open.checked_sub(1),
        _ => Some(open),
    });
    if open != Some(0) {
        return Err(refused("a brace has no counterpart".into()));
    }
    // `ResourceDef::new` panics on a pattern that it can't parse.
    panic::catch_unwind(|| ResourceDef::new(pattern)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        refused(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}
