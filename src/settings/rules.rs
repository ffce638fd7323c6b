//! The route rules of settings.

use super::Settings;
use crate::policy::{MatchedPath, PatternError, Policy, Rules};

impl Settings {
    /// The rules of `exempt`, `optional`, `manual` and `required`. They are matched against the whole path.
    ///
    /// # Errors
    /// The first pattern that the router would refuse, or that has two policies.
    pub(crate) fn rules(&self) -> Result<Rules, PatternError> {
        let lists = [
            (&self.exempt, Policy::Exempt),
            (&self.optional, Policy::Optional),
            (&self.manual, Policy::Manual),
            (&self.required, Policy::Required),
        ];
        let rules = lists.into_iter().flat_map(|(list, policy)| list.iter().map(move |p| (p.as_str(), policy)));
        Rules::new(rules, MatchedPath::Whole)
    }
}
