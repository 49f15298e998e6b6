//! Every schema with its columns, and the choice of the schema by the columns of a row.

use serde_json::Value as Json;

use super::super::example::Kind;
use super::super::fields::{Fields, first, given, listed, named};
use super::draft::Draft;
use super::judgements::refuse_unread;
use super::lost::refuse_lost;
use super::name::Schema;
use super::{
    answers, contradictions, dialogue, graded, preference, rankings, repeats, rivals, sharegpt, transcripts,
    triples, unread,
};

/// The columns of a schema, and how to read them. A schema may have several.
struct Form {
    schema: Schema,
    /// The columns that a row must have. Names separated by `|` mean the same.
    needs: &'static [&'static str],
    /// Further columns that are read, or that repeat what is read.
    knows: &'static [&'static str],
    /// Whether the values are those of the schema, for schemas with the same columns.
    fits: fn(&Fields) -> bool,
    read: fn(&mut Fields) -> Result<Draft, String>,
}

const fn form(
    schema: Schema,
    needs: &'static [&'static str],
    knows: &'static [&'static str],
    fits: fn(&Fields) -> bool,
    read: fn(&mut Fields) -> Result<Draft, String>,
) -> Form {
    Form { schema, needs, knows, fits, read }
}

/// Any values fit.
fn any(_: &Fields) -> bool {
    true
}

fn no_prompt(fields: &Fields) -> bool {
    given(fields, "prompt").is_none() && dialogue::answers_alone(fields)
}

fn prompt_is_string(fields: &Fields) -> bool {
    matches!(fields.get("prompt"), Some(Json::String(_))) && dialogue::answers_alone(fields)
}

fn lists(fields: &Fields) -> bool {
    ["chosen", "rejected"].iter().all(|name| fields.get(*name).is_some_and(Json::is_array))
}

fn question_beside_lists(fields: &Fields) -> bool {
    matches!(fields.get("prompt"), Some(Json::String(_))) && lists(fields)
}

fn output_is_list(fields: &Fields) -> bool {
    fields.get("output").is_some_and(Json::is_array)
}

fn not_a_pair(fields: &Fields) -> bool {
    given(fields, "chosen").is_none() && given(fields, "rejected").is_none()
}

fn scored_completions(fields: &Fields) -> bool {
    rankings::completions_are_objects(fields) && not_a_pair(fields)
}

fn with_label(fields: &Fields) -> bool {
    fields.contains_key("label") && not_a_pair(fields)
}

fn without_label(fields: &Fields) -> bool {
    !fields.contains_key("label")
}

fn with_scores(fields: &Fields) -> bool {
    first(fields, rankings::SCORES).is_some() && not_a_pair(fields)
}

