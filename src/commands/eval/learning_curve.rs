//! `dpo-lora eval learning-curve`: held-out error against the number of training pairs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord, Trim};
use serde::{Deserialize, Serialize};

use super::results::Results;
use crate::cli::{HeldOut, LearningCurveArgs};
use crate::commands::output::{model_inputs, say};
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::eval::calibration::Prediction;
use crate::eval::learning_curve::{Fit, Measured, fit};
use crate::files::{self, Ledger};
use crate::objective::Scored;
use crate::report::Activity;
use crate::report::plot::{Mark, Plot, Series};
use crate::report::sheet::{Cell, Sheet};
use crate::toolkit::drawn::{Drawn, identity};
use crate::toolkit::{Base, Examples, OpenOptions, Pairs, TrainedWith, set_threads};
use crate::train::checkpoint;

/// What was measured of a run: a line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The hash of adapter, data and measure.
    key: String,
    run: String,
    n: u64,
    error: f64,
    standard_error: f64,
}

/// A point by name.
#[derive(Serialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    measured: Measured,
}

/// All figures.
#[derive(Serialize)]
struct Figures {
    measure: &'static str,
    points: Vec<Named>,
    fit: Fit,
    conclusion: &'static str,
}

/// Refuses a folder in which the results would take the place of what is read.
fn check_output(args: &LearningCurveArgs) -> Result<()> {
    let mut inputs = model_inputs("", &args.runs);
    args.points.iter().for_each(|path| inputs.add("one of the inputs", path));
    args.data.iter().for_each(|data| inputs.add_data(data));
    let files = ["measured.jsonl", "learning-curve.json", "learning-curve.csv", "learning-curve.svg"];
    inputs.check_folder(&args.output, &files)
}

pub(super) fn run(args: &LearningCurveArgs) -> Result<()> {
    check_output(args)?;
    let points = match &args.points {
        Some(path) => read_points(path, args.measure)?,
        None => measured(args)?,
    };
    let fit =
        fit(&points.iter().map(|point| point.measured).collect::<Vec<_>>()).map_err(|error| {
            match (&args.points, error) {
                (Some(path), Error::Data(message)) => Error::Data(format!("{}: {message}", path.display())),
                (_, error) => error,
            }
        })?;
    let conclusion = fit.support.words();
    let figures = Figures { measure: measure(args.measure), points, fit, conclusion };
    let (sheet, plot, remarks) = (sheet(&figures), plot(&figures), remarks(&figures));
    let results =
        Results { name: "learning-curve", figures: &figures, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.json)
}

fn measure(what: HeldOut) -> &'static str {
    match what {
        HeldOut::Error => "held-out error",
        HeldOut::Loss => "held-out loss",
    }
}

/// The columns of a file of points.
const COLUMNS: [&str; 3] = ["n", "error", "standard_error"];

/// Reads points from a CSV file.
fn read_points(path: &Path, measure: HeldOut) -> Result<Vec<Named>> {
    // Every line ends with a line feed alone, so that the reader stands in the line after a record.
    let text: String = files::read_text(path)?.lines().flat_map(|line| [line, "\n"]).collect();
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(text.as_bytes());
    let (mut names, mut points) = (None, Vec::new());
    let mut cells = StringRecord::new();
    while reader
        .read_record(&mut cells)
        .map_err(|error| Error::Data(format!("{}: {error}", path.display())))?
    {
        if cells.len() == 1 && cells[0].is_empty() {
            continue;
        }
        let line = usize::try_from(reader.position().line()).unwrap_or(usize::MAX) - 1;
        match &names {
            None => names = Some(cells.clone()),
            Some(names) => {
                points.push(read_point(names, &cells, measure).map_err(|message| Error::Record {
                    file: path.display().to_string(),
                    line,
                    message,
                })?)
            }
        }
    }
    match names {
        Some(_) => Ok(points),
        None => Err(Error::Data(format!(
            "{} is empty; its first line names the columns {}",
            path.display(),
            COLUMNS.join(", ")
        ))),
    }
}

/// Reads a point from its line.
fn read_point(names: &StringRecord, cells: &StringRecord, measure: HeldOut) -> Result<Named, String> {
    let columns = format!("the columns are {}", COLUMNS.join(", "));
    if let Some(unknown) = names.iter().find(|name| !COLUMNS.contains(name)) {
        return Err(format!("the first line names a column `{unknown}`; {columns}"));
    }
    if cells.len() != names.len() {
        return Err(format!(
            "there are {} values, and the first line names {} columns",
            cells.len(),
            names.len()
        ));
    }
    let number = |column: &str| -> Result<f64, String> {
        let at = names.iter().position(|name| name == column);
        let cell =
            at.and_then(|at| cells.get(at)).ok_or_else(|| format!("there is no {column}; {columns}"))?;
        cell.parse().map_err(|_| format!("{column} is `{cell}`; write a number such as 0.25"))
    };
    let [n, error, standard_error] = [number(COLUMNS[0])?, number(COLUMNS[1])?, number(COLUMNS[2])?];
    let measured = Measured { n, error, standard_error };
    check(&measured, measure)?;
    Ok(Named { name: format!("N = {n}"), measured })
}

