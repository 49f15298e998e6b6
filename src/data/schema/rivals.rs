//! Columns that could be read in place of those that are, and say something else. They are refused: which of them is
//! meant, only the user knows.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::example::Kind;
use super::super::fields::{Fields, given, shortened};
use super::super::messages::Message;
use super::draft::Draft;
use super::judgements::judgement;
use super::lost::{is_missing, texts};
use super::name::Schema;

/// Names of the system prompt.
const SYSTEM: &str = "system|system_prompt";
/// Names of the judgement of one answer.
const LABELS: &str = "label|kto_tag";
/// Names of a conversation.
const CONVERSATIONS: &str = "conversations|messages";

/// Refuses two columns of which one would be read, because they mean the same, and that differ. `needs` are the columns of
/// the schema.
pub(super) fn refuse_alternatives(
    fields: &Fields,
    needs: &[&'static str],
    (schema, kind): (Schema, Kind),
) -> Result<(), String> {
    let more = [
        (SYSTEM, true),
        (LABELS, matches!(kind, Kind::Judged { .. })),
        (CONVERSATIONS, schema == Schema::Sharegpt),
    ];
    let more = more.into_iter().filter_map(|(names, applies)| applies.then_some(names));
    for names in needs.iter().copied().chain(more) {
        let said = |name| given(fields, name).filter(|value| !is_missing(name, value));
        let mut found = names.split('|').filter_map(|name| Some((name, said(name)?)));
        let Some((read, value)) = found.next() else { continue };
        if let Some((other, unread)) = found.find(|(_, other)| differ(names, value, other)) {
            return Err(format!(
                "`{read}` ({}) and `{other}` ({}) mean the same and differ; keep one of them (data.columns: {{{other}: null}})",
                shortened(&value.to_string()),
                shortened(&unread.to_string())
            ));
        }
    }
    Ok(())
}

/// Whether the values of two columns of the same meaning contradict each other.
fn differ(names: &str, read: &Json, other: &Json) -> bool {
    if names == LABELS {
        let (read, other) = (judgement("label", Some(read)), judgement("label", Some(other)));
        return matches!((read, other), (Ok(read), Ok(other)) if read != other);
    }
    match (read, other) {
        (Json::String(read), Json::String(other)) => {
            let (read, other) = (read.trim(), other.trim());
            !read.contains(other) && !other.contains(read)
        }
        // The system prompt may stand before the others.
        (Json::Array(_), Json::Array(_)) if names == CONVERSATIONS => !texts(read).ends_with(&texts(other)),
        // Lists of scores are compared by the order that they give.
        (Json::Array(list), Json::Array(_)) if !list.iter().all(Json::is_object) => false,
        (Json::Number(read), Json::Number(other)) => read.as_f64() != other.as_f64(),
        // A text, and messages that say it.
        (Json::String(text), Json::Array(list)) | (Json::Array(list), Json::String(text))
            if list.iter().any(Json::is_object) =>
        {
            !list.iter().flat_map(texts).any(|said| said.contains(text.trim()))
        }
        _ => read != other,
    }
}

/// Refuses a pair that was read from other columns, if the row has `chosen` and `rejected` and they say something else.
pub(super) fn refuse_other_pair(
    fields: &Fields,
    needs: &[&str],
    schema: Schema,
    draft: &Draft,
) -> Result<(), String> {
    if needs.contains(&"chosen") || !matches!(draft.kind, Kind::Pair { .. }) {
        return Ok(());
    }
    let own = ["chosen", "rejected"].map(|name| given(fields, name).and_then(said));
    let ([Some(chosen), Some(rejected)], [first, second]) = (own, answers(&draft.content)) else {
        return Ok(());
    };
    if chosen.ends_with(&first) && rejected.ends_with(&second) {
        return Ok(());
    }
    let name = schema.name();
    Err(format!(
        "the row has two pairs: chosen is {:?}, and by the columns of the format {name} the preferred answer is {:?}; leave \
         one of them out (data.columns: {{chosen: null, rejected: null}}, or the columns of {name}), or set data.format to \
         the format that is meant",
        shortened(&chosen),
        shortened(&first)
    ))
}

/// The last text of an answer: a string, a message or a list of messages.
fn said(value: &Json) -> Option<String> {
    let text = match value {
        Json::String(text) => text.trim().to_owned(),
        Json::Array(list) => return list.last().filter(|last| last.is_object()).and_then(said),
        Json::Object(message) => {
            let content = message.get("content").or_else(|| message.get("value"))?;
            texts(content).concat().trim().to_owned()
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// The last texts of the first two answers.
pub(super) fn answers(content: &Content) -> [String; 2] {
    let last = |turns: &Vec<Message>| {
        let content = turns.last().and_then(|last| last.fields().get("content"));
        content.map_or_else(String::new, |content| texts(content).concat().trim().to_owned())
    };
    let of = |index: usize| match content {
        Content::Text { answers, .. } => {
            answers.get(index).map_or_else(String::new, |text| text.trim().into())
        }
        Content::Chat { answers, .. } => answers.get(index).map_or_else(String::new, last),
    };
    [of(0), of(1)]
}

/// Refuses a `label` beside a pair of a schema that has a judgement of its own, and does not read it.
pub(super) fn refuse_label(fields: &Fields, schema: Schema) -> Result<(), String> {
    use Schema::{
        Arena, HelpSteer2, HelpSteer3, PkuSafeRlhf, Shp, StackExchangePaired, SummarizeFeedback, Votes,
    };
    let judges = matches!(
        schema,
        Arena | HelpSteer2 | HelpSteer3 | PkuSafeRlhf | Shp | StackExchangePaired | SummarizeFeedback | Votes
    );
    match given(fields, "label").filter(|label| judges && !is_missing("label", label)) {
        Some(label) => Err(format!(
            "label ({}) is not read: other columns of the format {} say which answer is preferred; keep one judgement \
             (data.columns: {{label: null}})",
            shortened(&label.to_string()),
            schema.name()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_the_same_meaning_are_compared() {
        for (names, read, other, found) in [
            ("a|b", json!("x y"), json!("x"), false),
            ("a|b", json!("x"), json!("y"), true),
            ("a|b", json!(1), json!(1.0), false),
            ("a|b", json!(1), json!(2), true),
            ("a|b", json!([1, 2]), json!([2, 1]), false),
            (LABELS, json!(true), json!(1), false),
            (LABELS, json!(true), json!("False"), true),
            (LABELS, json!(true), json!("a topic"), false),
            (CONVERSATIONS, json!([{"value": "q"}]), json!([{"content": "q"}]), false),
            (CONVERSATIONS, json!([{"value": "q2"}]), json!([{"content": "q"}]), true),
        ] {
            assert_eq!(differ(names, &read, &other), found, "{names}: {read} {other}");
        }
    }
}
