//! The votes of a file, and the pairs that they make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::questions::id;
use crate::collect::{Choice, Labelled, Labels, Vote, labelled};
use crate::error::{Error, Result};
use crate::files::{self, Ledger};

/// The ending of the file of votes beside the output.
pub(super) const VOTES: &str = ".votes.jsonl";

/// A vote: a line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    prompt: String,
    answers: [String; 2],
    annotator: String,
    choice: Choice,
    /// Whether the answers were shown in the other order.
    turned: bool,
    /// Whether the prompt was a user's message of the chat template.
    chat: bool,
}

/// All votes.
pub(super) struct Votes {
    ledger: Ledger<Line>,
    lines: Vec<Line>,
}

/// A path with a further ending.
pub(super) fn beside(output: &Path, end: &str) -> PathBuf {
    let mut name = output.as_os_str().to_os_string();
    name.push(end);
    name.into()
}

impl Votes {
    /// Opens the votes beside `output`.
    ///
    /// # Errors
    /// If `output` exists and is not of a collection; or as [`Ledger::open`].
    pub(super) fn open(output: &Path) -> Result<Self> {
        let path = beside(output, VOTES);
        if output.exists() && !path.exists() {
            return Err(Error::Config(format!(
                "{} exists, and there is no {} from which it was collected; name another output",
                output.display(),
                path.display()
            )));
        }
        let (ledger, lines) = Ledger::open(&path)?;
        Ok(Self { ledger, lines })
    }

    /// Adds a vote, which is on the disk when this returns.
    ///
    /// # Errors
    /// As [`Ledger::push`].
    pub(super) fn push(
        &mut self,
        (prompt, answers): (&str, &[String; 2]),
        (annotator, choice): (&str, Choice),
        (turned, chat): (bool, bool),
    ) -> Result<()> {
        let (prompt, annotator) = (prompt.to_string(), annotator.to_string());
        let line = Line { prompt, answers: answers.clone(), annotator, choice, turned, chat };
        self.ledger.push(&line)?;
        self.lines.push(line);
        Ok(())
    }

    /// Whether an annotator has answered a question, or put it aside.
    pub(super) fn has(&self, question: &str, annotator: &str) -> bool {
        self.lines
            .iter()
            .any(|line| line.annotator == annotator && id(&line.prompt, &line.answers) == question)
    }

    /// The mean vote on each question that has one.
    pub(super) fn means(&self) -> BTreeMap<String, f64> {
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in &self.lines {
            if let Some(share) = line.choice.share() {
                let sum = sums.entry(id(&line.prompt, &line.answers)).or_default();
                *sum = (sum.0 + share, sum.1 + 1.0);
            }
        }
        sums.into_iter().map(|(id, (sum, n))| (id, sum / n)).collect()
    }

    /// The number of votes, without those put aside.
    pub(super) fn len(&self) -> usize {
        self.lines.iter().filter(|line| line.choice.share().is_some()).count()
    }

    /// The labels of all questions with votes, and a line of each question.
    pub(super) fn labels(&self) -> (Labels, Vec<&Line>) {
        let (mut questions, mut names) = (BTreeMap::new(), Vec::<String>::new());
        let (mut of_question, mut votes) = (Vec::new(), Vec::new());
        for line in &self.lines {
            let question = *questions.entry(id(&line.prompt, &line.answers)).or_insert_with(|| {
                of_question.push(line);
                of_question.len() - 1
            });
            let annotator = names.iter().position(|name| *name == line.annotator).unwrap_or_else(|| {
                names.push(line.annotator.clone());
                names.len() - 1
            });
            votes.push(Vote { question, annotator, choice: line.choice });
        }
        (labelled(&votes, of_question.len(), &names), of_question)
    }

    /// Writes the pairs.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write(&self, output: &Path) -> Result<Labels> {
        let (labels, lines) = self.labels();
        let pair = |found: &Labelled| pair(lines[found.question], found).to_string() + "\n";
        let text: String = labels.questions.iter().map(pair).collect();
        files::write_bytes(output, text.as_bytes())?;
        Ok(labels)
    }
}

impl Line {
    /// The prompt and the answers.
    pub(super) fn texts(&self) -> (&str, &[String; 2]) {
        (&self.prompt, &self.answers)
    }
}

/// A preference pair: the preferred answer is the chosen one, with a label of ½ or more.
fn pair(line: &Line, found: &Labelled) -> Value {
    let label = found.label();
    let [first, second] = &line.answers;
    let (chosen, rejected, label) =
        if label >= 0.5 { (first, second, label) } else { (second, first, 1.0 - label) };
    let message = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    let mut pair = if line.chat {
        json!({
            "prompt": message("user", &line.prompt),
            "chosen": message("assistant", chosen),
            "rejected": message("assistant", rejected)
        })
    } else {
        json!({"prompt": line.prompt, "chosen": chosen, "rejected": rejected})
    };
    if let (Some(fields), true) = (pair.as_object_mut(), label < 1.0) {
        fields.insert("label".into(), json!(label));
    }
    pair
}
