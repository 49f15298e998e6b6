//! `dpo-lora eval win-rate`: one policy's answers against another's, or against the chosen ones.

mod best;
mod judging;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::best::BestOf;
use self::judging::{Judging, Verdicts};
use super::questions;
use super::results::Results;
use crate::cli::WinRateArgs;
use crate::commands::adapted::{adapted, base_on};
use crate::commands::output::{inputs_of, say};
use crate::commands::together;
use crate::error::{Error, Result};
use crate::eval::win_rate::WinRate;
use crate::generate::SamplingConfig;
use crate::judge::Position;
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::report::plot::{Mark, Plot, Series};
use crate::report::sheet::{Cell, Sheet};
use crate::toolkit::drawn::{Drawer, Drawing, Drawn, Kept};
use crate::toolkit::prompts::Prompt;
use crate::toolkit::{Adapted, Base, TrainedWith};

/// The figures at one temperature.
#[derive(Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) temperature: f64,
    #[serde(flatten)]
    pub(super) found: WinRate,
    /// Comparisons of equal texts, which count as ties and are not judged.
    equal: usize,
    /// What an endpoint prefers whatever the answers are.
    position: Option<Position>,
    /// Requests in the transcript, and their cost.
    requests: Option<u64>,
    cost: Option<f64>,
}

impl Point {
    fn of(temperature: f64, judged: Verdicts, seed: u64) -> Self {
        let Verdicts { of_prompts, equal, position, spent } = judged;
        Self {
            temperature,
            found: WinRate::of(&of_prompts, seed),
            equal,
            position,
            requests: spent.map(|(requests, _)| requests),
            cost: spent.map(|(_, cost)| cost),
        }
    }
}

/// All figures.
#[derive(Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) policy: String,
    pub(super) against: String,
    pub(super) judge: String,
    samples: usize,
    pub(super) points: Vec<Point>,
}

pub(super) fn run(args: &WinRateArgs) -> Result<()> {
    together::shared(together::FROM_WHAT_IS_KEPT, |ranks| measure(args, ranks))
}

/// Refuses a folder in which the results would take the place of what is read.
fn check_output(args: &WinRateArgs) -> Result<()> {
    let mut inputs = inputs_of(&args.model);
    questions::add_to(&mut inputs, &args.draw);
    let files = [
        "samples.jsonl",
        "scores.jsonl",
        "transcript.jsonl",
        "win-rate.json",
        "win-rate.csv",
        "win-rate.svg",
    ];
    inputs.check_folder(&args.output, &files)
}

fn measure(args: &WinRateArgs, ranks: &Ranks) -> Result<()> {
    check_output(args)?;
    let base = base_on(ranks, &args.model)?;
    let policy = ranks.once_per_machine(|| adapted(&base, &args.model))?;
    let prompts = together::read(ranks, || questions::read(&args.draw, &policy.tokenizer))?;
    together::agree(ranks, &policy, questions::fingerprint(&prompts))?;
    let other = ranks.once_per_machine(|| Against::of(args, &base, &prompts))?;
    if let Against::Other(other) = &other {
        together::agree(ranks, other, String::new())?;
    }
    // Rank 0 judges what all have drawn.
    let mut judge = ranks.is_first().then(|| Judging::of(args, &base, &policy)).transpose()?;
    let mut drawer = Drawer::open_on(ranks, &args.output.join("samples.jsonl"))?;
    let mut best_of = BestOf::of(ranks, args, &base, &policy)?;
    let name = named(&args.model.adapter);
    let mut points = Vec::new();
    for temperature in &args.temperature {
        let pass = if policy.policy.is_adapted() { Pass::Policy } else { Pass::Reference };
        let by = Drawn { adapted: &policy, pass, name: &name };
        let ours = answers(args, (by, &prompts), &mut drawer, best_of.as_mut(), *temperature)?;
        let theirs = other.answers(args, &policy, &mut drawer, &prompts, *temperature)?;
        if let Some(judge) = &mut judge {
            points.push(Point::of(*temperature, judge.verdicts(&prompts, &ours, &theirs)?, args.draw.seed));
        }
    }
    let Some(judge) = judge else { return Ok(()) };
    judge.say_kept();
    if let Some(best_of) = &best_of {
        best_of.say_kept();
    }
    let figures = Figures {
        policy: best_of.map_or(name.clone(), |best_of| best_of.named(&name)),
        against: args.against.clone(),
        judge: judge.name(),
        samples: args.draw.samples,
        points,
    };
    let (sheet, plot, remarks) = (sheet(&figures), plot(&figures), remarks(&figures));
    let results =
        Results { name: "win-rate", figures: &figures, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.results.json)
}

/// The name of a policy: its adapters, or `base` without any.
fn named(adapters: &[PathBuf]) -> String {
    let names: Vec<String> = adapters.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "base".into() } else { names.join(" + ") }
}

/// The policy's answers: its samples, or the best of every N.
fn answers(
    args: &WinRateArgs,
    (by, prompts): (Drawn, &[Prompt]),
    drawer: &mut Drawer,
    best_of: Option<&mut BestOf>,
    temperature: f64,
) -> Result<Vec<Vec<Kept>>> {
    let how = drawing(args, temperature);
    match best_of.filter(|_| temperature > 0.0) {
        None => drawer.draw(by, prompts, &how),
        Some(best_of) => {
            let how = Drawing { completions: how.completions * best_of.n, ..how };
            best_of.choose(prompts, &drawer.draw(by, prompts, &how)?)
        }
    }
}

