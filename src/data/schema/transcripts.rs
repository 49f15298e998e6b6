//! Texts of two speakers, "Human:" and "Assistant:", and other prompts that are made of several columns. The first two
//! are those of the DPO paper's code (eric-mitchell/direct-preference-optimization, `preference_datasets.py`).

use serde_json::Value as Json;

use super::super::fields::{Fields, described, given, shortened};
use super::draft::{Draft, column, filled, text, text_column, text_pair};
use super::preference::label;

/// What precedes each answer.
const ASSISTANT: &str = "\n\nAssistant:";
/// What precedes each question.
const HUMAN: &str = "\n\nHuman:";

/// Returns a question in the form of the paper's code.
pub(super) fn human(question: &str) -> String {
    format!("{HUMAN} {question}{ASSISTANT}")
}

/// Whether `chosen` or `rejected` is a transcript.
pub(super) fn is_transcript(fields: &Fields) -> bool {
    let starts = |name: &str| matches!(fields.get(name), Some(Json::String(text)) if text.starts_with(HUMAN));
    given(fields, "prompt").is_none() && (starts("chosen") || starts("rejected"))
}

/// hh-rlhf: both texts are split behind their last "Assistant:". The prompt ends with it.
pub(super) fn hh_rlhf(fields: &mut Fields) -> Result<Draft, String> {
    let label = label(fields)?;
    let (prompt, chosen) = split(fields, "chosen")?;
    let (other, rejected) = split(fields, "rejected")?;
    if prompt != other {
        return Err(format!(
            "the prompts of chosen and rejected differ: before their last \"Assistant:\" they end with {:?} and {:?}; remove \
             the pair, or give prompt, chosen and rejected in columns of their own",
            ending(prompt),
            ending(other)
        ));
    }
    let answers = [("chosen".into(), chosen.into()), ("rejected".into(), rejected.into())];
    Ok(Draft::pair(label, text_pair(prompt.into(), answers)?))
}

fn split<'a>(fields: &'a Fields, name: &str) -> Result<(&'a str, &'a str), String> {
    let text = text_column(fields, name)?;
    if !text.starts_with(HUMAN) {
        return Err(format!(
            "{name} begins with {:?}; a transcript of hh-rlhf begins with {HUMAN:?}",
            shortened(text)
        ));
    }
    match text.rfind(ASSISTANT) {
        Some(at) => Ok(text.split_at(at + ASSISTANT.len())),
        None => Err(format!("{name} has no {ASSISTANT:?}; the answer begins behind the last one")),
    }
}

/// Returns the last 40 characters before the mark of the answer.
fn ending(prompt: &str) -> &str {
    let prompt = prompt.strip_suffix(ASSISTANT).unwrap_or(prompt);
    match prompt.char_indices().rev().nth(39) {
        Some((byte, _)) => &prompt[byte..],
        None => prompt,
    }
}

/// SHP: `labels` is 1 if A is preferred and 0 if B is.
pub(super) fn shp(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = human(text_column(fields, "history")?);
    let answer = |name: &str| Ok::<_, String>((name.to_string(), format!(" {}", text_column(fields, name)?)));
    let (a, b) = (answer("human_ref_A")?, answer("human_ref_B")?);
    let answers = if choice(fields, "labels")? == 1 { [a, b] } else { [b, a] };
    Ok(Draft::pair(None, text_pair(prompt, answers)?))
}

/// Reads a column that is 0 or 1.
pub(super) fn choice(fields: &Fields, name: &str) -> Result<u8, String> {
    let value = column(fields, name)?;
    match value.as_f64() {
        Some(0.0) => Ok(0),
        Some(1.0) => Ok(1),
        _ => Err(format!("{name} must be 0 or 1, found {}", described(value))),
    }
}

/// stack-exchange-paired: `response_j` is preferred. The texts around the question are those of TRL's StackLLaMA example.
pub(super) fn stack_exchange_paired(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = format!("Question: {}\n\nAnswer: ", text_column(fields, "question")?);
    let answer = |name: &str| Ok::<_, String>((name.to_string(), text_column(fields, name)?.to_string()));
    Ok(Draft::pair(None, text_pair(prompt, [answer("response_j")?, answer("response_k")?])?))
}

/// summarize_from_feedback: a post of Reddit or an article, two summaries, and the index of the better one.
pub(super) fn summarize(fields: &mut Fields) -> Result<Draft, String> {
    let info = column(fields, "info")?;
    let Json::Object(info) = info else {
        return Err(format!("info must be an object, found {}", described(info)));
    };
    let prompt = match (given(info, "post"), given(info, "article")) {
        (Some(post), _) => {
            let part =
                |name: &str| given(info, name).map_or(Ok(""), |value| text(&format!("info.{name}"), value));
            let post = filled("info.post", post)?;
            format!(
                "SUBREDDIT: r/{}\n\nTITLE: {}\n\nPOST: {post}\n\nTL;DR:",
                part("subreddit")?,
                part("title")?
            )
        }
        (None, Some(article)) => format!("Article: {}\n\nTL;DR:", filled("info.article", article)?),
        (None, None) => return Err("info has neither `post` nor `article`; one of them is the prompt".into()),
    };
    let summaries = column(fields, "summaries")?;
    let Some([first, second]) = summaries.as_array().map(Vec::as_slice) else {
        return Err(format!("summaries must be a list of two, found {}", described(summaries)));
    };
    let summary = |index: usize, summary: &Json| {
        let name = format!("summaries[{index}].text");
        let text = match summary.get("text") {
            Some(value) => filled(&name, value)?,
            None => return Err(format!("summaries[{index}] has no `text`")),
        };
        // The prompt ends with a colon, and not all summaries begin with a space.
        Ok((name, if text.starts_with(char::is_whitespace) { text.to_string() } else { format!(" {text}") }))
    };
    let (first, second) = (summary(0, first)?, summary(1, second)?);
    let answers = if choice(fields, "choice")? == 0 { [first, second] } else { [second, first] };
    Ok(Draft::pair(None, text_pair(prompt, answers)?))
}
