//! Tables and figure of a frontier.

use super::figures::{Compared, Figures, Placed, REFERENCE};
use crate::eval::dominance::Verdict;
use crate::report::plot::{Mark, Plot, Series};
use crate::report::sheet::{Cell, Sheet};

/// The policies.
pub(super) fn sheet(figures: &Figures) -> Sheet {
    let columns = [
        "series",
        "run",
        "reward",
        "reward low",
        "reward high",
        "KL",
        "KL low",
        "KL high",
        "KL (k3)",
        "samples",
        "on frontier",
    ];
    let mut sheet = Sheet::new(columns);
    for Placed { point, on_frontier, .. } in &figures.points {
        sheet.push([
            if point.series.is_empty() { Cell::Empty } else { Cell::Text(point.series.clone()) },
            Cell::Text(point.name.clone()),
            Cell::Number(point.reward.mean, 4),
            Cell::number(point.reward.low, 4),
            Cell::number(point.reward.high, 4),
            Cell::Number(point.kl.mean, 3),
            Cell::number(point.kl.low, 3),
            Cell::number(point.kl.high, 3),
            Cell::number(point.kl_k3.map(|it| it.mean), 3),
            Cell::count(point.samples),
            (if *on_frontier { "yes" } else { "no" }).into(),
        ]);
    }
    sheet
}

/// The series against each other.
pub(super) fn comparisons(compared: &[Compared]) -> Sheet {
    let columns =
        ["frontier of", "against", "up to KL", "advantage", "low", "high", "above", "below", "verdict"];
    let mut sheet = Sheet::new(columns);
    for Compared { first, second, found } in compared {
        sheet.push([
            Cell::Text(first.clone()),
            Cell::Text(second.clone()),
            Cell::Number(found.up_to, 2),
            Cell::Number(found.advantage.mean, 4),
            Cell::number(found.advantage.low, 4),
            Cell::number(found.advantage.high, 4),
            Cell::Share(found.above),
            Cell::Share(found.below),
            Cell::Text(match found.verdict {
                Verdict::First => format!("{first} dominates"),
                Verdict::Second => format!("{second} dominates"),
                Verdict::Cross => "they cross".into(),
                Verdict::NoDifference => "no difference".into(),
            }),
        ]);
    }
    sheet
}

/// What stands below the table.
pub(super) fn remarks(figures: &Figures) -> Vec<String> {
    let mut remarks = vec![format!(
        "reward by {}, KL(policy || reference) in nats per completion of at most {} tokens; 95 % intervals over prompts",
        figures.reward, figures.max_new_tokens
    )];
    let is_without = |it: &Placed| it.point.reward.ends().is_none() || it.point.kl.ends().is_none();
    if figures.points.iter().any(is_without) {
        remarks.push("a single prompt, or prompts that all give the same number, have no interval".into());
    }
    remarks
}

/// The figure: a curve for each series, or the common frontier where there are none.
pub(super) fn plot(figures: &Figures, most: Option<f64>) -> Plot {
    let shown = |it: &&Placed| most.is_none_or(|most| it.point.kl.mean <= most);
    let points: Vec<&Placed> = figures.points.iter().filter(shown).collect();
    let mut names: Vec<&str> = Vec::new();
    for Placed { point, .. } in &points {
        if !names.contains(&point.series.as_str()) {
            names.push(&point.series);
        }
    }
    let mut series: Vec<Series> = names.into_iter().filter_map(|name| curve(&points, name)).collect();
    if series.len() == 1 {
        let on = points.iter().filter(|it| it.on_frontier);
        let marks = sorted(on.map(|it| mark(it, false)).collect());
        series.push(Series { name: String::new(), marks, line: true, dots: false });
    }
    Plot {
        title: "expected reward against divergence".into(),
        x: "KL(policy || reference), nats per completion".into(),
        y: format!("reward by {}", figures.reward),
        series,
    }
}

/// The points of a series, joined by their divergence.
fn curve(points: &[&Placed], name: &str) -> Option<Series> {
    let placed: Vec<&&Placed> = points.iter().filter(|it| it.point.series == name).collect();
    // The legend names series, and the names of all their points would cover each other.
    let is_named = name.is_empty();
    let marks = sorted(placed.iter().map(|it| mark(it, is_named)).collect());
    (!marks.is_empty()).then(|| Series { name: name.into(), marks, line: !name.is_empty(), dots: true })
}

fn mark(Placed { point, .. }: &Placed, is_named: bool) -> Mark {
    let short = point.name.rsplit('/').next().unwrap_or(REFERENCE).trim_start_matches("best of ");
    Mark {
        at: (point.kl.mean, point.reward.mean),
        x: point.kl.ends(),
        y: point.reward.ends(),
        name: is_named.then(|| short.to_string()),
    }
}

fn sorted(mut marks: Vec<Mark>) -> Vec<Mark> {
    marks.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    marks
}
