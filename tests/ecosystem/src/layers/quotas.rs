//! actix-governor.

use actix_governor::{
    GlobalKeyExtractor, Governor, GovernorConfig, GovernorConfigBuilder,
    governor::middleware::StateInformationMiddleware,
};

use super::Layer;
use crate::erased::Erased;

pub(super) struct Quotas(GovernorConfig<GlobalKeyExtractor, StateInformationMiddleware>);

impl Default for Quotas {
    fn default() -> Self {
        let mut builder = GovernorConfigBuilder::default().key_extractor(GlobalKeyExtractor);
        let config = builder.seconds_per_request(3600).burst_size(20).use_headers().finish();
        Self(config.expect("a quota"))
    }
}

impl Layer for Quotas {
    fn wrap(&self) -> Erased {
        Erased::new(Governor::new(&self.0))
    }

    fn seen(&self) -> Vec<String> {
        let left = self.0.limiter().check_key(&()).expect("enough for a case").remaining_burst_capacity();
        vec![format!("left of the quota: {left}")]
    }
}
