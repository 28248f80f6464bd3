//! How a metric is described: once, next to the code that fills it.

/// What a metric's value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Only ever grows, until whatever counts it restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Always 1; what it says is in its labels.
    Info,
    /// The source does not say, or the name is too old to say it properly.
    Unknown,
    /// Counts observations in buckets. Comes only from text files.
    Histogram,
    /// Quantiles of observations. Comes only from text files.
    Summary,
    /// Buckets that may also empty again. Comes only from `OpenMetrics` text files.
    GaugeHistogram,
    /// One series per state, 1 for those that hold. Comes only from `OpenMetrics` text files.
    StateSet,
}

/// The description of one metric, as `docs/metrics` and the answers show it.
#[derive(Debug, PartialEq, Eq)]
pub struct Desc {
    /// The name as it appears on the wire. A `*` stands for a word the kernel
    /// chooses, as in `node_memory_*_bytes`.
    pub name: &'static str,
    /// The text of the `# HELP` line.
    pub help: &'static str,
    /// What the value means.
    pub kind: MetricType,
    /// The label names, in the order the collector gives their values.
    pub labels: &'static [&'static str],
    /// The names of labels that stand before those, the same for all metrics of a
    /// thing: they are rendered once for each, as a block. A `*` stands for words
    /// that people choose.
    pub base_labels: &'static [&'static str],
}

/// A described metric with `N` labels.
///
/// The count is in the type so that a sample with a label too few or too many
/// does not compile.
#[derive(Debug)]
pub struct Metric<const N: usize>(Desc);

impl<const N: usize> Metric<N> {
    /// Describes a metric. Collectors use [`metrics!`](crate::metrics) instead.
    ///
    /// # Panics
    ///
    /// Where the name breaks the naming rules, at compile time.
    #[must_use]
    pub const fn new(
        kind: MetricType,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str; N],
        base_labels: &'static [&'static str],
    ) -> Self {
        // Not the other way round: node_exporter has gauges named *_total, and
        // dashboards that rely on them. cAdvisor has counters named *_failcnt.
        assert!(
            !matches!(kind, MetricType::Counter)
                || ends_with(name, "_total")
                || ends_with(name, "_failcnt"),
            "counters are named *_total; one that must not be is Unknown"
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

    /// The description, with the number of labels forgotten.
    #[must_use]
    pub const fn desc(&self) -> &Desc {
        &self.0
    }
}

/// The tables of several modules as one, for a collector that is more than one file.
///
/// # Panics
///
/// Where `N` is not the sum of their lengths, at compile time.
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
    assert!(at == N, "the tables have another length");
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
/// The doc comment is the help text, so it is written once and read by rustdoc,
/// by `docs/metrics` and by users of Prometheus:
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
