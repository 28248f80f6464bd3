//! Plots of values over time, as SVG.
//!
//! ```text
//! Plot { title, unit, from, to, gap, lines, size, theme }.svg()   a plot with axes
//! sparkline(values, slots, size)                                  a word-sized line
//! PlotUnit::Bytes.format(n)                                       a number with its unit
//! ```
//!
//! `plotters` draws axes and lines with one fixed colour per element. The preferred colour scheme
//! of the reader is applied by a style sheet around its output, which replaces colours by value.

mod axis;
mod downsample;
mod sparkline;
mod unit;

use std::{fmt::Display, time::Duration};

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    drawing::IntoDrawingArea,
    element::{Circle, PathElement},
    style::{
        Color, FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

pub use sparkline::sparkline;
pub use unit::PlotUnit;

use crate::error::{Error, Result};
use axis::Axis;

/// The longest title, in characters.
const MAX_TITLE_CHARS: usize = 80;
/// Width of a character relative to the font size, for a wide font.
const CHAR_WIDTH_RATIO: f64 = 0.64;

/// A plot of lines over time.
#[derive(Debug, Clone)]
pub struct Plot<'a> {
    /// Metric and target.
    pub title: &'a str,
    /// The unit of the values.
    pub unit: PlotUnit,
    /// Start, as time since the Unix epoch.
    pub from: Duration,
    /// End, as time since the Unix epoch.
    pub to: Duration,
    /// Points further apart are not connected.
    pub gap: Duration,
    /// Lines; at most four, as there are four colours.
    pub lines: Vec<PlotLine<'a>>,
    /// Size of the image.
    pub size: PlotSize,
    /// Colour theme.
    pub theme: Theme,
}

/// One line of a plot.
#[derive(Debug, Clone)]
pub struct PlotLine<'a> {
    /// Name in the legend.
    pub name: &'a str,
    /// Values with their time since the Unix epoch, oldest first.
    pub points: Vec<(Duration, Option<f64>)>,
}

/// Width and height in pixels, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlotSize(u32, u32);

/// A colour theme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// The reader's preferred colour scheme.
    Auto,
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

impl PlotSize {
    /// The nearest permitted size.
    #[must_use]
    pub fn clamped(width: u32, height: u32) -> Self {
        Self(width.clamp(240, 2000), height.clamp(120, 1200))
    }

    /// Width in pixels.
    #[must_use]
    pub const fn width(self) -> u32 {
        self.0
    }

    /// Height in pixels.
    #[must_use]
    pub const fn height(self) -> u32 {
        self.1
    }
}

impl Default for PlotSize {
    fn default() -> Self {
        Self(640, 220)
    }
}

/// Colours of a plot. They must differ within a palette: the style sheet maps light colours to dark
/// ones by value.
struct Palette {
    background: RGBColor,
    foreground: RGBColor,
    muted: RGBColor,
    grid: RGBColor,
    lines: [RGBColor; 4],
}

const LIGHT: Palette = Palette {
    background: RGBColor(255, 255, 255),
    foreground: RGBColor(27, 36, 48),
    muted: RGBColor(84, 96, 112),
    grid: RGBColor(225, 230, 236),
    lines: [
        RGBColor(20, 102, 184),
        RGBColor(180, 66, 10),
        RGBColor(20, 122, 62),
        RGBColor(118, 60, 200),
    ],
};

const DARK: Palette = Palette {
    background: RGBColor(21, 26, 32),
    foreground: RGBColor(230, 235, 241),
    muted: RGBColor(163, 174, 187),
    grid: RGBColor(46, 54, 64),
    lines: [
        RGBColor(108, 178, 255),
        RGBColor(255, 163, 96),
        RGBColor(104, 220, 150),
        RGBColor(196, 164, 255),
    ],
};

impl Palette {
    fn colors(&self) -> impl Iterator<Item = RGBColor> {
        let others = [self.background, self.foreground, self.muted, self.grid];
        others.into_iter().chain(self.lines)
    }
}