/// # Errors
/// If a value of a point is not possible, with its column and what it may be.
fn check(point: &Measured, measure: HeldOut) -> Result<(), String> {
    let Measured { n, error, standard_error } = *point;
    if !(n.is_finite() && n >= 1.0) {
        return Err(format!("n is {n}; it must be a number of pairs, at least 1"));
    }
    match measure {
        HeldOut::Error if !(0.0..=1.0).contains(&error) => {
            return Err(format!(
                "error is {error}; a held-out error is a share from 0 to 1 (points of the loss need --measure loss)"
            ));
        }
        HeldOut::Loss if !(error.is_finite() && error >= 0.0) => {
            return Err(format!("error is {error}; a held-out loss is a number of 0 or more"));
        }
        HeldOut::Error | HeldOut::Loss => {}
    }
    if !(standard_error.is_finite() && standard_error > 0.0) {
        return Err(format!("standard_error is {standard_error}; it must be a number above 0"));
    }
    Ok(())
}

/// Measures every run that is not measured yet.
fn measured(args: &LearningCurveArgs) -> Result<Vec<Named>> {
    set_threads(args.runtime.threads)?;
    let (mut ledger, lines) = Ledger::<Line>::open(&args.output.join("measured.jsonl"))?;
    let mut known: BTreeMap<String, Line> = lines.into_iter().map(|line| (line.key.clone(), line)).collect();
    let activity = Activity::new("measuring runs", args.runs.len() as u64);
    let mut points = Vec::new();
    for run in &args.runs {
        let line = of_run(args, run, &mut known, &mut ledger)?;
        let measured = Measured { n: line.n as f64, error: line.error, standard_error: line.standard_error };
        points.push(Named { name: line.run, measured });
        activity.advance(1);
    }
    Ok(points)
}

fn of_run(
    args: &LearningCurveArgs,
    run: &PathBuf,
    known: &mut BTreeMap<String, Line>,
    ledger: &mut Ledger<Line>,
) -> Result<Line> {
    let config = Recipe::from_file(run.join("config.yaml"), &[])?.into_last()?;
    let runtime = args.runtime;
    let options = OpenOptions {
        dtype: runtime.dtype,
        device: runtime.device,
        load_in_4bit: runtime.load_in_4bit,
        force: args.force,
    };
    let base = Base::open_with(&config.model.base, &options)?;
    let trained = TrainedWith::of(run)?;
    let adapted = base.with_adapters(&[run], trained, args.force)?;
    let objective = adapted.objective("name a run of dpo-lora train");
    let data = adapted.pairs(args.data.as_deref().unwrap_or_default())?;
    let by = Drawn { adapted: &adapted, pass: crate::model::pass::Pass::Policy, name: "" };
    let described = format!(
        "{} {} {} {:?}",
        identity(by)?,
        data.examples.fingerprint(),
        objective.to_json()?,
        args.measure
    );
    let key = blake3::hash(described.as_bytes()).to_hex()[..32].to_string();
    if let Some(line) = known.get(&key) {
        return Ok(Line { run: run.display().to_string(), ..line.clone() });
    }
    let trained_on = Examples::read(&config, &base, &adapted.tokenizer)?.train.len() as u64;
    let n = pairs_seen(run, trained_on);
    let scored = adapted.score(&data)?;
    let (error, standard_error) = figures(args.measure, &scored, &data, |scored| objective.reward(scored))?;
    say(&format!("{}: N = {n}, {} {error:.4}", run.display(), measure(args.measure)));
    let line = Line { key: key.clone(), run: run.display().to_string(), n, error, standard_error };
    ledger.push(&line)?;
    known.insert(key, line.clone());
    Ok(line)
}

/// The number of different pairs that a run has seen: all, unless it ended within its first epoch.
fn pairs_seen(run: &Path, all: u64) -> u64 {
    match checkpoint::newest(run).0 {
        Some((_, state)) if state.sampler.epoch == 0 => (state.sampler.position as u64).min(all),
        Some(_) | None => all,
    }
}

/// The measure and its standard error.
fn figures(
    measure: HeldOut,
    scored: &[Scored],
    data: &Pairs,
    reward: impl Fn(&Scored) -> Option<f64>,
) -> Result<(f64, f64)> {
    let groups = scored.chunk_by(|a, b| a.group == b.group);
    let value = |(entry, group): (&crate::data::dataset::Entry, &[Scored])| {
        let not_a_pair = || data.examples.origin(entry).error("this is not a pair with rewards");
        let [chosen, rejected, ..] = group else { return Err(not_a_pair()) };
        let (better, worse) = reward(chosen).zip(reward(rejected)).ok_or_else(not_a_pair)?;
        Ok(match measure {
            HeldOut::Error => f64::from(u8::from(better <= worse)),
            HeldOut::Loss => {
                -Prediction::of_margin(better - worse, 1.0).probability.max(f64::MIN_POSITIVE).ln()
            }
        })
    };
    let values: Vec<f64> = data.examples.entries().zip(groups).map(value).collect::<Result<_>>()?;
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = match measure {
        // With two more of each kind (Agresti and Coull 1998), so that no error at all does not seem certain.
        HeldOut::Error => {
            let share = (mean * n + 2.0) / (n + 4.0);
            share * (1.0 - share)
        }
        HeldOut::Loss => values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0),
    };
    Ok((mean, (variance / n).sqrt().max(f64::MIN_POSITIVE)))
}