/// The forms in the order in which they are tried: a form that needs more stands before one that needs less.
#[rustfmt::skip]
static FORMS: &[Form] = {
    use Schema::*;
    &[
        form(OpenAi, &["input", "preferred_output|preferred_completion", "non_preferred_output|non_preferred_completion"], &[], any, sharegpt::openai),
        form(SummarizeFeedback, &["info", "summaries", "choice"], &[], any, transcripts::summarize),
        form(Shp, &["history", "human_ref_A", "human_ref_B", "labels"], &[], any, transcripts::shp),
        form(HelpSteer2, &["prompt", "response_1", "response_2", "preference_strength"], &[], any, graded::helpsteer2),
        form(HelpSteer3, &["context", "response1", "response2", "overall_preference"], &["conversations"], any, graded::helpsteer3),
        form(PkuSafeRlhf, &["prompt", "response_0", "response_1", "better_response_id"], &[], any, graded::pku),
        form(Arena, &["conversation_a", "conversation_b", "winner"], &[], any, graded::arena),
        form(Votes, &["prompt|question|instruction", graded::VOTES[0], graded::VOTES[1], graded::VOTES[2], graded::VOTES[3]], &[], any, graded::votes),
        form(StackExchangePaired, &["question", "response_j", "response_k"], &[], any, transcripts::stack_exchange_paired),
        form(StackExchangePreferences, &["question", "answers"], &[], not_a_pair, rankings::stack_exchange),
        form(Nectar, &["prompt", "answers"], &[], not_a_pair, rankings::nectar),
        form(Ultrafeedback, &["instruction", "completions"], &["system", "system_prompt"], scored_completions, rankings::ultrafeedback),
        form(DistilabelRatings, &["instruction|input|prompt", "generations", "ratings|rating"], &["system", "system_prompt"], not_a_pair, rankings::distilabel),
        form(RankedScores, &["prompt", "completions", rankings::SCORES], &[], with_scores, rankings::scores),
        form(UltrafeedbackArgilla, &["prompt|input|question|instruction", "chosen_response", "rejected_response"], &["system", "system_prompt"], any, dialogue::argilla),
        form(SharegptRanking, &["conversations", "chosen", "rejected"], &["system"], no_prompt, sharegpt::sharegpt_ranking),
        form(Swift, &["messages", "rejected_response"], &["system"], not_a_pair, sharegpt::swift),
        form(Capybara, &["conversation", "chosen", "rejected"], &["prompt", "original_response", "generation_prompt"], lists, preference::capybara),
        form(MessagesRanking, &["messages", "chosen", "rejected"], &["system"], sharegpt::messages_are_the_prompt, sharegpt::messages_ranking),
        form(AlpacaRanking, &["instruction", "chosen", "rejected"], &["input", "history", "system", "system_prompt"], no_prompt, dialogue::alpaca_ranking),
        form(AlpacaRanking, &["instruction", "output"], &["input", "history", "system", "system_prompt"], output_is_list, dialogue::alpaca_outputs),
        form(OrcaDpoPairs, &["question", "chosen", "rejected"], &["system", "system_prompt"], no_prompt, dialogue::orca),
        form(Distilabel, &["input", "chosen", "rejected"], &["system", "system_prompt"], no_prompt, dialogue::distilabel),
        form(SystemPrompt, &["system|system_prompt", "prompt", "chosen", "rejected"], &[], prompt_is_string, dialogue::system_prompt),
        form(HhRlhf, &["chosen", "rejected"], &[], transcripts::is_transcript, transcripts::hh_rlhf),
        form(TriplePreference, &["prompt", "chosen", "rejected", "reference"], &[], triples::has_gold, triples::explicit),
        form(ImplicitPrompt, &["chosen", "rejected", "reference"], &[], triples::has_gold, triples::implicit),
        form(UltrafeedbackBinarized, &["prompt", "chosen", "rejected"], &[], question_beside_lists, preference::explicit),
        form(Preference, &["prompt", "chosen", "rejected"], &[], any, preference::explicit),
        form(ImplicitPrompt, &["chosen", "rejected"], &[], any, preference::implicit),
        form(Sharegpt, &["conversations"], &["system", "kto_tag", "label"], not_a_pair, sharegpt::sharegpt),
        form(Alpaca, &["instruction", "output"], &["input", "history", "system", "system_prompt", "kto_tag", "label"], not_a_pair, dialogue::alpaca),
        form(Ranked, &["prompt", "completions"], &[], any, answers::ranked),
        form(Unpaired, &["prompt", "completion", "label"], &[], with_label, answers::judged),
        form(PromptCompletion, &["prompt", "completion"], &[], without_label, answers::completion),
        form(Messages, &["messages"], &["label"], any, answers::whole_messages),
        form(Text, &["text"], &[], any, answers::whole_text),
    ]
};

impl Form {
    /// Returns the needed columns that the row lacks.
    fn lacks(&self, fields: &Fields) -> Vec<&'static str> {
        self.needs.iter().filter(|names| first(fields, names).is_none()).copied().collect()
    }

    fn knows(&self, name: &str) -> bool {
        self.needs.iter().any(|names| names.split('|').any(|known| known == name))
            || self.knows.contains(&name)
    }

    fn draft(&self, fields: &mut Fields, used: &dyn Fn(&str) -> bool) -> Result<Draft, String> {
        let mut draft = (self.read)(fields)?;
        rivals::refuse_alternatives(fields, self.needs, (self.schema, draft.kind))?;
        if !used("label") {
            rivals::refuse_label(fields, self.schema)?;
        }
        refuse_lost(fields, |name| self.knows(name), self.schema == Schema::ImplicitPrompt, &draft)?;
        let read = (self.schema, draft.kind, draft.content.answers());
        refuse_unread(fields, read, |name| self.knows(name), used)?;
        let is_read = |name: &str| self.knows(name) || used(name);
        if matches!(draft.kind, Kind::Pair { label, .. } if label >= 0.5) {
            let doubt = contradictions::find(fields, self.needs, &draft, is_read);
            draft.doubts.extend(doubt);
        }
        if self.schema != Schema::Text {
            draft.doubts.extend(unread::find(fields, &draft.content, is_read));
        }
        draft.doubts.extend(repeats::find(&draft.content));
        Ok(draft)
    }
}