impl Plot<'_> {
    /// Renders the plot.
    pub fn svg(&self) -> Result<String> {
        let palette = match self.theme {
            Theme::Dark => &DARK,
            Theme::Light | Theme::Auto => &LIGHT,
        };
        let mut rendered = String::new();
        self.draw(&mut rendered, palette).map_err(plot_error)?;
        // Replaces the opening tag by plotters, which has no text alternative.
        let (_, body) = rendered
            .split_once('>')
            .ok_or_else(|| plot_error("invalid SVG"))?;
        let PlotSize(width, height) = self.size;
        let title = escape_xml(&sanitize_text(self.title, MAX_TITLE_CHARS));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title desc\">\n\
             <title id=\"title\">{title}</title>\n<desc id=\"desc\">{}</desc>\n",
            escape_xml(&self.description())
        );
        if self.theme == Theme::Auto {
            svg += &dark_mode_css();
        }
        svg += body.trim_start();
        Ok(svg)
    }

    /// Text alternative: the lines' values in words.
    fn description(&self) -> String {
        let descriptions = self.lines.iter().map(|line| {
            let values: Vec<f64> = self.visible_values(line).collect();
            let name = sanitize_text(line.name, MAX_TITLE_CHARS);
            let Some(latest) = values.last() else {
                return format!("{name}: {}.", self.empty_reason(line));
            };
            let max = values.iter().copied().fold(f64::MIN, f64::max);
            let min = values.iter().copied().fold(f64::MAX, f64::min);
            let [latest, min, max] = [*latest, min, max].map(|it| self.unit.format(it));
            format!("{name}: last {latest}, from {min} to {max}.")
        });
        descriptions.collect::<Vec<_>>().join(" ")
    }

    /// Known values of a line within the plot's time range.
    fn visible_values(&self, line: &PlotLine<'_>) -> impl Iterator<Item = f64> {
        let values = self.samples_in_range(line).flatten();
        values.filter(|value| value.is_finite())
    }

    /// Samples of a line within the plot's time range, including unknown values.
    fn samples_in_range(&self, line: &PlotLine<'_>) -> impl Iterator<Item = Option<f64>> {
        let points = line.points.iter();
        let points = points.filter(|(at, _)| (self.from..=self.to).contains(at));
        points.map(|(_, value)| *value)
    }

    /// Why a line has no values.
    fn empty_reason(&self, line: &PlotLine<'_>) -> &'static str {
        match self.samples_in_range(line).next() {
            Some(_) => "no known values in this time range",
            None => "no samples in this time range",
        }
    }

    fn draw(&self, into: &mut String, palette: &Palette) -> Result<(), String> {
        let PlotSize(width, height) = self.size;
        let (from, to) = (self.from.as_secs_f64(), self.to.as_secs_f64());
        // The time range must not be empty.
        let to = to.max(from + 1.0);
        let max = self.lines.iter().flat_map(|line| self.visible_values(line));
        let max = max.fold(0.0_f64, f64::max);
        let values = axis::value_ticks(max, self.unit, (height / 44) as usize);
        let (times, step) = axis::time_ticks(from, to, (width / 90) as usize);

        let root = SVGBackend::with_string(into, self.dimensions()).into_drawing_area();
        root.fill(&palette.background).map_err(error_text)?;
        self.draw_header(&root, palette)?;
        let mut chart = ChartBuilder::on(&root)
            .margin_top(34)
            // Half of the last time label may be beyond the end of the axis.
            .margin_right(30)
            .margin_bottom(4)
            .margin_left(4)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(
                Axis::new(from..to, times),
                Axis::new(0.0..values.end, values.positions),
            )
            .map_err(error_text)?;
        chart
            .configure_mesh()
            .light_line_style(palette.grid)
            .bold_line_style(palette.grid)
            .axis_style(palette.grid)
            .label_style(font(11, &palette.muted))
            .x_label_formatter(&|time| axis::format_time(*time, step))
            .y_label_formatter(&|value| self.unit.format(*value))
            .draw()
            .map_err(error_text)?;
        let left = font(11, &palette.muted).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text("UTC", &left, (12, to_pixels(height) - 15))
            .map_err(error_text)?;
        let gap = self.gap.as_secs_f64();
        for (line, colour) in self.lines.iter().zip(palette.lines) {
            let style = colour.stroke_width(2);
            for segment in downsample::segments(&line.points, (from, to), width, gap) {
                if let [alone] = segment.as_slice() {
                    let dot = Circle::new(*alone, 2, colour.filled());
                    chart.draw_series([dot]).map_err(error_text)?;
                } else {
                    chart
                        .draw_series([PathElement::new(segment, style)])
                        .map_err(error_text)?;
                }
            }
        }
        let mut lines = self.lines.iter();
        let is_empty = lines.all(|line| self.visible_values(line).next().is_none());
        if let Some(line) = self.lines.first().filter(|_| is_empty) {
            let middle = Pos::new(HPos::Center, VPos::Center);
            let style = font(13, &palette.muted).pos(middle);
            let at = (to_pixels(width / 2 + 30), to_pixels(height / 2));
            root.draw_text(self.empty_reason(line), &style, at)
                .map_err(error_text)?;
        }
        root.present().map_err(error_text)
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.size.0, self.size.1)
    }

    /// The title on the left, the legend on the right.
    fn draw_header(&self, root: &SvgArea<'_>, palette: &Palette) -> Result<(), String> {
        let mut right = f64::from(self.size.0) - 16.0;
        for (line, colour) in self.lines.iter().zip(palette.lines).rev() {
            let name = sanitize_text(line.name, MAX_TITLE_CHARS / 4);
            let style = font(12, &palette.muted).pos(Pos::new(HPos::Right, VPos::Center));
            let at = round_to_i32(right);
            root.draw_text(&name, &style, (at, 17))
                .map_err(error_text)?;
            right -= text_width(&name, 12.0) + 10.0;
            let (begin, end) = (round_to_i32(right - 12.0), round_to_i32(right));
            let stroke: ShapeStyle = colour.stroke_width(3);
            root.draw(&PathElement::new(vec![(begin, 17), (end, 17)], stroke))
                .map_err(error_text)?;
            right -= 24.0;
        }
        let space = ((right - 12.0) / (14.0 * CHAR_WIDTH_RATIO)).max(0.0);
        let title = sanitize_text(
            self.title,
            usize::try_from(round_to_i32(space))
                .unwrap_or(0)
                .min(MAX_TITLE_CHARS),
        );
        let style = TextStyle::from(("sans-serif", 17.0).into_font().style(FontStyle::Bold));
        let style = style.color(&palette.foreground);
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text(&title, &style, (12, 17)).map_err(error_text)
    }
}

