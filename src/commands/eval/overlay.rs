//! `dpo-lora eval overlay`: the win rates of several evaluations together.

use std::path::Path;

use serde::Serialize;

use super::results::Results;
use super::win_rate::{Figures, cells, marks};
use crate::cli::OverlayArgs;
use crate::error::{Error, Result};
use crate::report::plot::{Plot, Series};
use crate::report::sheet::{Cell, Sheet};

/// A curve.
#[derive(Serialize)]
struct Curve {
    name: String,
    #[serde(flatten)]
    figures: Figures,
}

pub(super) fn run(args: &OverlayArgs) -> Result<()> {
    let curves = args.rates.iter().map(|directory| read(directory)).collect::<Result<Vec<_>>>()?;
    let first = &curves[0].figures;
    if let Some(other) =
        curves.iter().find(|it| (&it.figures.against, &it.figures.judge) != (&first.against, &first.judge))
    {
        return Err(Error::Config(format!(
            "{} is against {} by {}, and {} against {} by {}; win rates are comparable with one opponent and one judge",
            curves[0].name,
            first.against,
            first.judge,
            other.name,
            other.figures.against,
            other.figures.judge
        )));
    }
    let (sheet, plot) = (sheet(&curves), plot(&curves));
    let remarks =
        [format!("against {}, judged by {}; 95 % intervals over prompts", first.against, first.judge)];
    let results =
        Results { name: "overlay", figures: &curves, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.json)
}

/// Reads the results of a directory.
fn read(directory: &Path) -> Result<Curve> {
    let path = directory.join("win-rate.json");
    let text = std::fs::read(&path).map_err(Error::read(&path))?;
    let figures = serde_json::from_slice(&text).map_err(|error| {
        Error::Data(format!("{} is not a result of eval win-rate: {error}", path.display()))
    })?;
    let name = directory.file_name().map_or(directory.as_os_str(), |name| name);
    Ok(Curve { name: name.to_string_lossy().into_owned(), figures })
}

fn sheet(curves: &[Curve]) -> Sheet {
    let columns =
        ["curve", "temperature", "win rate", "low", "high", "prompts", "won", "tied", "lost", "unjudged"];
    let mut sheet = Sheet::new(columns);
    for Curve { name, figures } in curves {
        for point in &figures.points {
            sheet.push([Cell::Text(name.clone())].into_iter().chain(cells(point)));
        }
    }
    sheet
}

fn plot(curves: &[Curve]) -> Plot {
    let series = |Curve { name, figures }: &Curve| Series {
        name: name.clone(),
        marks: marks(figures),
        line: true,
        dots: true,
    };
    let first = &curves[0].figures;
    Plot {
        title: format!("win rate against {}", first.against),
        x: "sampling temperature".into(),
        y: format!("win rate by {}", first.judge),
        series: curves.iter().map(series).collect(),
    }
}
