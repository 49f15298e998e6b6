//! A page with the curves, warnings and settings of runs: one file without anything from elsewhere.

use serde_json::{Map, Value, json};

use super::held_out::HeldOut;
use super::jsonl;
use super::log::{self, Line};
use super::samples::Progressed;

/// The page, with `DATA` where the figures go.
const PAGE: &str = include_str!("page.html");

/// Draws the page again when there is something new.
const FOLLOW: &str = r#"let shown = "";
setInterval(async () => {
  try {
    const text = await (await fetch("figures.json")).text();
    if (text === shown || dragging) return;
    shown = text;
    const at = scrollY;
    render(JSON.parse(text));
    scrollTo(0, at);
  } catch { /* The run is over, and with it its server: what was drawn last stays. */ }
}, 2000);
"#;

/// Parts of a curve; each is kept by its least and its greatest value, so that no spike is lost. More than a screen shows, so
/// that a part of it can be looked at more closely; a page of 100,000 lines then takes 2 MB.
const PARTS: usize = 2000;

/// A run to show.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The name of its directory.
    pub name: String,
    /// Its log.
    pub lines: Vec<Line>,
    /// Its settings by their keys.
    pub settings: Vec<(String, String)>,
    /// What it warned of.
    pub warnings: Vec<String>,
    /// What it made of its prompts.
    pub samples: Vec<Progressed>,
    /// What its last evaluation says of single pairs.
    pub held_out: Option<HeldOut>,
}

/// Returns the page of one run, or of several laid over each other.
pub fn page(runs: &[Shown]) -> String {
    filled(runs, "")
}

/// The same page for a server that gives [`figures`] as `figures.json` beside it: it follows the run.
pub fn live_page(runs: &[Shown]) -> String {
    filled(runs, FOLLOW)
}

/// What a page shows, as JSON.
pub fn figures(runs: &[Shown]) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    })
}

fn filled(runs: &[Shown], more: &str) -> String {
    // `</script>` in a name must not end the script.
    let data = figures(runs).to_string().replace('<', "\\u003c");
    PAGE.replacen("/*LIVE*/", more, 1).replacen("DATA", &data, 1)
}

fn run(shown: &Shown) -> Value {
    let mut curves: Map<String, Value> = Map::new();
    let names = shown
        .lines
        .iter()
        .flat_map(|line| line.values.keys())
        .filter(|name| *name != log::STEP && *name != jsonl::TIME);
    let names: std::collections::BTreeSet<&String> = names.collect();
    for name in names {
        let points: Vec<(u64, f64)> =
            shown.lines.iter().filter_map(|line| Some((line.step, line.value(name)?))).collect();
        if !points.is_empty() {
            curves.insert(name.clone(), json!(thinned(&points, PARTS)));
        }
    }
    let settings: Map<String, Value> =
        shown.settings.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    json!({
        "name": shown.name,
        "lines": shown.lines.len(),
        "curves": curves,
        "settings": settings,
        "warnings": shown.warnings,
        "samples": shown.samples,
        "held_out": shown.held_out,
    })
}

/// At most two points of each of `parts` parts, and the first and the last point.
fn thinned(points: &[(u64, f64)], parts: usize) -> Vec<(u64, f64)> {
    if points.len() <= 2 * parts {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * parts + 2);
    kept.extend(points.first());
    for i in 0..parts {
        let part = &points[i * points.len() / parts..(i + 1) * points.len() / parts];
        let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (part.iter().min_by(by_value), part.iter().max_by(by_value)) else {
            continue;
        };
        kept.extend(if low.0 <= high.0 { [*low, *high] } else { [*high, *low] });
    }
    kept.extend(points.last());
    kept.dedup_by_key(|point| point.0);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_points_keep_their_spikes() {
        let points: Vec<(u64, f64)> =
            (0..100_000).map(|i| (i, if i == 54_321 { 99.0 } else { (i % 7) as f64 })).collect();
        let kept = thinned(&points, PARTS);
        assert!(kept.len() <= 2 * PARTS + 2 && kept.is_sorted_by_key(|point| point.0));
        assert!(kept.contains(&(54_321, 99.0)));
        assert_eq!((kept.first(), kept.last()), (points.first(), points.last()));
        assert_eq!(thinned(&points[..10], PARTS), points[..10]);
    }

    #[test]
    fn a_name_cannot_end_the_script() {
        let shown = Shown { name: "</script><b>DATA".into(), ..Shown::default() };
        let page = page(&[shown]);
        assert!(!page.contains("</script><b>") && page.contains("\\u003c/script>\\u003cb>DATA"));
        assert!(
            !page.contains("http://")
                || page.matches("http://").count() == page.matches("http://www.w3.org").count()
        );
    }
}