type SvgArea<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A font of this size in pixels. plotters divides font sizes by 1.24.
fn font(pixels: u32, colour: &RGBColor) -> TextStyle<'_> {
    let font = ("sans-serif", f64::from(pixels) * 1.24).into_font();
    TextStyle::from(font).color(colour)
}

/// Estimated width of a text.
fn text_width(text: &str, size: f64) -> f64 {
    let count = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    f64::from(count) * size * CHAR_WIDTH_RATIO
}

/// A style sheet that replaces each light colour by its dark one for readers who prefer dark.
fn dark_mode_css() -> String {
    let mut rules = String::from("<style>@media (prefers-color-scheme: dark) {");
    for (light, dark) in LIGHT.colors().zip(DARK.colors()) {
        let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
        let (light, dark) = (hex(light), hex(dark));
        rules +=
            &format!(" [fill=\"{light}\"]{{fill:{dark}}} [stroke=\"{light}\"]{{stroke:{dark}}}");
    }
    rules + " }</style>\n"
}

/// Replaces control characters and truncates the text.
fn sanitize_text(text: &str, max_chars: usize) -> String {
    let is_text = |c: char| {
        // Characters that XML forbids, and those that change the text direction.
        let is_bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !(c.is_control() || is_bidi || matches!(c, '\u{fffe}' | '\u{ffff}'))
    };
    let mut chars = text.chars();
    let taken = chars.by_ref().take(max_chars);
    let mut plain: String = taken
        .map(|c| if is_text(c) { c } else { '\u{fffd}' })
        .collect();
    if chars.next().is_some() {
        plain.pop();
        plain.push('…');
    }
    plain
}

fn escape_xml(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

fn to_pixels(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "sizes are bounded")]
fn round_to_i32(number: f64) -> i32 {
    number.round() as i32
}

fn error_text(error: impl Display) -> String {
    error.to_string()
}

