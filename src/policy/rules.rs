//! Policies by path pattern.

use std::collections::HashMap;

use actix_web::dev::{Path, ResourceDef, ServiceRequest, Url};

use super::{
    Policy,
    pattern::{self, PatternError},
};

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
                None => parsed.push(Rule { pattern: pattern::parse(pattern)?, policy, path }),
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
