//! Analyses `PromQL` expressions: metrics, matchers and functions in use, and the labels of the
//! result.

use std::{collections::BTreeSet, time::Duration};

use promql_parser::{
    label::Matcher,
    parser::{self, Expr, LabelModifier, VectorMatchCardinality, VectorSelector, value::ValueType},
};
use strata_exporter::{collector::Entry, collectors, metric::Desc, scrape, self_metrics};

/// Metrics that Prometheus itself adds for each target.
const SCRAPE_METRICS: &[&str] = &[
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

/// Labels that every target's series have.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// Label names of some series. `None` means unknown: any label is possible.
pub type LabelNames = Option<BTreeSet<String>>;

/// A metric in an expression.
#[derive(Debug)]
pub struct MetricUse {
    pub metric: String,
    pub matchers: Vec<Matcher>,
    pub range: Option<Duration>,
    /// The function applied directly to it.
    pub function: Option<&'static str>,
}

/// Everything that an expression refers to.
#[derive(Debug, Default)]
pub struct PromqlQuery {
    pub uses: Vec<MetricUse>,
    /// Labels used for grouping or joining, and the metrics of which at least one must have them.
    pub grouped: Vec<(String, Vec<String>)>,
}

impl PromqlQuery {
    pub fn new(expr: &str) -> Result<(Self, Expr), String> {
        let parsed = parser::parse(expr).map_err(|error| format!("{error}: {expr}"))?;
        let mut query = Self::default();
        query.visit(&parsed, None);
        Ok((query, parsed))
    }

    /// Returns the metrics in the subexpression.
    fn visit(&mut self, expr: &Expr, function: Option<&'static str>) -> Vec<String> {
        match expr {
            Expr::Aggregate(it) => {
                let metrics = self.visit(&it.expr, None);
                self.record_grouping(it.modifier.as_ref(), &metrics);
                metrics
            }
            Expr::Binary(it) => {
                let mut metrics = self.visit(&it.lhs, None);
                metrics.extend(self.visit(&it.rhs, None));
                if let Some(modifier) = &it.modifier {
                    self.record_grouping(modifier.matching.as_ref(), &metrics);
                    if let Some(joined) = modifier.card.labels() {
                        self.record_grouping(
                            Some(&LabelModifier::Include(joined.clone())),
                            &metrics,
                        );
                    }
                }
                metrics
            }
            Expr::Unary(it) => self.visit(&it.expr, None),
            Expr::Paren(it) => self.visit(&it.expr, function),
            Expr::Subquery(it) => self.visit(&it.expr, None),
            Expr::Call(it) => {
                let arguments = it.args.args.iter();
                arguments
                    .flat_map(|argument| self.visit(argument, Some(it.func.name)))
                    .collect()
            }
            Expr::VectorSelector(it) => self.record_selector(it, None, function),
            Expr::MatrixSelector(it) => self.record_selector(&it.vs, Some(it.range), function),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Vec::new(),
        }
    }

    fn record_grouping(&mut self, by: Option<&LabelModifier>, metrics: &[String]) {
        for label in by.map(|it| it.labels().labels.clone()).unwrap_or_default() {
            self.grouped.push((label, metrics.to_vec()));
        }
    }

    fn record_selector(
        &mut self,
        selector: &VectorSelector,
        range: Option<Duration>,
        function: Option<&'static str>,
    ) -> Vec<String> {
        let metric = selector.name.clone().unwrap_or_default();
        self.uses.push(MetricUse {
            metric: metric.clone(),
            matchers: selector.matchers.matchers.clone(),
            range,
            function,
        });
        vec![metric]
    }
}

/// Known metrics.
pub struct MetricCatalog {
    descs: Vec<&'static Desc>,
    /// Names of recording rules.
    recorded: BTreeSet<String>,
}

impl MetricCatalog {
    pub fn new(recorded: BTreeSet<String>) -> Self {
        let of_collectors = collectors::ALL
            .iter()
            .filter(|entry: &&Entry| !entry.is_planned());
        let mut described: Vec<_> = of_collectors
            .flat_map(|it| it.metrics.iter().copied())
            .collect();
        described.extend(scrape::SCRAPE_METRICS);
        described.extend(self_metrics::SELF_METRICS);
        Self {
            descs: described,
            recorded,
        }
    }

    /// All descriptions that a name matches: some contain words from the kernel.
    pub fn descriptions(&self, metric: &str) -> Vec<&'static Desc> {
        let exact = self.descs.iter().filter(|it| it.name == metric);
        let exact: Vec<_> = exact.copied().collect();
        if !exact.is_empty() {
            return exact;
        }
        let described = self.descs.iter().copied();
        described
            .filter(|it| matches_pattern(it.name, metric))
            .collect()
    }

    /// Whether the metric exists.
    pub fn has_metric(&self, metric: &str) -> bool {
        self.labels(metric).is_ok()
    }

    /// Errors in the metric and label names of a query.
    pub fn validate(&self, query: &PromqlQuery) -> Vec<String> {
        let mut errors = Vec::new();
        for metric_use in &query.uses {
            let Ok(labels) = self.labels(&metric_use.metric) else {
                errors.push(format!(
                    "{} is not exposed by any collector",
                    metric_use.metric
                ));
                continue;
            };
            for matcher in &metric_use.matchers {
                if !has_label(&labels, &matcher.name) {
                    errors.push(format!(
                        "{} has no label {}",
                        metric_use.metric, matcher.name
                    ));
                }
            }
        }
        for (label, metrics) in &query.grouped {
            // Unknown metrics were reported above.
            let has_this_label =
                |metric: &String| self.labels(metric).map_or(true, |it| has_label(&it, label));
            if !metrics.iter().any(has_this_label) {
                errors.push(format!("none of {metrics:?} has the label {label}"));
            }
        }
        errors
    }

    /// The metric's labels, or an error if it does not exist.
    fn labels(&self, metric: &str) -> Result<LabelNames, ()> {
        let of_targets = TARGET_LABELS.iter().map(|&label| label.to_owned());
        if metric == "ALERTS" || self.recorded.contains(metric) {
            return Ok(None);
        }
        if SCRAPE_METRICS.contains(&metric) {
            return Ok(Some(of_targets.collect()));
        }
        let descriptions = self.descriptions(metric);
        if descriptions.is_empty() {
            return Err(());
        }
        let own_labels = descriptions
            .iter()
            .flat_map(|it| it.base_labels.iter().chain(it.labels));
        let own_labels = own_labels.map(|&label| label.to_owned());
        Ok(Some(of_targets.chain(own_labels).collect()))
    }

    /// Labels of an expression's result.
    pub fn result_labels(&self, expr: &Expr) -> LabelNames {
        match expr {
            Expr::Aggregate(it) => {
                let inner = self.result_labels(&it.expr);
                match &it.modifier {
                    _ if ["topk", "bottomk"].contains(&it.op.to_string().as_str()) => inner,
                    None => Some(BTreeSet::new()),
                    Some(LabelModifier::Include(by)) => Some(by.labels.iter().cloned().collect()),
                    Some(LabelModifier::Exclude(without)) => inner.map(|mut labels| {
                        labels.retain(|label| !without.labels.contains(label));
                        labels
                    }),
                }
            }
            Expr::Binary(it) => {
                let [left, right] = [&it.lhs, &it.rhs].map(|it| self.result_labels(it));
                if it.lhs.value_type() == ValueType::Scalar {
                    return right;
                }
                let word = it.op.to_string();
                if word == "or" {
                    return Some(left?.union(&right?).cloned().collect());
                }
                let modifier = it.modifier.as_ref();
                match modifier.map(|it| (&it.card, &it.matching)) {
                    Some((VectorMatchCardinality::ManyToOne(joined), _)) => {
                        let mut labels = left?;
                        labels.extend(joined.labels.iter().cloned());
                        Some(labels)
                    }
                    Some((VectorMatchCardinality::OneToOne, Some(LabelModifier::Include(on)))) => {
                        Some(on.labels.iter().cloned().collect())
                    }
                    _ => left,
                }
            }
            Expr::Unary(it) => self.result_labels(&it.expr),
            Expr::Paren(it) => self.result_labels(&it.expr),
            Expr::Subquery(it) => self.result_labels(&it.expr),
            Expr::Call(it) => {
                let vector = it.args.args.iter().find(|argument| {
                    matches!(argument.value_type(), ValueType::Vector | ValueType::Matrix)
                });
                vector.map_or(Some(BTreeSet::new()), |it| self.result_labels(it))
            }
            Expr::VectorSelector(it) => self.labels(it.name.as_deref()?).ok()?,
            Expr::MatrixSelector(it) => self.labels(it.vs.name.as_deref()?).ok()?,
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {
                Some(BTreeSet::new())
            }
        }
    }
}

/// Whether the label can exist: `container_label_*` matches many.
pub fn has_label(labels: &LabelNames, label: &str) -> bool {
    labels
        .as_ref()
        .is_none_or(|labels| labels.iter().any(|it| matches_pattern(it, label)))
}

/// Whether a word matches a pattern with at most one `*`, which matches one or more characters.
fn matches_pattern(pattern: &str, word: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == word;
    };
    word.len() > head.len() + tail.len() && word.starts_with(head) && word.ends_with(tail)
}
