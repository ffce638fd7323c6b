//! Draws panels side by side as SVG. Both axes are logarithmic. The colours suit light and dark backgrounds.

use std::fmt::Write as _;

pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The size of a panel, and the margins around its plot.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 296.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 82.0;
const BOTTOM: f64 = 46.0;

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; font-size: 14px; fill: #1f2328 }
.grid { stroke: #d8dee4; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.first { stroke: #0969da } .second { stroke: #bc4c00 }
.dot.first { fill: #0969da } .dot.second { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d }
  .first { stroke: #4493f8 } .second { stroke: #f0883e }
  .dot.first { fill: #4493f8 } .dot.second { fill: #f0883e }
}
</style>
";

pub(crate) fn svg(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" height=\"{HEIGHT}\" \
         role=\"img\" aria-label=\"How cost grows\">\n{STYLE}"
    );
    for (n, panel) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", n as f64 * WIDTH);
        draw(&mut svg, panel);
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, panel: &Panel) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let x = Axis::of(points().map(|(x, _)| *x), LEFT, WIDTH - RIGHT);
    let y = Axis::of(points().map(|(_, y)| *y), HEIGHT - BOTTOM, TOP);
    let mut text = |class: &str, x: f64, y: f64, anchor: &str, text: &str| {
        let _ =
            writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    };
    text("title", LEFT, 20.0, "start", panel.title);
    text("", LEFT - 34.0, TOP - 14.0, "start", panel.y);
    text("", f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 8.0, "middle", panel.x);
    for decade in x.decades() {
        text("", x.place(decade), HEIGHT - BOTTOM + 18.0, "middle", &short(decade));
    }
    for decade in y.decades() {
        text("", LEFT - 8.0, y.place(decade) + 4.0, "end", &short(decade));
    }
    for (n, line) in panel.lines.iter().enumerate() {
        text("", LEFT + 132.0 * n as f64 + 14.0, 42.0, "start", line.name);
    }
    for decade in y.decades() {
        let y = y.place(decade);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT);
    }
    for ((n, line), class) in panel.lines.iter().enumerate().zip(["first", "second"]) {
        let _ =
            writeln!(svg, "<circle class=\"dot {class}\" cx=\"{}\" cy=\"38\" r=\"4\"/>", LEFT + 132.0 * n as f64 + 4.0);
        let places: Vec<String> =
            line.points.iter().map(|point| format!("{:.1} {:.1}", x.place(point.0), y.place(point.1))).collect();
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"M{}\"/>", places.join("L"));
        for point in &line.points {
            let (x, y) = (x.place(point.0), y.place(point.1));
            let _ = writeln!(svg, "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
        }
    }
}

/// A logarithmic axis between two powers of ten.
struct Axis {
    /// The exponent of the smallest value.
    first: i32,
    /// The exponent of the largest value.
    last: i32,
    /// The coordinate of the smallest value.
    from: f64,
    /// The coordinate of the largest value.
    to: f64,
}

impl Axis {
    #[expect(clippy::cast_possible_truncation, reason = "exponents of ten")]
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs: Vec<f64> = values.map(f64::log10).collect();
        let first = logs.iter().copied().fold(f64::MAX, f64::min).floor() as i32;
        let last = logs.iter().copied().fold(f64::MIN, f64::max).ceil() as i32;
        Self { first, last: last.max(first + 1), from, to }
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.first..=self.last).map(|exponent| 10_f64.powi(exponent))
    }

    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        self.from + part * (self.to - self.from)
    }
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e3 => format!("{} k", value / 1e3),
        value => value.to_string(),
    }
}
