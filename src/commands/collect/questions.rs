//! The questions to a person: two answers to each prompt, and how far the policy tells them apart.

use crate::collect::Open;
use crate::error::Result;
use crate::generate::SamplingConfig;
use crate::model::pass::Pass;
use crate::objective::{Role, Scored};
use crate::toolkit::Adapted;
use crate::toolkit::drawn::{Drawer, Drawing, Drawn, Kept, reference_logps};
use crate::toolkit::prompts::Prompt;

/// Two answers to a prompt.
pub(super) struct Question {
    /// The hash of prompt and answers, by which votes know it.
    pub(super) id: String,
    pub(super) prompt: String,
    pub(super) answers: [String; 2],
    /// The policy's reward of the first answer over that of the second.
    pub(super) margin: f64,
}

/// Draws two answers to each prompt. Prompts whose answers are equal are left out.
///
/// # Errors
/// As [`Drawer::draw`].
pub(super) fn drawn(
    adapted: &Adapted,
    prompts: &[Prompt],
    (sampling, max_new_tokens): (SamplingConfig, usize),
    drawer: &mut Drawer,
) -> Result<Vec<Question>> {
    let pass = if adapted.policy.is_adapted() { Pass::Policy } else { Pass::Reference };
    let how = Drawing { sampling, completions: 2, max_new_tokens };
    let drawn = drawer.draw(Drawn { adapted, pass, name: "policy" }, prompts, &how)?;
    let margins = match pass {
        Pass::Policy => margins(adapted, prompts, &drawn)?,
        Pass::Reference => vec![0.0; prompts.len()],
    };
    let question = |((prompt, drawn), margin): ((&Prompt, &Vec<Kept>), f64)| {
        let [first, second] = &drawn[..] else { return None };
        let answers = [first.text.clone(), second.text.clone()];
        (answers[0].trim() != answers[1].trim()).then(|| Question {
            id: id(&prompt.text, &answers),
            prompt: prompt.text.clone(),
            answers,
            margin,
        })
    };
    Ok(prompts.iter().zip(&drawn).zip(margins).filter_map(question).collect())
}

/// The name of a question.
pub(super) fn id(prompt: &str, answers: &[String; 2]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in [prompt, &answers[0], &answers[1]] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_string()
}

/// The margin of the implicit rewards of each prompt's two answers.
fn margins(adapted: &Adapted, prompts: &[Prompt], drawn: &[Vec<Kept>]) -> Result<Vec<f64>> {
    let objective = adapted.objective("name --config RUN/config.yaml");
    let reference = reference_logps(adapted, prompts, drawn)?;
    let reward = |(kept, ref_logp): (&Kept, &f64)| {
        let scored = Scored {
            group: 0,
            role: Role::Chosen,
            label: 1.0,
            margin: 0.0,
            logp: kept.logp,
            ref_logp: Some(*ref_logp),
            tokens: kept.tokens.len(),
        };
        // A loss without an implicit reward: the log-ratio itself orders the questions.
        objective.reward(&scored).unwrap_or(kept.logp - ref_logp)
    };
    let margin = |(drawn, reference): (&Vec<Kept>, &Vec<f64>)| {
        let rewards: Vec<f64> = drawn.iter().zip(reference).map(reward).collect();
        match rewards[..] {
            [first, second] => first - second,
            _ => 0.0,
        }
    };
    Ok(drawn.iter().zip(&reference).map(margin).collect())
}

impl Question {
    /// The question as one that may come next.
    pub(super) fn open(&self, question: usize, voted: Option<f64>) -> Open {
        Open { question, margin: self.margin, voted }
    }
}
