//! `dpo-lora eval win-rate`: one policy's answers against another's, or against the chosen ones.

mod best;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::best::BestOf;
use super::questions;
use super::results::Results;
use crate::cli::{JudgeSpec, WinRateArgs};
use crate::commands::adapted::{adapted, base_on};
use crate::commands::output::say;
use crate::commands::together;
use crate::error::{Error, Result};
use crate::eval::win_rate::{WinRate, by_reward};
use crate::generate::SamplingConfig;
use crate::judge::{Comparison, Judge, JudgeConfig, Position};
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::report::plot::{Mark, Plot, Series};
use crate::report::sheet::{Cell, Sheet};
use crate::reward::{Reward, Sample, checked};
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

fn measure(args: &WinRateArgs, ranks: &Ranks) -> Result<()> {
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
    let name = args.model.adapter.first().map_or("base".into(), |path| path.display().to_string());
    let mut points = Vec::new();
    for temperature in &args.temperature {
        let pass = if policy.policy.is_adapted() { Pass::Policy } else { Pass::Reference };
        let by = Drawn { adapted: &policy, pass, name: &name };
        let ours = answers(args, (by, &prompts), &mut drawer, best_of.as_mut(), *temperature)?;
        let theirs = other.answers(args, &policy, &mut drawer, &prompts, *temperature)?;
        if let Some(judge) = &mut judge {
            points.push(judge.point(*temperature, &prompts, &ours, &theirs, args.draw.seed)?);
        }
    }
    let Some(judge) = judge else { return Ok(()) };
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

/// Who judges.
enum Judging<'a> {
    Endpoint { judge: Box<Judge>, model: String },
    Reward(Box<dyn Reward + 'a>),
}

impl<'a> Judging<'a> {
    fn of(args: &WinRateArgs, base: &Base, policy: &'a Adapted) -> Result<Self> {
        Ok(match &args.judge {
            JudgeSpec::Endpoint(path) => {
                let config = JudgeConfig::from_file(path)?;
                let model = format!("{} at {}", config.model, config.endpoint);
                let judge = Judge::new(config, &args.output.join("transcript.jsonl"))?;
                Self::Endpoint { judge: Box::new(judge), model }
            }
            JudgeSpec::Reward(spec) => {
                let timeout = Duration::from_secs(args.results.reward_timeout);
                Self::Reward(base.reward(&policy.decoder, spec, timeout)?)
            }
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Endpoint { model, .. } => model.clone(),
            Self::Reward(reward) => reward.name(),
        }
    }

    /// Judges the answers of all prompts at one temperature.
    fn point(
        &mut self,
        temperature: f64,
        prompts: &[Prompt],
        ours: &[Vec<Kept>],
        theirs: &[Vec<Kept>],
        seed: u64,
    ) -> Result<Point> {
        let pairs: Vec<Pair> = (0..prompts.len()).flat_map(|i| paired(i, &ours[i], &theirs[i])).collect();
        let equal = pairs.iter().filter(|pair| pair.is_equal()).count();
        let (verdicts, position, spent) = match self {
            Self::Endpoint { judge, .. } => {
                let open: Vec<&Pair> = pairs.iter().filter(|pair| !pair.is_equal()).collect();
                let comparisons: Vec<Comparison> =
                    open.iter().map(|pair| pair.comparison(&prompts[pair.prompt].text)).collect();
                let judged = judge.judge(&comparisons)?;
                let mut verdicts = judged.verdicts.iter().map(|verdict| verdict.as_ref().map(|v| v.first));
                let all = pairs
                    .iter()
                    .map(|pair| if pair.is_equal() { Some(0.5) } else { verdicts.next().flatten() });
                (all.collect::<Vec<_>>(), Some(judged.position), Some((judged.requests, judged.cost)))
            }
            Self::Reward(reward) => (by_rewards(&mut **reward, prompts, &pairs)?, None, None),
        };
        let mut grouped = vec![Vec::new(); prompts.len()];
        pairs.iter().zip(verdicts).for_each(|(pair, verdict)| grouped[pair.prompt].push(verdict));
        Ok(Point {
            temperature,
            found: WinRate::of(&grouped, seed),
            equal,
            position: position.filter(|position| position.pairs > 0),
            requests: spent.map(|(requests, _)| requests),
            cost: spent.map(|(_, cost)| cost),
        })
    }
}

/// A comparison of two answers to a prompt.
struct Pair<'a> {
    prompt: usize,
    ours: &'a Kept,
    theirs: &'a Kept,
}

impl Pair<'_> {
    fn is_equal(&self) -> bool {
        self.ours.text.trim() == self.theirs.text.trim()
    }

    fn comparison(&self, prompt: &str) -> Comparison {
        Comparison { prompt: prompt.into(), answers: [self.ours.text.clone(), self.theirs.text.clone()] }
    }
}

/// Sample `i` of one side meets sample `i` of the other, from the start again where one side has fewer.
fn paired<'a>(prompt: usize, ours: &'a [Kept], theirs: &'a [Kept]) -> Vec<Pair<'a>> {
    let count = if theirs.is_empty() { 0 } else { ours.len().max(theirs.len()) };
    let pair = |(ours, theirs)| Pair { prompt, ours, theirs };
    ours.iter().cycle().zip(theirs.iter().cycle()).take(count).map(pair).collect()
}

/// The verdicts of a reward, which scores all answers together.
fn by_rewards(reward: &mut dyn Reward, prompts: &[Prompt], pairs: &[Pair]) -> Result<Vec<Option<f64>>> {
    let side = |pair: &Pair, kept: &'_ Kept| (pair.prompt, kept.text.clone(), kept.tokens.clone());
    let answers: Vec<(usize, String, Vec<u32>)> =
        pairs.iter().flat_map(|pair| [side(pair, pair.ours), side(pair, pair.theirs)]).collect();
    let samples: Vec<Sample> = answers
        .iter()
        .map(|(i, completion, tokens)| Sample {
            prompt: &prompts[*i].text,
            completion,
            prompt_tokens: &prompts[*i].tokens,
            tokens,
        })
        .collect();
    let rewards = checked(reward, &samples)?;
    Ok(rewards.chunks_exact(2).map(|pair| Some(by_reward(pair[0], pair[1]))).collect())
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
        Cell::share(found.win_rate.map(|it| it.low)),
        Cell::share(found.win_rate.map(|it| it.high)),
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
        Some(Mark {
            at: (point.temperature, found.mean),
            y: Some((found.low, found.high)),
            ..Mark::default()
        })
    };
    figures.points.iter().filter_map(mark).collect()
}

fn remarks(figures: &Figures) -> Vec<String> {
    let mut remarks = vec![format!(
        "{} against {}, judged by {}; 95 % intervals over prompts",
        figures.policy, figures.against, figures.judge
    )];
    if let Some(last) = figures.points.last() {
        remarks.extend(last.position.map(|position| {
            format!(
                "the judge gives the same verdict in both orders for {:.1} % of the pairs",
                100.0 * position.consistent
            )
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
