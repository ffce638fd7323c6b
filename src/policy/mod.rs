//! What a route demands of a key, and rules that say so by path.

use std::{collections::HashMap, panic};

use actix_web::dev::{Path, ResourceDef, ServiceRequest, Url};

use crate::settings::ConfigError;

/// What a key means for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Without a key: `400 missing-key`.
    Required,
    /// Without a key the request runs unprotected.
    Optional,
    /// A key is ignored.
    Exempt,
    /// The handler always runs, one at a time per key, and decides itself by
    /// [`IdempotencyInfo`](crate::handler::IdempotencyInfo). Without a key: `400 missing-key`.
    Manual,
    /// [`Manual`](Self::Manual) with a key; without one the request runs unprotected.
    OptionalManual,
}

impl Policy {
    /// As it stands in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::Exempt => "exempt",
            Self::Manual => "manual",
            Self::OptionalManual => "optional-manual",
        }
    }
}

/// Policies by path pattern, as the router understands patterns: `/webhooks/{tail}*`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    pattern: ResourceDef,
    policy: Policy,
    over: Over,
}

/// Which part of the path a rule sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// What the instance's own scope has not consumed: rules written at the instance.
    Rest,
    /// All of it: rules from settings.
    Whole,
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// A pattern that the router would refuse, or one that was given two policies.
    pub(crate) fn add<'a>(
        &mut self,
        rules: impl IntoIterator<Item = (&'a str, Policy)>,
        over: Over,
    ) -> Result<(), ConfigError> {
        let mut seen = HashMap::new();
        for (pattern, policy) in rules {
            match seen.insert(pattern, policy) {
                Some(other) if other != policy => {
                    return Err(ConfigError::Contradiction {
                        pattern: pattern.to_owned(),
                        first: other,
                        second: policy,
                    });
                }
                Some(_) => {}
                None => self.0.push(Rule { pattern: parse(pattern)?, policy, over }),
            }
        }
        Ok(())
    }

    /// The policy of the first rule that matches.
    pub(crate) fn policy(&self, request: &ServiceRequest) -> Option<Policy> {
        let path: &Path<Url> = request.match_info();
        let matches = |rule: &&Rule| match rule.over {
            Over::Rest => rule.pattern.is_match(path.unprocessed()),
            Over::Whole => rule.pattern.is_match(path.as_str()),
        };
        self.0.iter().find(matches).map(|rule| rule.policy)
    }
}

fn parse(pattern: &str) -> Result<ResourceDef, ConfigError> {
    let refused = |why: String| ConfigError::Pattern { pattern: pattern.to_owned(), why };
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
    // `ResourceDef::new` panics on what it can't parse.
    panic::catch_unwind(|| ResourceDef::new(pattern)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        refused(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}
