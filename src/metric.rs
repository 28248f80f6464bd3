//! Metric descriptions, defined once next to the code that fills them.

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Only increases, until its source restarts.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Always 1; the information is in the labels.
    Info,
    /// The source does not report the type, or the name breaks the naming rules of its type.
    Unknown,
    /// Observations counted in buckets. Only from text files.
    Histogram,
    /// Quantiles of observations. Only from text files.
    Summary,
    /// Buckets whose counts may decrease. Only from `OpenMetrics` text files.
    GaugeHistogram,
    /// One series per state, 1 for those that are active. Only from `OpenMetrics` text files.
    StateSet,
}

/// The description of one metric, as in `docs/metrics` and in expositions.
#[derive(Debug, PartialEq, Eq)]
pub struct Desc {
    /// The name in the exposition. A `*` stands for a word chosen by the kernel, as in
    /// `node_memory_*_bytes`.
    pub name: &'static str,
    /// The text of the `# HELP` line.
    pub help: &'static str,
    /// The type.
    pub kind: MetricType,
    /// The label names, in the order of the values in
    /// [`Families::add`](crate::family::Families::add).
    pub labels: &'static [&'static str],
    /// The names of the labels that precede those, the same for all metrics of an object: they are
    /// rendered once per object. A `*` stands for words chosen by users.
    pub base_labels: &'static [&'static str],
}

/// A described metric with `N` labels.
///
/// The number is part of the type, so that a sample with too few or too many labels does not
/// compile.
#[derive(Debug)]
pub struct Metric<const N: usize>(Desc);

impl<const N: usize> Metric<N> {
    /// Describes a metric. Collectors use [`metrics!`](crate::metrics) instead.
    ///
    /// # Panics
    ///
    /// At compile time, if the name breaks the naming rules.
    #[must_use]
    pub const fn new(
        kind: MetricType,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str; N],
        base_labels: &'static [&'static str],
    ) -> Self {
        // The converse does not hold: node_exporter has gauges named *_total, which dashboards use.
        // cAdvisor has counters named *_failcnt.
        assert!(
            !matches!(kind, MetricType::Counter)
                || ends_with(name, "_total")
                || ends_with(name, "_failcnt"),
            "counters are named *_total; others are Unknown"
        );
        assert!(
            matches!(kind, MetricType::Info) == ends_with(name, "_info"),
            "info metrics, and only they, are named *_info"
        );
        assert!(!help.is_empty(), "every metric has a help text");
        Self(Desc {
            name,
            help,
            kind,
            labels,
            base_labels,
        })
    }

    /// The description, without the number of labels in its type.
    #[must_use]
    pub const fn desc(&self) -> &Desc {
        &self.0
    }
}

/// Concatenates the tables of several modules, for a collector in more than one file.
///
/// # Panics
///
/// At compile time, if `N` is not the sum of their lengths.
#[must_use]
pub const fn concat_tables<const N: usize>(tables: &[&[&'static Desc]]) -> [&'static Desc; N] {
    let mut all = [tables[0][0]; N];
    let (mut table, mut at) = (0, 0);
    while table < tables.len() {
        let mut i = 0;
        while i < tables[table].len() {
            all[at] = tables[table][i];
            at += 1;
            i += 1;
        }
        table += 1;
    }
    assert!(at == N, "the lengths of the tables do not add up to N");
    all
}

const fn ends_with(text: &str, suffix: &str) -> bool {
    match text
        .as_bytes()
        .split_at_checked(text.len().wrapping_sub(suffix.len()))
    {
        Some((_, tail)) => {
            let suffix = suffix.as_bytes();
            let mut i = 0;
            while i < suffix.len() {
                if tail[i] != suffix[i] {
                    return false;
                }
                i += 1;
            }
            true
        }
        None => false,
    }
}

/// Describes the metrics of one collector.
///
/// The doc comment is the HELP text, so it is written once, and used by rustdoc, `docs/metrics` and
/// Prometheus:
///
/// ```
/// strata_exporter::metrics! {
///     /// Seconds the CPUs spent in each mode.
///     SECONDS: Counter = "node_cpu_seconds_total" ["cpu", "mode"];
/// }
/// assert_eq!(METRICS[0].help, "Seconds the CPUs spent in each mode.");
/// ```
///
/// `base LABELS` before the labels adds the base labels of every sample, whose names are in the
/// constant `LABELS`; such samples are added with
/// [`Families::add_with`](crate::family::Families::add_with).
///
/// Defines one static per metric, and `METRICS`, the table of all of them.
#[macro_export]
macro_rules! metrics {
    ($(
        $(#[doc = $help:literal])+
        $ident:ident: $kind:ident = $name:literal $(base $base_labels:ident)? [$($label:literal),* $(,)?];
    )+) => {
        $(
            $(#[doc = $help])+
            // Backticks would be part of the HELP text.
            #[allow(clippy::doc_markdown)]
            static $ident: $crate::metric::Metric<{ <[&str]>::len(&[$($label),*]) }> =
                $crate::metric::Metric::new(
                    $crate::metric::MetricType::$kind,
                    $name,
                    concat!($($help),+).trim_ascii(),
                    &[$($label),*],
                    {
                        let base_labels: &[&str] = &[];
                        $(let _ = base_labels; let base_labels: &[&str] = $base_labels;)?
                        base_labels
                    },
                );
        )+
        /// Every metric this collector can expose.
        pub(crate) const METRICS: &[&$crate::metric::Desc] = &[$($ident.desc()),+];
    };
}
