//! `dpo-lora eval frontier`: expected reward against divergence from the reference.

mod best_of;
mod names;
mod show;

use std::time::Duration;

use serde::Serialize;

use self::best_of::BestOf;
use super::questions;
use super::results::Results;
use super::scored::Scorer;
use crate::cli::FrontierArgs;
use crate::commands::output::{print, say};
use crate::error::{Error, Result};
use crate::eval::dominance::{self, Comparison};
use crate::eval::frontier::{self, PerPrompt, Point, efficient};
use crate::files;
use crate::generate::SamplingConfig;
use crate::model::pass::Pass;
use crate::toolkit::drawn::{Drawer, Drawing, Drawn, Kept};
use crate::toolkit::prompts::Prompt;
use crate::toolkit::{Adapted, Base, OpenOptions, TrainedWith, reward_identity, set_threads};

/// The name of the reference in the table.
const REFERENCE: &str = "reference";

/// All figures.
#[derive(Serialize)]
struct Figures {
    reward: String,
    max_new_tokens: usize,
    points: Vec<Placed>,
    /// Every two series, the one with the greater frontier first where that is known.
    compared: Vec<Compared>,
}

/// A point, and whether it is on the frontier.
#[derive(Serialize)]
struct Placed {
    #[serde(flatten)]
    point: Point,
    on_frontier: bool,
    /// Of best-of-N: log N − (N−1)/N.
    kl_bound: Option<f64>,
}

/// The frontiers of two series.
#[derive(Serialize)]
struct Compared {
    first: String,
    second: String,
    #[serde(flatten)]
    found: Comparison,
}

/// A policy that was measured.
struct Measured {
    point: Point,
    means: PerPrompt,
    kl_bound: Option<f64>,
}

pub(super) fn run(args: &FrontierArgs) -> Result<()> {
    let runtime = args.set.runtime;
    set_threads(runtime.threads)?;
    let options = OpenOptions {
        dtype: runtime.dtype,
        device: runtime.device,
        load_in_4bit: runtime.load_in_4bit,
        force: args.set.force,
    };
    let base = Base::open_with(&args.set.base, &options)?;
    let mut measuring = Measuring::open(args, &base)?;
    let names = names::of(&args.set.runs);
    let mut found = Vec::new();
    for (run, (series, name)) in args.set.runs.iter().zip(&names) {
        let adapted = base.with_adapters(&[run], TrainedWith::of(run)?, args.set.force)?;
        let prompts = questions::read(&args.draw, &adapted.tokenizer)?;
        if found.is_empty() {
            found.push(measuring.policy((&adapted, Pass::Reference), REFERENCE, "", &prompts)?);
            if let Some(best_of) = BestOf::of(args) {
                found.extend(best_of.measure(&mut measuring, &adapted, &prompts)?);
            }
        }
        found.push(measuring.policy((&adapted, Pass::Policy), name, series, &prompts)?);
    }
    publish(args, found)
}

/// Compares the policies and writes what was found.
fn publish(args: &FrontierArgs, found: Vec<Measured>) -> Result<()> {
    let compared = compared(&found, args.draw.seed);
    let points: Vec<Point> = found.iter().map(|it| it.point.clone()).collect();
    let on = efficient(&points);
    let points = found.into_iter().zip(on).map(|(it, on_frontier)| Placed {
        point: it.point,
        on_frontier,
        kl_bound: it.kl_bound,
    });
    let figures = Figures {
        reward: args.reward.to_string(),
        max_new_tokens: args.draw.max_new_tokens,
        points: points.collect(),
        compared,
    };
    let (sheet, plot, remarks) =
        (show::sheet(&figures), show::plot(&figures, args.figure_kl), show::remarks(&figures));
    if !figures.compared.is_empty() {
        let table = show::comparisons(&figures.compared);
        files::write_bytes(&args.output.join("compared.csv"), table.csv()?.as_bytes())?;
        if !args.results.json {
            print(format!("{}\n", table.text()).as_bytes())?;
        }
    }
    let results =
        Results { name: "frontier", figures: &figures, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.results.json)
}

