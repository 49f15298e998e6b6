//! A figure as SVG: points with intervals, and curves. It needs nothing from elsewhere, and follows light and dark screens.

use std::fmt::Write;

/// A point and, where they are known, the ends of its intervals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// Its place.
    pub at: (f64, f64),
    /// The interval of x.
    pub x: Option<(f64, f64)>,
    /// The interval of y.
    pub y: Option<(f64, f64)>,
    /// A name beside it.
    pub name: Option<String>,
}

/// Points of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend; empty: none.
    pub name: String,
    /// The points, in the order in which a line joins them.
    pub marks: Vec<Mark>,
    /// Whether a line joins them.
    pub line: bool,
    /// Whether the points themselves are drawn.
    pub dots: bool,
}

/// A figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// What is along x.
    pub x: String,
    /// What is along y.
    pub y: String,
    /// What is drawn.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
/// Left, right, top and bottom of the area of the points.
const AREA: (f64, f64, f64, f64) = (70.0, 620.0, 40.0, 360.0);
/// A legend of more names stands beside the area, which is then this much narrower.
const INSIDE: usize = 3;
const BESIDE: f64 = 170.0;

/// Colours that people with colour blindness tell apart (Okabe and Ito 2008), and three more.
const COLOURS: [&str; 10] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#7f3fbf", "#8c564b",
    "#7fa02c",
];

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#222}.axis{stroke:#888}.grid{stroke:#8883}\
     @media(prefers-color-scheme:dark){text{fill:#ddd}}";

impl Plot {
    /// Returns the figure. Points that are not finite are left out.
    pub fn svg(&self) -> String {
        let frame = Frame::of(self);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n",
            escaped(&self.title)
        );
        frame.axes(&mut out, self);
        for (i, series) in self.series.iter().enumerate() {
            frame.series(&mut out, series, COLOURS[i % COLOURS.len()]);
        }
        self.legend(&mut out);
        out.push_str("</svg>\n");
        out
    }

    /// The right end of the area of the points.
    fn right(&self) -> f64 {
        let named = self.series.iter().filter(|series| !series.name.is_empty()).count();
        if named > INSIDE { AREA.1 - BESIDE } else { AREA.1 }
    }

    fn legend(&self, out: &mut String) {
        let named = self.series.iter().enumerate().filter(|(_, series)| !series.name.is_empty());
        let right = self.right();
        let x = if right < AREA.1 { right + 18.0 } else { right - 150.0 };
        for (row, (i, series)) in named.enumerate() {
            let y = AREA.2 + 12.0 + 18.0 * row as f64;
            let colour = COLOURS[i % COLOURS.len()];
            push(out, format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>"));
            text(out, (x + 10.0, y + 4.0), "start", &series.name);
        }
    }
}

/// The ranges that are shown.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    right: f64,
}

impl Frame {
    fn of(plot: &Plot) -> Self {
        let marks = || plot.series.iter().flat_map(|series| &series.marks).filter(|mark| is_finite(mark));
        let with_ends = |at: f64, ends: Option<(f64, f64)>| {
            let ends = ends.filter(|(low, high)| low.is_finite() && high.is_finite());
            std::iter::once(at).chain(ends.into_iter().flat_map(|(low, high)| [low, high]))
        };
        let xs = marks().flat_map(|mark| with_ends(mark.at.0, mark.x));
        let ys = marks().flat_map(|mark| with_ends(mark.at.1, mark.y));
        Self { x: range(xs), y: range(ys), right: plot.right() }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let share = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        let ((left, _, top, bottom), right) = (AREA, self.right);
        (left + share(x, self.x) * (right - left), bottom - share(y, self.y) * (bottom - top))
    }

    fn axes(&self, out: &mut String, plot: &Plot) {
        let ((left, _, top, bottom), right) = (AREA, self.right);
        for tick in ticks(self.x) {
            let (x, _) = self.place((tick, self.y.0));
            line(out, "grid", (x, top), (x, bottom));
            text(out, (x, bottom + 18.0), "middle", &shown(tick));
        }
        for tick in ticks(self.y) {
            let (_, y) = self.place((self.x.0, tick));
            line(out, "grid", (left, y), (right, y));
            text(out, (left - 6.0, y + 4.0), "end", &shown(tick));
        }
        line(out, "axis", (left, bottom), (right, bottom));
        line(out, "axis", (left, top), (left, bottom));
        text(out, ((left + right) / 2.0, HEIGHT - 16.0), "middle", &plot.x);
        text(out, ((left + right) / 2.0, 22.0), "middle", &plot.title);
        let y = (top + bottom) / 2.0;
        push(
            out,
            format_args!(
                "<text x=\"18\" y=\"{y}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {y})\">{}</text>",
                escaped(&plot.y)
            ),
        );
    }

    fn series(&self, out: &mut String, series: &Series, colour: &str) {
        let marks: Vec<&Mark> = series.marks.iter().filter(|mark| is_finite(mark)).collect();
        if series.line {
            let points: Vec<String> =
                marks.iter().map(|mark| self.place(mark.at)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            push(
                out,
                format_args!(
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                    points.join(" ")
                ),
            );
        }
        for mark in marks.into_iter().filter(|_| series.dots) {
            let (x, y) = self.place(mark.at);
            let ends = [
                mark.x.map(|(low, high)| [(low, mark.at.1), (high, mark.at.1)]),
                mark.y.map(|(low, high)| [(mark.at.0, low), (mark.at.0, high)]),
            ];
            for [from, to] in ends.into_iter().flatten() {
                let ((x1, y1), (x2, y2)) = (self.place(from), self.place(to));
                if [x1, y1, x2, y2].iter().all(|value| value.is_finite()) {
                    push(
                        out,
                        format_args!(
                            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
                        ),
                    );
                }
            }
            push(out, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
            if let Some(name) = &mark.name {
                text(out, (x + 7.0, y - 7.0), "start", name);
            }
        }
    }
}

fn is_finite(mark: &Mark) -> bool {
    mark.at.0.is_finite() && mark.at.1.is_finite()
}

/// The range of values with a margin; one around a single value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = if high > low { 0.06 * (high - low) } else { (0.1 * high.abs()).max(1e-6) };
    (low - margin, high + margin)
}

/// Round numbers in a range: 1, 2 or 5 times a power of ten apart, at most ten of them.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil();
    (0..10).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= high).collect()
}

