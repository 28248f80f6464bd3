//! Encodes families as text: `OpenMetrics` 1.0 if the client requests it, otherwise the Prometheus
//! text format.

mod open_metrics;
mod text_format;

use std::{collections::HashSet, fmt, sync::Arc};

use crate::family::{Families, Family, LabelText, SampleSuffix, Value};

/// The exposition formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Text,
}

impl Format {
    /// The format preferred by the client's `Accept` header.
    #[must_use]
    pub fn from_accept(header: Option<&str>) -> Self {
        let offers = || header.unwrap_or_default().split(',').map(str::trim);
        let preference = |matches: fn(&str) -> bool| {
            let matching = offers().filter(|offer| matches(offer));
            matching.map(weight).fold(0.0, f32::max)
        };
        // An offer without a version accepts any; of the versions, only 1.0 is implemented.
        let open_metrics = |offer: &str| {
            let mut parts = offer.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text")
                && parts.all(|part| {
                    let version = part.strip_prefix("version=");
                    version.is_none_or(|version| version.starts_with("1.0"))
                })
        };
        if preference(open_metrics) > preference(|offer| offer.starts_with("text/plain")) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// The `Content-Type` of the response.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The `q` value of an offer in an `Accept` header.
fn weight(offer: &str) -> f32 {
    let mut parameters = offer.split(';').skip(1).map(str::trim);
    let q = parameters.find_map(|parameter| parameter.strip_prefix("q="));
    q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0))
}

/// Bytes per line beside the name and the labels: the value and separators.
const SAMPLE_OVERHEAD: usize = 24;

/// Families to encode, sorted by name, each name once.
#[derive(Debug)]
pub struct Exposition {
    sources: Vec<Arc<Families>>,
    groups: Vec<FamilyRefs>,
    conflicts: usize,
}

/// The families with one name: more than one if several collectors or text files have series of it.
/// Each is the index of its source in the exposition, and its index in the source.
#[derive(Debug)]
struct FamilyRefs(Vec<(usize, usize)>);

impl Exposition {
    /// Sorts the families. Families whose name is not selected are left out.
    #[must_use]
    pub fn new(sources: Vec<Arc<Families>>, is_selected: impl Fn(&str) -> bool) -> Self {
        let mut all: Vec<(usize, usize, &Family)> = sources
            .iter()
            .enumerate()
            .flat_map(|(i, source)| source.iter().enumerate().map(move |(j, f)| (i, j, f)))
            .filter(|(.., family)| !family.is_empty() && is_selected(&family.name))
            .collect();
        // The collectors' families precede those of text files, which are dropped on conflicts.
        all.sort_by_key(|(.., family)| (family.name.as_ref(), family.desc.is_none()));

        let mut groups: Vec<FamilyRefs> = Vec::with_capacity(all.len());
        let mut conflicts = 0;
        let mut stems = HashSet::with_capacity(all.len());
        let mut first: Option<&Family> = None;
        for (i, j, family) in all {
            match (first, groups.last_mut()) {
                (Some(first), Some(FamilyRefs(group))) if first.name == family.name => {
                    if first.kind == family.kind {
                        group.push((i, j));
                    } else {
                        conflicts += 1;
                    }
                }
                // `x` and a counter `x_total` have the same name in OpenMetrics.
                _ if !stems.insert(open_metrics::stem(&family.name, family.kind)) => conflicts += 1,
                _ => {
                    first = Some(family);
                    groups.push(FamilyRefs(vec![(i, j)]));
                }
            }
        }
        drop(stems);
        let mut exposition = Self {
            sources,
            groups,
            conflicts,
        };
        exposition.conflicts += exposition.duplicate_series();
        exposition
    }

    /// Number of families and series that were dropped because of a conflicting name or labels.
    #[must_use]
    pub fn conflicts(&self) -> usize {
        self.conflicts
    }

    /// Number of series.
    #[must_use]
    pub fn series_count(&self) -> usize {
        let groups = self.groups();
        groups.map(|group| group.samples().count()).sum()
    }

    /// Encodes the exposition.
    pub fn encode(self: &Arc<Self>, format: Format) -> Result<String, fmt::Error> {
        // Growing it in steps would fragment the heap by many times its size.
        let mut body = String::with_capacity(self.estimated_len());
        match format {
            Format::OpenMetrics => open_metrics::encode(&mut body, self)?,
            Format::Text => text_format::encode(&mut body, self),
        }
        Ok(body)
    }

