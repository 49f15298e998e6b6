//! `dpo-lora collect`: preferences from people, two answers side by side.

mod questions;
mod show;
mod votes;

use std::io::BufRead;
use std::time::Instant;

use serde::Serialize;

use self::questions::{Question, drawn};
use self::show::side_by_side;
use self::votes::{VOTES, Votes, beside};
use super::adapted::{adapted, base};
use super::output::{inputs_of, print, print_json, say};
use crate::cli::{CollectArgs, StrategyName};
use crate::collect::{Annotator, Choice, Labels, Open, Strategy, next};
use crate::data::show::harmless;
use crate::error::{Error, Result};
use crate::generate::SamplingConfig;
use crate::random::Stream;
use crate::report::screen;
use crate::toolkit::Adapted;
use crate::toolkit::drawn::Drawer;
use crate::toolkit::prompts;

/// The ending of the file of samples beside the output.
const SAMPLES: &str = ".samples.jsonl";

/// A question about which annotators do not agree.
#[derive(Serialize)]
struct Conflict<'a> {
    prompt: &'a str,
    answers: &'a [String; 2],
    /// Votes for the first, for neither, and for the second.
    votes: [usize; 3],
    /// How far the first is preferred, by each of the two models.
    bradley_terry: f64,
    dawid_skene: f64,
}

/// What was collected.
#[derive(Serialize)]
struct Summary<'a> {
    pairs: usize,
    votes: usize,
    annotators: &'a [Annotator],
    conflicts: Vec<Conflict<'a>>,
}

/// Refuses outputs that are read. What else is there already is told when it is opened.
fn check_outputs(args: &CollectArgs) -> Result<()> {
    let mut inputs = inputs_of(&args.model);
    inputs.add("one of the inputs", &args.prompts);
    ["", VOTES, SAMPLES].iter().try_for_each(|end| inputs.check_file(&beside(&args.output, end)))
}

pub(super) fn run(args: &CollectArgs) -> Result<()> {
    check_outputs(args)?;
    let mut votes = Votes::open(&args.output)?;
    if !args.no_ask {
        let base = base(&args.model)?;
        let adapted = adapted(&base, &args.model)?;
        if args.strategy == StrategyName::Uncertainty && !adapted.policy.is_adapted() {
            return Err(Error::Config(
                "--strategy uncertainty needs the rewards of an adapter; name one with --adapter, or choose random".into(),
            ));
        }
        let questions = questions(args, &adapted)?;
        let chat = args.chat().unwrap_or(adapted.tokenizer.template().is_some());
        ask(args, &questions, chat, &mut votes)?;
    }
    let labels = votes.write(&args.output)?;
    report(args, &votes, &labels)
}

fn questions(args: &CollectArgs, adapted: &Adapted) -> Result<Vec<Question>> {
    let prompts = prompts::of_file(&args.prompts, &adapted.tokenizer, args.chat())?;
    let sampling =
        SamplingConfig { temperature: args.temperature, top_k: None, top_p: args.top_p, seed: args.seed };
    let mut drawer = Drawer::open(&beside(&args.output, SAMPLES))?;
    let questions = drawn(adapted, &prompts, (sampling, args.max_new_tokens), &mut drawer)?;
    match prompts.len() - questions.len() {
        _ if questions.is_empty() => Err(Error::Data(
            "both answers to every prompt are the same, so that there is nothing to choose; raise --temperature".into(),
        )),
        0 => Ok(questions),
        equal => {
            say(&format!("{equal} prompt(s) are left out: both answers are the same"));
            Ok(questions)
        }
    }
}

fn strategy(name: StrategyName) -> Strategy {
    match name {
        StrategyName::Uncertainty => Strategy::Uncertainty,
        StrategyName::Disagreement => Strategy::Disagreement,
        StrategyName::Random => Strategy::Random,
    }
}

