//! `dpo-lora eval frontier`: expected reward against divergence from the reference.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::questions;
use super::results::Results;
use crate::cli::FrontierArgs;
use crate::commands::output::say;
use crate::error::{Error, Result};
use crate::eval::frontier::{self, Point, efficient};
use crate::generate::SamplingConfig;
use crate::model::pass::Pass;
use crate::report::plot::{Mark, Plot, Series};
use crate::report::sheet::{Cell, Sheet};
use crate::reward::{Reward, Sample};
use crate::toolkit::drawn::{Drawer, Drawing, Drawn, Kept, reference_logps};
use crate::toolkit::prompts::Prompt;
use crate::toolkit::{Adapted, Base, OpenOptions, TrainedWith, set_threads};

/// The name of the reference in the table.
const REFERENCE: &str = "reference";

/// All figures.
#[derive(Serialize)]
struct Figures {
    reward: String,
    max_new_tokens: usize,
    points: Vec<Placed>,
}

/// A point, and whether it is on the frontier.
#[derive(Serialize)]
struct Placed {
    #[serde(flatten)]
    point: Point,
    on_frontier: bool,
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
    let mut drawer = Drawer::open(&args.output.join("samples.jsonl"))?;
    let mut points = Vec::new();
    for (i, run) in args.set.runs.iter().enumerate() {
        let adapted = base.with_adapters(&[run], TrainedWith::of(run)?, args.set.force)?;
        let prompts = questions::read(&args.draw, &adapted.tokenizer)?;
        if i == 0 {
            points.push(point(args, (&base, &adapted, Pass::Reference), REFERENCE, &prompts, &mut drawer)?);
        }
        let name = shown(run);
        points.push(point(args, (&base, &adapted, Pass::Policy), &name, &prompts, &mut drawer)?);
    }
    let on = efficient(&points);
    let points =
        points.into_iter().zip(on).map(|(point, on_frontier)| Placed { point, on_frontier }).collect();
    let figures =
        Figures { reward: args.reward.to_string(), max_new_tokens: args.draw.max_new_tokens, points };
    let (sheet, plot) = (sheet(&figures), plot(&figures));
    let remarks = [format!(
        "reward by {}, KL(policy || reference) in nats per completion of at most {} tokens; 95 % intervals over prompts",
        figures.reward, figures.max_new_tokens
    )];
    let results =
        Results { name: "frontier", figures: &figures, sheet: &sheet, plot: &plot, remarks: &remarks };
    results.publish(&args.output, args.results.json)
}

/// A run by its name: `runs/a/adapter` is `runs/a`.
fn shown(run: &Path) -> String {
    let run = if run.ends_with("adapter") { run.parent().unwrap_or(run) } else { run };
    run.display().to_string()
}

/// Draws, scores and places one policy. Divergences are those of plain sampling: temperature 1, all tokens.
fn point(
    args: &FrontierArgs,
    (base, adapted, pass): (&Base, &Adapted, Pass),
    name: &str,
    prompts: &[Prompt],
    drawer: &mut Drawer,
) -> Result<Point> {
    let how = Drawing {
        sampling: SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: args.draw.seed },
        completions: args.draw.samples,
        max_new_tokens: args.draw.max_new_tokens,
    };
    let drawn = drawer.draw(Drawn { adapted, pass, name }, prompts, &how)?;
    let timeout = Duration::from_secs(args.results.reward_timeout);
    let mut reward = base.reward(&adapted.decoder, &args.reward, timeout)?;
    let rewards = rewards(&mut *reward, prompts, &drawn)?;
    let logps = match pass {
        // The same policy: its own log-probs, so that the divergence is exactly 0.
        Pass::Reference => {
            drawn.iter().map(|of_prompt| of_prompt.iter().map(|kept| kept.logp).collect()).collect()
        }
        Pass::Policy => reference_logps(adapted, prompts, &drawn)?,
    };
    let mut rewards = rewards.into_iter();
    let of_prompt = |(drawn, logps): (&Vec<Kept>, &Vec<f64>)| -> Vec<frontier::Drawn> {
        let one = |((kept, ref_logp), reward): ((&Kept, &f64), f64)| frontier::Drawn {
            reward,
            logp: kept.logp,
            ref_logp: *ref_logp,
        };
        drawn.iter().zip(logps).zip(rewards.by_ref()).map(one).collect()
    };
    let samples: Vec<Vec<frontier::Drawn>> = drawn.iter().zip(&logps).map(of_prompt).collect();
    let found = Point::of(name, &samples, args.draw.seed)
        .ok_or_else(|| Error::Data(format!("{name}: there are no samples")))?;
    say(&format!("{name}: reward {:.4}, KL {:.3}", found.reward.mean, found.kl.mean));
    Ok(found)
}

/// The reward of each completion, prompt after prompt.
fn rewards(reward: &mut dyn Reward, prompts: &[Prompt], drawn: &[Vec<Kept>]) -> Result<Vec<f64>> {
    let sample = |(prompt, kept): (&'_ Prompt, &'_ Kept)| (prompt.clone(), kept.clone());
    let owned: Vec<(Prompt, Kept)> = prompts
        .iter()
        .zip(drawn)
        .flat_map(|(prompt, of_prompt)| of_prompt.iter().map(move |kept| (prompt, kept)))
        .map(sample)
        .collect();
    let samples: Vec<Sample> = owned
        .iter()
        .map(|(prompt, kept)| Sample {
            prompt: &prompt.text,
            completion: &kept.text,
            prompt_tokens: &prompt.tokens,
            tokens: &kept.tokens,
        })
        .collect();
    let rewards = reward.rewards(&samples)?;
    if rewards.len() != samples.len() || rewards.iter().any(|reward| !reward.is_finite()) {
        return Err(Error::Data(format!(
            "the reward {} gave {} scores for {} completions, all of which must be finite",
            reward.name(),
            rewards.len(),
            samples.len()
        )));
    }
    Ok(rewards)
}

fn sheet(figures: &Figures) -> Sheet {
    let columns = [
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
    for Placed { point, on_frontier } in &figures.points {
        sheet.push([
            Cell::Text(point.name.clone()),
            Cell::Number(point.reward.mean, 4),
            Cell::Number(point.reward.low, 4),
            Cell::Number(point.reward.high, 4),
            Cell::Number(point.kl.mean, 3),
            Cell::Number(point.kl.low, 3),
            Cell::Number(point.kl.high, 3),
            Cell::Number(point.kl_k3.mean, 3),
            Cell::count(point.samples),
            (if *on_frontier { "yes" } else { "no" }).into(),
        ]);
    }
    sheet
}

fn plot(figures: &Figures) -> Plot {
    let mark = |Placed { point, .. }: &Placed| Mark {
        at: (point.kl.mean, point.reward.mean),
        x: Some((point.kl.low, point.kl.high)),
        y: Some((point.reward.low, point.reward.high)),
        name: Some(point.name.rsplit('/').next().unwrap_or_default().to_string()),
    };
    let marks: Vec<Mark> = figures.points.iter().map(mark).collect();
    let mut line: Vec<Mark> = figures.points.iter().filter(|it| it.on_frontier).map(mark).collect();
    line.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    Plot {
        title: "expected reward against divergence".into(),
        x: "KL(policy || reference), nats per completion".into(),
        y: format!("reward by {}", figures.reward),
        series: vec![
            Series { name: String::new(), marks, line: false, dots: true },
            Series { name: String::new(), marks: line, line: true, dots: false },
        ],
    }
}