fn sheet(figures: &Figures) -> Sheet {
    let mut sheet = Sheet::new(["run", "N", figures.measure, "standard error", "a + b/sqrt(N)"]);
    for Named { name, measured } in &figures.points {
        sheet.push([
            Cell::Text(name.clone()),
            Cell::Number(measured.n, 0),
            Cell::Number(measured.error, 4),
            Cell::Number(measured.standard_error, 4),
            Cell::Number(figures.fit.at(measured.n), 4),
        ]);
    }
    sheet
}

fn plot(figures: &Figures) -> Plot {
    let half = 1.96;
    let mark = |Named { measured, .. }: &Named| Mark {
        at: (measured.n, measured.error),
        y: Some((
            measured.error - half * measured.standard_error,
            measured.error + half * measured.standard_error,
        )),
        ..Mark::default()
    };
    let sizes = || figures.points.iter().map(|point| point.measured.n);
    let (least, most) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(1.0, f64::max));
    let curve = (0..=100).map(|i| least * (most / least).powf(f64::from(i) / 100.0));
    let curve = curve.map(|n| Mark { at: (n, figures.fit.at(n)), ..Mark::default() }).collect();
    Plot {
        title: "learning curve".into(),
        x: "number of training pairs N".into(),
        y: figures.measure.into(),
        series: vec![
            Series {
                name: "measured".into(),
                marks: figures.points.iter().map(mark).collect(),
                line: false,
                dots: true,
            },
            Series { name: "a + b/sqrt(N)".into(), marks: curve, line: true, dots: false },
        ],
    }
}

fn remarks(figures: &Figures) -> Vec<String> {
    let fit = &figures.fit;
    let mut remarks = vec![
        format!("a = {:.4} (95 %: {:.4} to {:.4})", fit.a.value, fit.a.low, fit.a.high),
        format!("b = {:.4} (95 %: {:.4} to {:.4})", fit.b.value, fit.b.low, fit.b.high),
    ];
    remarks.extend(fit.p_value.map(|p| {
        format!(
            "chi squared {:.2} with {} degrees of freedom, p = {p:.3}",
            fit.chi_squared, fit.degrees_of_freedom
        )
    }));
    remarks.extend(fit.exponent.map(|c| {
        format!(
            "exponent c of a + b/N^c: {:.2} (95 %: {:.2} to {:.2}, searched from 0.05 to 3)",
            c.value, c.low, c.high
        )
    }));
    if fit.spread_from_repeats {
        remarks.push(
            "standard errors are those of runs with equal N, which differ by more than their pairs explain"
                .into(),
        );
    }
    remarks.push(figures.conclusion.into());
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_are_not_possible_are_named_by_file_and_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("p.csv");
        let read = |text: &str, measure| {
            std::fs::write(&path, text).unwrap();
            read_points(&path, measure).map_err(|error| error.to_string())
        };
        let head = "\u{feff}n, error, standard_error\r\n\r\n10, 0.5, 0.1\r\n\r\n";
        // The blank lines count.
        for (row, words) in [
            ("20, 1.7, 0.1", "error is 1.7; a held-out error is a share from 0 to 1"),
            ("20, -0.1, 0.1", "error is -0.1; a held-out error is a share from 0 to 1"),
            ("20, nan, 0.1", "error is NaN"),
            ("20, , 0.1", "error is ``; write a number"),
            ("0, 0.1, 0.1", "n is 0; it must be"),
            ("inf, 0.1, 0.1", "n is inf; it must be"),
            ("20, 0.1, 0", "standard_error is 0; it must be"),
            ("20, 0.1", "there are 2 values, and the first line names 3 columns"),
        ] {
            let error = read(&format!("{head}{row}\r\n"), HeldOut::Error).err().unwrap();
            assert!(error.contains("p.csv:5: ") && error.contains(words), "{row}: {error}");
        }
        let losses = read(&format!("{head}20,\"1.7\", 0.1"), HeldOut::Loss).ok().unwrap();
        assert_eq!(losses.iter().map(|point| point.measured.error).collect::<Vec<_>>(), [0.5, 1.7]);
        let error = read(&format!("{head}20, -0.1, 0.1"), HeldOut::Loss).err().unwrap();
        assert!(error.contains("a held-out loss is a number of 0 or more"), "{error}");
        let error = read("n, eror, standard_error\n1, 2, 3\n", HeldOut::Error).err().unwrap();
        assert!(error.contains("`eror`; the columns are n, error, standard_error"), "{error}");
        assert!(read("\n", HeldOut::Error).err().unwrap().contains("p.csv is empty"));
    }
}
