//! TRL's triples for `TPOTrainer`: pairs with a third answer to imitate, the gold one, in the column `reference`.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::example::GOLD;
use super::super::fields::{Fields, given, shortened};
use super::draft::{Draft, blank, chat, refuse_repeated, text, turns};
use super::encoded::refuse_encoded;
use super::preference;
use super::preference::required;

/// Whether `reference` is an answer of the same form as `chosen`. Columns of this name that are something else (a link, a
/// list of sources) are not read, and an empty one is none.
pub(super) fn has_gold(fields: &Fields) -> bool {
    let is_message = |value: &Json| value.get("role").is_some();
    match (given(fields, "chosen"), given(fields, GOLD)) {
        (Some(Json::String(_)), Some(Json::String(gold))) => {
            !gold.trim().is_empty() && refuse_encoded(GOLD, gold).is_ok()
        }
        (Some(Json::Array(_) | Json::Object(_)), Some(Json::Array(list))) => {
            !list.is_empty() && list.iter().all(is_message)
        }
        (Some(Json::Array(_) | Json::Object(_)), Some(message @ Json::Object(_))) => is_message(message),
        _ => false,
    }
}

/// A triple with `prompt`.
pub(super) fn explicit(fields: &mut Fields) -> Result<Draft, String> {
    // Whole conversations repeat the prompt, of which the question is only a part.
    let is_repeated =
        fields.get("chosen").is_some_and(Json::is_array) && fields.get("prompt").is_some_and(Json::is_string);
    let draft = preference::explicit(fields)?;
    with_gold(draft, fields, is_repeated)
}

/// A triple whose prompt is the common beginning of chosen and rejected, and of the gold answer too (TRL's
/// `_extract_triple_prompt`).
pub(super) fn implicit(fields: &mut Fields) -> Result<Draft, String> {
    let draft = preference::implicit(fields)?;
    with_gold(draft, fields, true)
}

/// Adds the gold answer to a pair. `is_repeated` says that it begins with the prompt.
fn with_gold(mut draft: Draft, fields: &Fields, is_repeated: bool) -> Result<Draft, String> {
    let gold = required(fields, GOLD)?;
    match &mut draft.content {
        Content::Text { prompt, answers } => {
            let whole = text(GOLD, gold)?;
            let answer = if is_repeated {
                whole.strip_prefix(prompt.as_str()).ok_or_else(|| unlike(whole, prompt))?
            } else {
                whole
            };
            if answer.trim().is_empty() {
                return Err(blank(GOLD, answer));
            }
            refuse_repeated(prompt, &[(GOLD.into(), answer)])?;
            answers.push(answer.into());
        }
        Content::Chat { prompt, answers, .. } => {
            let mut turns = turns(GOLD, gold)?;
            if is_repeated {
                if !turns.starts_with(prompt) {
                    let last = prompt.last().map_or("", |message| message.content());
                    return Err(unlike(turns.first().map_or("", |turn| turn.content()), last));
                }
                turns.drain(..prompt.len());
            } else if turns.starts_with(prompt) && !prompt.is_empty() {
                return Err(format!("{GOLD} repeats the messages of prompt; leave prompt out, or them"));
            }
            // The tools are those of the pair.
            match chat(prompt.clone(), vec![(GOLD.into(), turns)], &mut Fields::new())? {
                Content::Chat { answers: gold, .. } => answers.extend(gold),
                Content::Text { .. } => {}
            }
        }
    }
    refuse_rejected(&draft.content)?;
    Ok(draft)
}

/// Refuses a gold answer that is the rejected one.
fn refuse_rejected(content: &Content) -> Result<(), String> {
    let is_rejected = match content {
        Content::Text { answers, .. } => {
            matches!(answers.as_slice(), [_, rejected, gold] if rejected.trim() == gold.trim())
        }
        Content::Chat { answers, .. } => {
            matches!(answers.as_slice(), [_, rejected, gold] if rejected == gold)
        }
    };
    if is_rejected {
        return Err(format!(
            "{GOLD} is the rejected answer, which would be imitated; correct it, or leave it out (data.columns: {{{GOLD}: null}})"
        ));
    }
    Ok(())
}

fn unlike(gold: &str, prompt: &str) -> String {
    format!(
        "{GOLD} ({:?}) does not begin with the prompt that chosen and rejected share, which ends with {:?}; give the record \
         a prompt of its own, or begin all three with it",
        shortened(gold),
        shortened(&prompt.chars().skip(prompt.chars().count().saturating_sub(40)).collect::<String>())
    )
}