/// Asks until the questions, the votes or the person's patience end.
fn ask(args: &CollectArgs, questions: &[Question], chat: bool, votes: &mut Votes) -> Result<()> {
    let (mut input, began, mut cast) = (std::io::stdin().lock(), Instant::now(), 0);
    let most = args.votes.unwrap_or(usize::MAX);
    // Each annotator has sides of their own: if all take the left answer, their votes must not agree.
    let order = Stream::new(args.seed, "sides").named(&args.annotator);
    let mut asked = 0u32;
    while cast < most {
        let means = votes.means();
        let open: Vec<Open> = questions
            .iter()
            .enumerate()
            .filter(|(_, question)| !votes.has(&question.id, &args.annotator))
            .map(|(i, question)| question.open(i, means.get(&question.id).copied()))
            .collect();
        let Some(chosen) = next(strategy(args.strategy), &open, args.seed) else {
            say("every question is answered");
            return Ok(());
        };
        let question = &questions[chosen];
        // Who always takes the left answer must not always take the same sample.
        let turned = order.word(chosen as u64) & 1 == 1;
        let [first, second] = &question.answers;
        let (left, right) = if turned { (second, first) } else { (first, second) };
        let left_to_ask = open.len().min(most - cast);
        let time = (asked > 0).then(|| began.elapsed().as_secs_f64() / f64::from(asked) * left_to_ask as f64);
        let time = time.map_or(String::new(), |left| format!(", about {:.0} min left", (left / 60.0).ceil()));
        say(&format!("\n{left_to_ask} to go{time}\n\n> {}\n", harmless(&question.prompt)));
        say(&side_by_side(left, right, screen::columns()));
        let Some(choice) = answer(&mut input)? else { return Ok(()) };
        let choice = if turned { choice.turned() } else { choice };
        let texts = (question.prompt.as_str(), &question.answers);
        votes.push(texts, (&args.annotator, choice), (turned, chat))?;
        // The pairs are up to date whenever the program is stopped.
        votes.write(&args.output)?;
        asked += 1;
        cast += usize::from(choice != Choice::Skip);
    }
    Ok(())
}

/// Reads a vote; `None` at the end of the input, or for `q`.
fn answer(input: &mut impl BufRead) -> Result<Option<Choice>> {
    loop {
        say("1 or 2 is better, = equally good, s skip, q stop");
        let mut line = String::new();
        let read = input.read_line(&mut line).map_err(Error::read("standard input"))?;
        if read == 0 {
            return Ok(None);
        }
        match line.trim() {
            "1" => return Ok(Some(Choice::First)),
            "2" => return Ok(Some(Choice::Second)),
            "=" => return Ok(Some(Choice::Equal)),
            "s" | "S" => return Ok(Some(Choice::Skip)),
            "q" | "Q" => return Ok(None),
            other => say(&format!("`{}` is not one of the choices", other.escape_debug())),
        }
    }
}

fn report(args: &CollectArgs, votes: &Votes, labels: &Labels) -> Result<()> {
    let (_, lines) = votes.labels();
    let conflict = |found: &crate::collect::Labelled| {
        let (prompt, answers) = lines[found.question].texts();
        Conflict {
            prompt,
            answers,
            votes: found.votes,
            bradley_terry: found.bradley_terry,
            dawid_skene: found.dawid_skene,
        }
    };
    let conflicts: Vec<Conflict> =
        labels.questions.iter().filter(|it| it.in_conflict).map(conflict).collect();
    let annotators = &labels.annotators[..];
    let summary = Summary { pairs: labels.questions.len(), votes: votes.len(), annotators, conflicts };
    if args.json {
        return print_json(&summary);
    }
    let mut text = format!("{}: {} pairs of {} votes\n", args.output.display(), summary.pairs, summary.votes);
    for Annotator { name, votes, reliability } in annotators {
        text += &format!(
            "annotator {name}: {votes} votes, prefers the better answer {:.0} % of the time\n",
            100.0 * reliability
        );
    }
    for conflict in &summary.conflicts {
        let [first, equal, second] = conflict.votes;
        text += &format!(
            "in conflict: {first} for 1, {equal} equal, {second} for 2; label {:.2} (Bradley-Terry), {:.2} (Dawid-Skene)\n  > \
             {}\n  1: {}\n  2: {}\n",
            conflict.bradley_terry,
            conflict.dawid_skene,
            conflict.prompt.escape_debug(),
            conflict.answers[0].escape_debug(),
            conflict.answers[1].escape_debug()
        );
    }
    print(text.as_bytes())
}