fn shown(tick: f64) -> String {
    let rounded = format!("{tick:.6}");
    let short = rounded.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".into() } else { short.into() }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    push(
        out,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(text)),
    );
}

fn line(out: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    push(
        out,
        format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"),
    );
}

fn push(out: &mut String, element: std::fmt::Arguments) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{element}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(marks: Vec<Mark>) -> String {
        let series = Series { name: "a & <b>".into(), marks, line: true, dots: true };
        Plot { title: "t".into(), x: "x".into(), y: "y".into(), series: vec![series] }.svg()
    }

    #[test]
    fn points_intervals_and_names_are_drawn() {
        let svg = plot(vec![
            Mark { at: (0.0, 1.0), x: Some((-1.0, 1.0)), y: Some((0.5, 2.0)), name: Some("<one>".into()) },
            Mark { at: (4.0, 3.0), ..Mark::default() },
        ]);
        // Two points and the legend's.
        assert_eq!(
            (svg.matches("<circle").count(), svg.matches("stroke=\"#0072b2\"").count()),
            (3, 3),
            "{svg}"
        );
        assert!(svg.contains("&lt;one&gt;") && svg.contains("a &amp; &lt;b&gt;") && !svg.contains("<b>"));
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let svg = plot(vec![
            Mark { at: (f64::NAN, 1.0), ..Mark::default() },
            Mark { at: (1.0, 1.0), y: Some((f64::NEG_INFINITY, 2.0)), ..Mark::default() },
        ]);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(!plot(Vec::new()).contains("NaN"));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks((0.0, 1.0)), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks((-3.0, 17.0)), [0.0, 5.0, 10.0, 15.0]);
        assert!(ticks((1e-7, 1.0000001e-7)).len() <= 10);
        assert_eq!([shown(-0.0), shown(0.6000000000000001), shown(20.0)], ["0", "0.6", "20"]);
    }
}
