//! actix-web-prom.

use actix_web_prom::{PrometheusMetrics, PrometheusMetricsBuilder};
use prometheus::proto::LabelPair;

use super::Layer;
use crate::erased::Erased;

pub(super) struct Prometheus(PrometheusMetrics);

impl Default for Prometheus {
    fn default() -> Self {
        Self(PrometheusMetricsBuilder::new("api").build().expect("a registry of its own"))
    }
}

impl Layer for Prometheus {
    fn wrap(&self) -> Erased {
        Erased::new(self.0.clone())
    }

    fn seen(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for family in self.0.registry.gather() {
            for metric in family.get_metric() {
                let labels: Vec<_> = metric.get_label().iter().map(LabelPair::value).collect();
                let value = if family.name().ends_with("_total") {
                    metric.get_counter().get_value()
                } else {
                    f64::from(u32::try_from(metric.get_histogram().get_sample_count()).expect("few requests"))
                };
                lines.push(format!("{} of {}: {value}", family.name(), labels.join(" ")));
            }
        }
        lines
    }
}