    /// Estimated length of the encoded text, rarely too low.
    fn estimated_len(&self) -> usize {
        let group_len = |group: MergedFamily<'_>| {
            let head = 128 + 3 * group.first.name.len() + group.first.help.len();
            let samples = group.all_samples().map(|(_, labels, _)| {
                let labels: usize = labels.pieces().into_iter().map(str::len).sum();
                group.first.name.len() + labels + SAMPLE_OVERHEAD
            });
            head + samples.sum::<usize>()
        };
        self.groups().map(group_len).sum()
    }

    fn groups(&self) -> impl Iterator<Item = MergedFamily<'_>> {
        self.groups.iter().filter_map(|FamilyRefs(indexes)| {
            let family = |(i, j): &(usize, usize)| self.sources.get(*i)?.get(*j);
            let families: Vec<&Family> = indexes.iter().filter_map(family).collect();
            let first = *families.first()?;
            Some(MergedFamily { first, families })
        })
    }

    fn duplicate_series(&self) -> usize {
        let shared = self.groups().filter(MergedFamily::may_have_duplicates);
        shared
            .map(|group| group.all_samples().count() - group.samples().count())
            .sum()
    }
}

/// The families with one name, resolved.
struct MergedFamily<'a> {
    /// The family that defines name, HELP and type.
    first: &'a Family,
    families: Vec<&'a Family>,
}

impl<'a> MergedFamily<'a> {
    fn all_samples(&self) -> impl Iterator<Item = (SampleSuffix, LabelText<'a>, Value)> {
        self.families.iter().flat_map(|family| family.samples())
    }

    /// Whether it may contain a series more than once: if families are merged, or come from text
    /// files, which are not trusted.
    fn may_have_duplicates(&self) -> bool {
        self.families.len() > 1 || self.first.desc.is_none()
    }