/// Greedy completions of one prompt are all the same: one is enough.
fn drawing(args: &WinRateArgs, temperature: f64) -> Drawing {
    Drawing {
        sampling: SamplingConfig { temperature, top_k: None, top_p: args.top_p, seed: args.draw.seed },
        completions: if temperature == 0.0 { 1 } else { args.draw.samples },
        max_new_tokens: args.draw.max_new_tokens,
    }
}

/// What the answers are compared with.
enum Against<'a> {
    Reference,
    Chosen,
    Other(Box<Adapted<'a>>),
}

impl<'a> Against<'a> {
    fn of(args: &WinRateArgs, base: &'a Base, prompts: &[Prompt]) -> Result<Self> {
        match args.against.as_str() {
            "reference" if args.model.adapter.is_empty() => Err(Error::Config(
                "without --adapter the policy is the reference itself; name an adapter, or --against chosen"
                    .into(),
            )),
            "reference" => Ok(Self::Reference),
            "chosen" if prompts.iter().any(|prompt| prompt.chosen.is_none()) => Err(Error::Config(
                "--against chosen needs the chosen answers of preference pairs; name them with --data".into(),
            )),
            "chosen" => Ok(Self::Chosen),
            path => {
                let trained = TrainedWith::of(Path::new(path))?;
                Ok(Self::Other(Box::new(base.with_adapters(&[path], trained, args.model.force)?)))
            }
        }
    }

    /// The texts that each prompt's answers are compared with.
    fn answers(
        &self,
        args: &WinRateArgs,
        policy: &Adapted,
        drawer: &mut Drawer,
        prompts: &[Prompt],
        temperature: f64,
    ) -> Result<Vec<Vec<Kept>>> {
        let how = drawing(args, args.against_temperature.unwrap_or(temperature));
        let (adapted, pass) = match self {
            Self::Chosen => return chosen(policy, prompts),
            Self::Reference => (policy, Pass::Reference),
            Self::Other(other) => (&**other, Pass::Policy),
        };
        drawer.draw(Drawn { adapted, pass, name: &args.against }, prompts, &how)
    }
}

/// The chosen answers, as if they had been drawn.
fn chosen(policy: &Adapted, prompts: &[Prompt]) -> Result<Vec<Vec<Kept>>> {
    let kept = |prompt: &Prompt| {
        let text = prompt.chosen.clone().unwrap_or_default();
        // Answers that are drawn end with this token too.
        let mut tokens = policy.tokenizer.encode(&text, false)?;
        tokens.extend(policy.tokenizer.eos_id().filter(|end| tokens.last() != Some(end)));
        Ok(vec![Kept { tokens, text, logp: 0.0 }])
    };
    prompts.iter().map(kept).collect()
}

fn sheet(figures: &Figures) -> Sheet {
    let mut sheet = Sheet::new([
        "temperature",
        "win rate",
        "low",
        "high",
        "prompts",
        "won",
        "tied",
        "lost",
        "unjudged",
        "shown first wins",
    ]);
    for point in &figures.points {
        let position = Cell::share(point.position.map(|it| it.first_shown_wins));
        sheet.push(cells(point).into_iter().chain([position]));
    }
    sheet
}

fn plot(figures: &Figures) -> Plot {
    let marks = marks(figures);
    Plot {
        title: format!("{} against {}", figures.policy, figures.against),
        x: "sampling temperature".into(),
        y: format!("win rate by {}", figures.judge),
        series: vec![Series { name: String::new(), marks, line: true, dots: true }],
    }
}

/// Temperature, win rate with its interval, and counts.
pub(super) fn cells(point: &Point) -> [Cell; 9] {
    let found = &point.found;
    [
        Cell::Number(point.temperature, 2),
        Cell::share(found.win_rate.map(|it| it.mean)),
        Cell::share(found.win_rate.and_then(|it| it.low)),
        Cell::share(found.win_rate.and_then(|it| it.high)),
        Cell::count(found.prompts),
        Cell::count(found.outcomes.won),
        Cell::count(found.outcomes.tied),
        Cell::count(found.outcomes.lost),
        Cell::count(found.unjudged),
    ]
}

/// The win rates as points of a figure.
pub(super) fn marks(figures: &Figures) -> Vec<Mark> {
    let mark = |point: &Point| {
        let found = point.found.win_rate?;
        Some(Mark { at: (point.temperature, found.mean), y: found.ends(), ..Mark::default() })
    };
    figures.points.iter().filter_map(mark).collect()
}

fn remarks(figures: &Figures) -> Vec<String> {
    let mut remarks = vec![format!(
        "{} against {}, judged by {}; 95 % intervals over prompts",
        figures.policy, figures.against, figures.judge
    )];
    if let Some(last) = figures.points.last() {
        remarks.extend(last.position.map(|position| match position.consistent {
            Some(share) => format!(
                "the judge gives the same verdict in both orders for {:.1} % of the pairs",
                100.0 * share
            ),
            None => format!(
                "every pair is judged in one order, which is drawn; the answer that is shown first wins {:.1} %",
                100.0 * position.first_shown_wins
            ),
        }));
        remarks.extend(last.requests.map(|requests| {
            format!("{requests} requests in the transcript; cost {:.4}", last.cost.unwrap_or(0.0))
        }));
    }
    if figures.points.iter().any(|point| point.found.unjudged > 0) {
        say(
            "warning: some comparisons have no verdict, because no answer of the judge could be read; they do not count",
        );
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_named_by_all_its_adapters() {
        let name = |paths: &[&str]| named(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!((name(&[]), name(&["runs/a"])), ("base".to_string(), "runs/a".to_string()));
        assert_eq!(name(&["runs/a", "runs/b"]), "runs/a + runs/b");
    }
}