fn plot_error(reason: impl Display) -> Error {
    Error::api("plot", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn plot<'a>(title: &'a str, name: &'a str, points: &[(u64, Option<f64>)]) -> Plot<'a> {
        let points = points.iter();
        let points = points.map(|(at, value)| (HOUR + Duration::from_secs(*at), *value));
        Plot {
            title,
            unit: PlotUnit::Percent,
            from: HOUR,
            to: HOUR + Duration::from_secs(60),
            gap: Duration::from_secs(12),
            lines: vec![PlotLine {
                name,
                points: points.collect(),
            }],
            size: PlotSize::default(),
            theme: Theme::Auto,
        }
    }

    /// Text content of all elements with this name.
    fn texts(svg: &str, name: &str) -> Vec<String> {
        let svg = roxmltree::Document::parse(svg).unwrap();
        let all = svg.descendants().filter(|it| it.has_tag_name(name));
        let texts = all.map(|it| it.text().unwrap_or_default().trim().to_owned());
        texts.collect()
    }

    #[test]
    fn svg_has_text_description() {
        let points = [(0, Some(10.0)), (5, Some(50.0)), (10, Some(25.0))];
        let svg = plot("web: CPU", "CPU", &points).svg().unwrap();
        assert_eq!(texts(&svg, "title"), ["web: CPU"]);
        assert_eq!(texts(&svg, "desc"), ["CPU: last 25 %, from 10 % to 50 %."]);
        let labels = texts(&svg, "text");
        for text in ["web: CPU", "CPU", "UTC", "01:00:10", "0 %", "50 %"] {
            assert!(labels.iter().any(|it| it == text), "{text}: {labels:?}");
        }
        assert!(svg.contains("role=\"img\""));
    }

    #[test]
    fn line_has_gaps_and_isolated_points() {
        let points = [
            (0, Some(1.0)),
            (5, Some(2.0)),
            (10, None),
            (15, Some(3.0)),
            (20, None),
            (40, Some(1.0)),
            (45, Some(1.0)),
        ];
        let svg = plot("t", "n", &points).svg().unwrap();
        assert_eq!(
            svg.matches("stroke=\"#1466B8\" stroke-width=\"2\"").count(),
            2
        );
        assert_eq!(texts(&svg, "circle").len(), 1);
    }

    #[test]
    fn empty_plot_states_reason() {
        let svg = plot("t", "n", &[(0, None)]).svg().unwrap();
        assert_eq!(
            texts(&svg, "desc"),
            ["n: no known values in this time range."]
        );
        assert!(svg.contains(">\nno known values in this time range\n</text>"));
        let svg = plot("t", "n", &[]).svg().unwrap();
        assert_eq!(texts(&svg, "desc"), ["n: no samples in this time range."]);
        assert!(svg.contains(">\nno samples in this time range\n</text>"));
    }

    #[test]
    fn names_are_escaped_in_svg() {
        let hostile = "</title><script>alert(1)</script>\u{1}\u{202e}\"'&amp;";
        let svg = plot(hostile, hostile, &[(0, Some(1.0))]).svg().unwrap();
        assert!(!svg.contains("<script"));
        let sanitized = hostile.replace(['\u{1}', '\u{202e}'], "\u{fffd}");
        assert_eq!(texts(&svg, "title"), [sanitized]);
        let long = "x".repeat(10_000);
        let svg = plot(&long, &long, &[]).svg().unwrap();
        assert!(svg.len() < 20_000, "{}", svg.len());
    }

    #[test]
    fn extreme_sizes_and_times_render() {
        for size in [(0, 0), (1, 5000), (u32::MAX, u32::MAX), (300, 150)] {
            let mut plot = plot("t", "n", &[(0, Some(f64::MAX)), (5, Some(-5.0))]);
            plot.size = PlotSize::clamped(size.0, size.1);
            let svg = plot.svg().unwrap();
            assert!(svg.len() < 100_000, "{size:?}: {}", svg.len());
            plot.to = Duration::ZERO;
            plot.svg().unwrap();
            (plot.from, plot.to) = (Duration::ZERO, Duration::from_secs(1 << 40));
            plot.svg().unwrap();
        }
    }

    #[test]
    fn theme_follows_preference_or_request() {
        let mut plot = plot("t", "n", &[(0, Some(1.0))]);
        let svg = |plot: &Plot<'_>| plot.svg().unwrap();
        assert!(svg(&plot).contains("prefers-color-scheme: dark"));
        assert!(svg(&plot).contains("[fill=\"#FFFFFF\"]{fill:#151A20}"));
        plot.theme = Theme::Dark;
        assert!(!svg(&plot).contains("<style>") && svg(&plot).contains("#151A20"));
        plot.theme = Theme::Light;
        assert!(!svg(&plot).contains("<style>") && svg(&plot).contains("#FFFFFF"));
    }

    #[test]
    fn palette_colors_are_unique() {
        for palette in [&LIGHT, &DARK] {
            let all: Vec<_> = palette
                .colors()
                .map(|RGBColor(r, g, b)| (r, g, b))
                .collect();
            let mut each = all.clone();
            each.sort_unstable();
            each.dedup();
            assert_eq!(each.len(), all.len());
        }
    }
}