/// The frontiers of every two series.
fn compared(found: &[Measured], seed: u64) -> Vec<Compared> {
    let Some(reference) = found.first() else { return Vec::new() };
    let mut series: Vec<&str> = Vec::new();
    for it in found.iter().filter(|it| !it.point.series.is_empty()) {
        if !series.contains(&it.point.series.as_str()) {
            series.push(&it.point.series);
        }
    }
    let of = |name: &str| -> Vec<&PerPrompt> {
        found.iter().filter(|it| it.point.series == name).map(|it| &it.means).collect()
    };
    let mut all = Vec::new();
    for (i, first) in series.iter().enumerate() {
        for second in &series[i + 1..] {
            let (of_first, of_second) = (of(first), of(second));
            let Some(found) = dominance::compare(&reference.means.rewards, &of_first, &of_second, seed)
            else {
                continue;
            };
            all.push(Compared { first: first.to_string(), second: second.to_string(), found });
        }
    }
    all
}

/// What policies are measured with.
struct Measuring<'a> {
    args: &'a FrontierArgs,
    base: &'a Base,
    drawer: Drawer,
    scorer: Scorer,
}

impl<'a> Measuring<'a> {
    fn open(args: &'a FrontierArgs, base: &'a Base) -> Result<Self> {
        Ok(Self {
            args,
            base,
            drawer: Drawer::open(&args.output.join("samples.jsonl"))?,
            scorer: Scorer::open(&args.output.join("scores.jsonl"))?,
        })
    }

    /// Draws completions. Divergences are those of plain sampling: temperature 1, all tokens.
    fn draw(&mut self, by: Drawn, prompts: &[Prompt], completions: usize) -> Result<Vec<Vec<Kept>>> {
        let seed = self.args.draw.seed;
        let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed };
        let how = Drawing { sampling, completions, max_new_tokens: self.args.draw.max_new_tokens };
        self.drawer.draw(by, prompts, &how)
    }

    /// The rewards of completions.
    fn rewards(
        &mut self,
        (adapted, spec): (&Adapted, &crate::reward::Spec),
        prompts: &[Prompt],
        drawn: &[Vec<Kept>],
    ) -> Result<Vec<Vec<f64>>> {
        let timeout = Duration::from_secs(self.args.results.reward_timeout);
        let mut reward = self.base.reward(&adapted.decoder, spec, timeout)?;
        self.scorer.rewards((&mut *reward, &reward_identity(spec)?), prompts, drawn)
    }

    /// Draws, scores and places one policy.
    fn policy(
        &mut self,
        (adapted, pass): (&Adapted, Pass),
        name: &str,
        series: &str,
        prompts: &[Prompt],
    ) -> Result<Measured> {
        let args = self.args;
        let shown = if series.is_empty() { name.to_string() } else { format!("{series}/{name}") };
        let by = Drawn { adapted, pass, name: &shown };
        let drawn = self.draw(by, prompts, args.draw.samples)?;
        let rewards = self.rewards((adapted, &args.reward), prompts, &drawn)?;
        let logps: Vec<Vec<f64>> = match pass {
            // The same policy: its own log-probs, so that the divergence is exactly 0.
            Pass::Reference => {
                drawn.iter().map(|of_prompt| of_prompt.iter().map(|kept| kept.logp).collect()).collect()
            }
            Pass::Policy => self.scorer.reference(adapted, prompts, &drawn)?,
        };
        let of_prompt = |((drawn, logps), rewards): ((&Vec<Kept>, &Vec<f64>), &Vec<f64>)| {
            let each = drawn.iter().zip(logps).zip(rewards);
            let one = |((kept, ref_logp), reward): ((&Kept, &f64), &f64)| frontier::Drawn {
                reward: *reward,
                logp: kept.logp,
                ref_logp: *ref_logp,
            };
            each.map(one).collect::<Vec<frontier::Drawn>>()
        };
        let samples: Vec<Vec<frontier::Drawn>> =
            drawn.iter().zip(&logps).zip(&rewards).map(of_prompt).collect();
        let point = Point::of(name, &samples, args.draw.seed)
            .ok_or_else(|| Error::Data(format!("{shown}: there are no samples")))?;
        say(&format!("{shown}: reward {:.4}, KL {:.3}", point.reward.mean, point.kl.mean));
        let point = Point { series: series.into(), ..point };
        Ok(Measured { point, means: PerPrompt::of(&samples), kl_bound: None })
    }
}