    /// Every series once; of duplicates, the first.
    fn samples(&self) -> impl Iterator<Item = (SampleSuffix, LabelText<'a>, Value)> {
        let mut emitted = self.may_have_duplicates().then(HashSet::new);
        self.all_samples().filter(move |(part, labels, _)| {
            emitted
                .as_mut()
                .is_none_or(|emitted| emitted.insert((part.suffix(), labels.joined())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metric::MetricType, metrics};

    metrics! {
        /// A counter.
        COUNTER: Counter = "x_read_bytes_total" ["path"];
        /// Information.
        INFO: Info = "x_thing_info" ["version"];
        /// An old name.
        OLD: Unknown = "x_failcnt" [];
    }

    fn families() -> Families {
        let mut families = Families::default();
        families.add(&COUNTER, ["C:\\\"\n"], 1_925_173_784_u64);
        families.add(&INFO, ["1"], true);
        families.add(&OLD, [], 0.5);
        assert_eq!(METRICS.len(), 3);
        families
    }

    fn histogram(name: &str) -> Family {
        let help = "One \\ two\nthree \"four\".".to_owned();
        let mut family = Family::new(name.into(), help, MetricType::Histogram);
        family.push(SampleSuffix::Bucket, [("le", "+Inf")], Value::Unsigned(3));
        family.push(SampleSuffix::Sum, [], Value::Float(1.5));
        family.push(SampleSuffix::Count, [], Value::Unsigned(3));
        family
    }

    fn encode(format: Format, families: Vec<Families>) -> String {
        let sources = families.into_iter().map(Arc::new).collect();
        let exposition = Arc::new(Exposition::new(sources, |_| true));
        exposition.encode(format).unwrap()
    }

    #[test]
    fn accept_header_selects_format() {
        let om = "application/openmetrics-text;version=1.0.0";
        for (accept, format) in [
            (None, Format::Text),
            (Some("*/*".to_owned()), Format::Text),
            (
                Some(format!("{om},text/plain;version=0.0.4;q=0.5")),
                Format::OpenMetrics,
            ),
            (
                Some(format!("text/plain;q=0.6, {om};q=0.5,*/*;q=0.1")),
                Format::Text,
            ),
            (Some(format!("{om};q=0")), Format::Text),
            (
                Some("application/openmetrics-text;version=2.0.0".to_owned()),
                Format::Text,
            ),
            (
                Some("application/openmetrics-text; q=0.2".to_owned()),
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::from_accept(accept.as_deref()), format, "{accept:?}");
        }
    }

    #[test]
    fn encodes_open_metrics() {
        let mut text_file = Families::default();
        text_file.push(histogram("y_seconds"));
        assert_eq!(
            encode(Format::OpenMetrics, vec![families(), text_file]),
            r#"# HELP x_failcnt An old name.
# TYPE x_failcnt unknown
x_failcnt 0.5
# HELP x_read_bytes A counter.
# TYPE x_read_bytes counter
# UNIT x_read_bytes bytes
x_read_bytes_total{path="C:\\\"\n"} 1925173784
# HELP x_thing Information.
# TYPE x_thing info
x_thing_info{version="1"} 1
# HELP y_seconds One \\ two\nthree \"four\".
# TYPE y_seconds histogram
y_seconds_bucket{le="+Inf"} 3
y_seconds_sum 1.5
y_seconds_count 3
# EOF
"#
        );
    }

    #[test]
    fn encodes_text_format() {
        let mut text_file = Families::default();
        text_file.push(histogram("y_seconds"));
        assert_eq!(
            encode(Format::Text, vec![families(), text_file]),
            r#"# HELP x_failcnt An old name.
# TYPE x_failcnt untyped
x_failcnt 0.5
# HELP x_read_bytes_total A counter.
# TYPE x_read_bytes_total counter
x_read_bytes_total{path="C:\\\"\n"} 1925173784
# HELP x_thing_info Information.
# TYPE x_thing_info gauge
x_thing_info{version="1"} 1
# HELP y_seconds One \\ two\nthree "four".
# TYPE y_seconds histogram
y_seconds_bucket{le="+Inf"} 3
y_seconds_sum 1.5
y_seconds_count 3
"#
        );
    }

    #[test]
    fn families_of_one_name_are_merged_without_duplicates() {
        let mut text_file = Families::default();
        let mut same = Family::new("x_failcnt".into(), "Other.".into(), MetricType::Unknown);
        same.push(SampleSuffix::None, [], Value::Unsigned(9));
        same.push(SampleSuffix::None, [("a", "b")], Value::Unsigned(7));
        text_file.push(same);
        let sources = vec![Arc::new(text_file), Arc::new(families())];
        let exposition = Arc::new(Exposition::new(sources, |name| name == "x_failcnt"));
        assert_eq!(
            exposition.encode(Format::Text).unwrap(),
            "# HELP x_failcnt An old name.\n# TYPE x_failcnt untyped\nx_failcnt 0.5\nx_failcnt{a=\"b\"} 7\n"
        );
        assert_eq!((exposition.conflicts(), exposition.series_count()), (1, 2));
    }

    #[test]
    fn duplicate_series_of_text_file_is_dropped() {
        let mut text_file = Families::default();
        let mut duplicated = Family::new("x".into(), "Other.".into(), MetricType::Gauge);
        duplicated.push(SampleSuffix::None, [("a", "b")], Value::Unsigned(1));
        duplicated.push(SampleSuffix::None, [("a", "b")], Value::Unsigned(2));
        text_file.push(duplicated);
        let exposition = Exposition::new(vec![Arc::new(text_file)], |_| true);
        assert_eq!((exposition.conflicts(), exposition.series_count()), (1, 1));
    }

    #[test]
    fn conflicting_family_is_dropped() {
        let mut text_file = Families::default();
        for (name, kind) in [
            ("x_failcnt", MetricType::Gauge),
            ("x_read_bytes", MetricType::Gauge),
        ] {
            let mut family = Family::new(name.into(), "Other.".into(), kind);
            family.push(SampleSuffix::None, [], Value::Unsigned(9));
            text_file.push(family);
        }
        let sources = vec![Arc::new(families()), Arc::new(text_file)];
        let exposition = Arc::new(Exposition::new(sources, |_| true));
        assert_eq!(exposition.conflicts(), 2);
        let body = exposition.encode(Format::OpenMetrics).unwrap();
        assert!(body.contains("x_failcnt 0.5\n"));
    }
}