/// Reads a row by the schema `forced`, or by the first one whose columns it has. Judgements in columns that are `used`
/// otherwise may be unread.
pub(in crate::data) fn read(
    fields: &mut Fields,
    forced: Option<Schema>,
    used: &dyn Fn(&str) -> bool,
) -> Result<(Schema, Draft), String> {
    let form = match forced {
        Some(schema) => {
            forms(schema).find(|form| form.lacks(fields).is_empty()).ok_or_else(|| unfit(schema, fields))?
        }
        None => match FORMS.iter().find(|form| form.lacks(fields).is_empty() && (form.fits)(fields)) {
            Some(form) => form,
            None => return Err(unknown(fields)),
        },
    };
    let draft = form.draft(fields, used)?;
    // Of prompts alone every name counts as used, even the empty one: their answers do not matter.
    if forced.is_none() && !used("") {
        rivals::refuse_other_pair(fields, form.needs, form.schema, &draft)?;
    }
    Ok((form.schema, draft))
}

/// Returns the columns that each form of a schema needs, for documentation. Names separated by `|` mean the same.
pub fn required_columns(schema: Schema) -> impl Iterator<Item = &'static [&'static str]> {
    forms(schema).map(|form| form.needs)
}

fn forms(schema: Schema) -> impl Iterator<Item = &'static Form> {
    FORMS.iter().filter(move |form| form.schema == schema)
}

fn columns(names: &[&str]) -> String {
    names.iter().map(|names| format!("`{}`", names.replace('|', "` or `"))).collect::<Vec<_>>().join(", ")
}

fn unfit(schema: Schema, fields: &Fields) -> String {
    let nearest = forms(schema).min_by_key(|form| form.lacks(fields).len());
    let (needs, lacks) = nearest
        .map_or((String::new(), String::new()), |form| (columns(form.needs), columns(&form.lacks(fields))));
    format!(
        "the format {} needs {needs}; the row lacks {lacks} and has {}; rename columns (data.columns) or leave data.format out",
        schema.name(),
        if fields.is_empty() { "no columns".into() } else { named(fields) }
    )
}

/// Explains why no schema has the columns of the row.
fn unknown(fields: &mut Fields) -> String {
    // A column that only one kind of record has: its reader knows what is missing.
    let attempt = if fields.contains_key("chosen") || fields.contains_key("rejected") {
        Some(if fields.contains_key("prompt") {
            preference::explicit(fields)
        } else {
            preference::implicit(fields)
        })
    } else if fields.contains_key("completions") {
        Some(answers::ranked(fields))
    } else if fields.contains_key("completion") {
        Some(if fields.contains_key("label") { answers::judged(fields) } else { answers::completion(fields) })
    } else if fields.contains_key("messages") {
        Some(answers::whole_messages(fields))
    } else if fields.contains_key("text") {
        Some(answers::whole_text(fields))
    } else {
        None
    };
    if let Some(Err(message)) = attempt {
        return message;
    }
    if let Some(slip) = slip(fields) {
        return slip;
    }
    let missing = match preference::required(fields, "chosen") {
        Err(message) => message,
        Ok(_) => format!("no known format has the columns {}", named(fields)),
    };
    match nearest_form(fields) {
        Some(form) => format!(
            "{missing}. The nearest format is {}, which also needs {}; rename columns (data.columns: {{NEW: OLD}})",
            form.schema.name(),
            columns(&form.lacks(fields))
        ),
        None => missing,
    }
}

/// Finds the form that lacks the smallest part of its columns, if the row has one of them.
fn nearest_form(fields: &Fields) -> Option<&'static Form> {
    let share = |form: &&Form| form.lacks(fields).len() * 1000 / form.needs.len();
    FORMS.iter().filter(|form| form.lacks(fields).len() < form.needs.len()).min_by_key(share)
}

/// Finds a field whose name is almost that of a field of another record kind.
fn slip(fields: &Fields) -> Option<String> {
    let near = |name: &&str, key: &str| strsim::damerau_levenshtein(name, key) == 1;
    fields.keys().find_map(|key| {
        let name =
            ["completion", "completions", "messages", "conversations"].iter().find(|name| near(name, key))?;
        Some(format!("found {}, which is probably meant to be `{name}`: rename it", listed([key.as_str()])))
    })
}
