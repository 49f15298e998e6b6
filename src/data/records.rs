//! Preference records (strings or conversations) with a specific error for every way in which one can be invalid.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value as Json;

use super::cells;
use super::columns::Columns;
use super::config::{DataConfig, MIXED};
pub use super::content::Content;
use super::doubt::{About, Doubt};
use super::example::{GOLD, Kind, Origin};
use super::fields::{Fields, described};
use super::filter::Filter;
use super::schema::{self, Draft, Schema};
use super::source::{Input, Row};
use super::sources::DataSource;
use super::wanted::Wanted;
use crate::error::{Error, Result};

/// A prompt, its answers and their kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The origin of the record.
    pub origin: Origin,
    /// The original data set, if the record names it in `source`; metrics can be split by it.
    pub source: Option<Arc<str>>,
    /// The schema by which the row was read.
    pub schema: Schema,
    /// Whether the row itself says how certain the preference is (a label, votes, a graded preference). Otherwise
    /// [`Kind::label`] is an assumption.
    pub labelled: bool,
    /// The kind of the record: a pair, a ranked list or a single answer.
    pub kind: Kind,
    /// The prompt and the answers.
    pub content: Content,
    /// What is doubtful about it, which the findings count.
    pub doubts: Vec<Doubt>,
}

/// Reads rows into records: filter, new names of columns, schema. The rows of a file have one schema, except for those
/// that [`Schema::mixes`]: a row that lacks a column could otherwise be read by another schema, with another meaning.
#[derive(Debug, Default)]
pub struct RecordReader {
    /// `None`: the schema that the columns tell.
    format: Option<Schema>,
    /// Whether the rows of a file may have different schemas.
    mixed: bool,
    columns: Columns,
    filter: Option<Filter>,
    /// What is taken of the rows.
    wanted: Wanted,
    /// The schema of each file and the line of its first row.
    seen: Mutex<BTreeMap<Arc<str>, (Schema, usize)>>,
}

impl RecordReader {
    /// Creates the reader of `data.format`, `data.columns` and `data.filter`.
    ///
    /// # Errors
    /// Returns [`Error::Config`] if the format does not exist or the filter is malformed.
    pub fn new(config: &DataConfig) -> Result<Self> {
        Self::with(config.format.as_deref(), &config.columns, config.filter.as_deref())
    }

    /// Creates the reader of one source: its own settings precede those of `config`.
    ///
    /// # Errors
    /// Same as [`RecordReader::new`].
    pub fn of(config: &DataConfig, source: &DataSource) -> Result<Self> {
        let columns = if source.columns().is_empty() { &config.columns } else { source.columns() };
        Self::with(
            source.format().or(config.format.as_deref()),
            columns,
            source.filter().or(config.filter.as_deref()),
        )
    }

    fn with(format: Option<&str>, columns: &Columns, filter: Option<&str>) -> Result<Self> {
        let mixed = format == Some(MIXED);
        let format = format.filter(|_| !mixed).map(Schema::parse).transpose();
        let filter = filter.map(Filter::parse).transpose();
        Ok(Self {
            format: format.map_err(|error| Error::Config(format!("data.format: {error}")))?,
            mixed,
            columns: columns.clone(),
            filter: filter.map_err(|error| Error::Config(format!("data.filter {error}")))?,
            wanted: Wanted::Whole,
            seen: Mutex::default(),
        })
    }

    /// Returns the reader of records that a run takes `wanted` of.
    #[must_use]
    pub fn wanting(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    /// Reads a row. Returns `None` if the filter leaves it out. Columns that no schema reads are ignored, as TRL ignores
    /// them, unless they look like a part of the conversation.
    ///
    /// # Errors
    /// Returns [`Error::Record`] with field, value and remedy.
    pub fn read(&self, row: Row) -> Result<Option<Record>> {
        let Row { origin, value } = row;
        let fields = match value {
            Json::Object(fields) => fields,
            other => {
                return Err(origin.error(format!(
                    "a record must be a JSON object with `chosen` and `rejected` (or `completion`, `completions`, \
                     `messages`, `text`), found {}",
                    described(&other)
                )));
            }
        };
        let found = self.parse(fields, cells::are_of(&origin)).and_then(small);
        match found.and_then(|found| self.same_schema(&origin, found)) {
            Ok(Some((source, schema, Draft { kind, labelled, content, mut doubts }))) => {
                let is_known = doubts.iter().any(|doubt| doubt.about == About::Cell);
                doubts.extend(cells::missing(&content).filter(|_| !is_known));
                Ok(Some(Record { origin, source, schema, labelled, kind, content, doubts }))
            }
            Ok(None) => Ok(None),
            Err(message) => Err(origin.error(message)),
        }
    }

    /// Reads the columns of a row; `cells` says that they have no types.
    fn parse(&self, mut fields: Fields, cells: bool) -> Result<Option<Parsed>, String> {
        if let Some(filter) = &self.filter {
            let keeps = if cells {
                filter.keeps(&cells::compared(&fields, filter))?
            } else {
                filter.keeps(&fields)?
            };
            if !keeps {
                return Ok(None);
            }
        }
        self.columns.rename(&mut fields)?;
        if cells {
            cells::read(&mut fields);
        }
        let input = cells::missing_input(&fields);
        let gold = fields.get(GOLD).filter(|_| self.wanted == Wanted::Triples).cloned();
        let source = fields.get("source").and_then(Json::as_str).map(Arc::from);
        let with_margins = matches!(self.wanted, Wanted::Rewarded | Wanted::Everything);
        let margin = with_margins.then(|| fields.remove("margin")).flatten();
        // Rows that are written again keep a margin only if it is one.
        let margin = margin.filter(|margin| self.wanted != Wanted::Everything || margin_of(margin).is_some());
        // Where nothing imitates it, a column of this name that is no gold answer must not decide about the pair.
        let is_free = self.wanted != Wanted::Triples && self.format.is_none() && fields.contains_key(GOLD);
        let plain = is_free.then(|| {
            let mut plain = fields.clone();
            plain.remove(GOLD);
            plain
        });
        let (schema, mut draft) = match self.wanted {
            Wanted::Prompts => schema::prompt(fields, self.format)?,
            Wanted::Whole | Wanted::Triples | Wanted::Everything | Wanted::Preferred | Wanted::Rewarded => {
                let filtered = |name: &str| self.filter.as_ref().is_some_and(|filter| filter.reads(name));
                match (schema::read(&mut fields, self.format, &filtered), plain) {
                    (Err(_), Some(mut plain)) => schema::read(&mut plain, self.format, &filtered)?,
                    (read, _) => read?,
                }
            }
        };
        if let Some(value) = margin.filter(|value| !value.is_null()) {
            draft.kind = with_margin(draft.kind, &value, self.wanted == Wanted::Everything)?;
        }
        if self.wanted == Wanted::Triples {
            require_gold(schema, &draft, gold.as_ref())?;
        }
        let is_joined = matches!(schema, Schema::Alpaca | Schema::AlpacaRanking);
        draft.doubts.extend(input.filter(|_| is_joined));
        Ok(Some((source, schema, draft)))
    }

    /// Refuses a row whose schema is not that of the rows before it in its file.
    fn same_schema(&self, origin: &Origin, found: Option<Parsed>) -> Result<Option<Parsed>, String> {
        let Some((_, schema, draft)) = &found else { return Ok(None) };
        if self.mixed || self.format.is_some() {
            return Ok(found);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, line) = *seen.entry(origin.file.clone()).or_insert((*schema, origin.line));
        // Where nothing imitates it, a gold answer that some rows lack makes no other format of them.
        let is_triple = first == Schema::TriplePreference || *schema == Schema::TriplePreference;
        let is_pair = matches!(draft.kind, Kind::Pair { .. }) && self.wanted != Wanted::Triples;
        if first == *schema || first.mixes() && schema.mixes() || is_triple && is_pair {
            return Ok(found);
        }
        Err(format!(
            "this row has the format {}, but line {line} has {}; a file has one format: make the columns the same, or set \
             data.format to one of them (to mixed if both are right)",
            schema.name(),
            first.name()
        ))
    }
}

type Parsed = (Option<Arc<str>>, Schema, Draft);

/// Refuses a pair without the gold answer that the loss imitates. `found` is what the row has in its column.
fn require_gold(schema: Schema, draft: &Draft, found: Option<&Json>) -> Result<(), String> {
    if !matches!(draft.kind, Kind::Pair { .. }) || draft.content.answers() > 2 {
        return Ok(());
    }
    const REMEDY: &str = "name its column (data.columns: {reference: NAME}), or set objective.tpo_alpha to 0, which needs none";
    Err(match found {
        None | Some(Json::Null) => {
            format!("missing `{GOLD}`, the gold answer that objective.loss_type imitates; {REMEDY}")
        }
        Some(value) => {
            let name = schema.name();
            let read = if matches!(schema, Schema::Preference | Schema::ImplicitPrompt) {
                String::new()
            } else {
                format!("; the format {name} has none, set data.format to triple-preference")
            };
            format!(
                "{GOLD} must be an answer of the same form as chosen (a string, or a list of messages that ends with the \
                 assistant's), found {}{read}; {REMEDY}",
                described(value)
            )
        }
    })
}

/// A cell as a margin, if it is one.
fn margin_of(value: &Json) -> Option<f32> {
    value.as_f64().map(|margin| margin as f32).filter(|margin| margin.is_finite())
}

/// Returns a pair with the margin of its row, which TRL's `RewardTrainer` subtracts from the difference of the rewards.
/// `beside_label` allows a soft label beside it, which no run takes.
fn with_margin(kind: Kind, value: &Json, beside_label: bool) -> Result<Kind, String> {
    let margin = margin_of(value).ok_or_else(|| {
        format!(
            "margin must be a number, the least difference of the two rewards, found {}; if the column means something else, \
             leave it out (data.columns: {{margin: null}})",
            described(value)
        )
    })?;
    match kind {
        Kind::Pair { label, .. } if label == 1.0 || beside_label => Ok(Kind::Pair { label, margin }),
        Kind::Pair { label, .. } if margin == 0.0 => Ok(Kind::pair(label)),
        Kind::Pair { label, .. } => Err(format!(
            "label is {label} and margin {margin}; a pair has one of them: leave the other out (data.columns: {{margin: null}})"
        )),
        other => Ok(other),
    }
}

/// The longest record, in bytes of its texts: some four million tokens.
const MOST_TEXT: usize = 16 << 20;

/// Refuses a record that would take gigabytes to tokenize.
fn small(found: Option<Parsed>) -> Result<Option<Parsed>, String> {
    let bytes = found.as_ref().map_or(0, |(_, _, draft)| draft.content.bytes());
    if bytes <= MOST_TEXT {
        return Ok(found);
    }
    Err(format!(
        "the record holds {} MiB of text; at most {} MiB are read, which no model sees at once. Shorten it, or divide it",
        bytes >> 20,
        MOST_TEXT >> 20
    ))
}

/// Returns the records of `inputs` in order. An error concerns a single record; the following ones are still returned,
/// so that a checker can list all errors.
pub fn read(inputs: &[Input]) -> impl Iterator<Item = Result<Record>> {
    let reader = Arc::new(RecordReader::default());
    inputs.iter().flat_map(move |input| -> Box<dyn Iterator<Item = Result<Record>>> {
        let reader = Arc::clone(&reader);
        match input.rows() {
            // Without a filter no row is left out.
            Ok(rows) => {
                Box::new(rows.filter_map(move |row| row.and_then(|row| reader.read(row)).transpose()))
            }
            Err(e) => Box::new(std::iter::once(Err(e))),
        }
    })
}

/// Reads all records of `inputs`.
///
/// # Errors
/// Fails at the first invalid record, or if there are no records.
pub fn load(inputs: &[Input]) -> Result<Vec<Record>> {
    let records = read(inputs).collect::<Result<Vec<_>>>()?;
    if records.is_empty() {
        return Err(Error::Data(format!("no records in {} input(s): every file is empty", inputs.len())));
    }
    Ok(records)
}

impl Record {
    /// Leaves out the gold answer of a pair where none is wanted, before the answers are tokenized: the tokens of the others
    /// do not depend on it. Returns the doubt about it.
    pub(super) fn trim(&mut self, wanted: Wanted) -> Option<Doubt> {
        if wanted.takes_gold() || !matches!(self.kind, Kind::Pair { .. }) || self.content.answers() < 3 {
            return None;
        }
        self.content.keep_answers(2);
        Some(Doubt::new(About::Gold, format!("`{GOLD}`")))
    }

    /// Parses a row with the default settings of [`RecordReader`].
    ///
    /// # Errors
    /// Returns [`Error::Record`] with field, value and remedy.
    pub fn parse(row: Row) -> Result<Self> {
        let origin = row.origin.clone();
        RecordReader::default().read(row)?.ok_or_else(|| origin.error("the row was left out"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &'static str) -> Result<Record> {
        // The record is on line 2, so that a wrong line number is detected.
        let text = format!("\n{json}\n");
        read(&[Input::text("t.jsonl", text)]).next().unwrap()
    }

    fn text(json: &'static str) -> (String, String, String) {
        match parse(json).unwrap().content {
            Content::Text { prompt, answers } => (prompt, answers[0].clone(), answers[1].clone()),
            Content::Chat { .. } => panic!("strings"),
        }
    }

    fn chat(json: &'static str) -> [Vec<String>; 3] {
        match parse(json).unwrap().content {
            Content::Chat { prompt, answers, .. } => [&prompt, &answers[0], &answers[1]]
                .map(|messages| messages.iter().map(|m| format!("{}:{}", m.role(), m.content())).collect()),
            Content::Text { .. } => panic!("conversations"),
        }
    }

    #[track_caller]
    fn refused(json: &'static str, parts: &[&str]) {
        let message = parse(json).unwrap_err().to_string();
        assert!(message.starts_with("t.jsonl:2: "), "{message}");
        for part in parts {
            assert!(message.contains(part), "expected {part:?} in: {message}");
        }
    }

    #[test]
    fn strings_with_a_prompt_and_columns_of_no_interest() {
        let json = r#"{"id": 3, "prompt": "a", "chosen": "b", "rejected": "c", "prompt_id": "x", "score_chosen": 9}"#;
        assert_eq!(text(json), ("a".into(), "b".into(), "c".into()));
        assert_eq!(parse(json).unwrap().kind, Kind::PAIR);
        assert_eq!(text(r#"{"prompt": "", "chosen": "b", "rejected": "c"}"#).0, "");
    }

    /// Expected values: `trl.extract_prompt` of TRL 1.16.
    #[test]
    fn strings_without_a_prompt_share_their_beginning() {
        let expect = |json, [prompt, chosen, rejected]: [&str; 3]| {
            assert_eq!(text(json), (prompt.into(), chosen.into(), rejected.into()));
        };
        expect(r#"{"chosen": "Q: é A", "rejected": "Q: é B"}"#, ["Q: é", " A", " B"]);
        expect(r#"{"chosen": "The lamp.", "rejected": "The ladder."}"#, ["The la", "mp.", "dder."]);
        expect(r#"{"chosen": "It rains", "rejected": "It rains now"}"#, ["It rain", "s", "s now"]);
        refused(r#"{"chosen": "Paris", "rejected": "London"}"#, &["missing `prompt`", "Paris", "London"]);
    }

    #[test]
    fn a_misspelt_field_is_named() {
        refused(r#"{"prompt": "a", "chosen": "b", "reject": "c"}"#, &["missing `rejected`; found `reject`"]);
        refused(
            r#"{"promt": "a", "chosen": "x b", "rejected": "x c"}"#,
            &["missing `prompt`; found `promt`"],
        );
        refused(
            r#"{"question": "a", "answer": "b"}"#,
            &["missing `chosen`; found `question`, `answer`", "Every pair"],
        );
        refused("{}", &["missing `chosen`", "no fields"]);
        assert_eq!(text(r#"{"prompt_id": "7", "chosen": "x b", "rejected": "x c"}"#).0, "x");
    }

    #[test]
    fn wrong_types_are_named_with_their_value() {
        refused("[1]", &["must be a JSON object", "a list ([1])"]);
        refused(r#"{"prompt": "a", "chosen": 3, "rejected": "c"}"#, &["chosen must be", "a number (3)"]);
        refused(r#"{"prompt": "a", "chosen": "b", "rejected": null}"#, &["rejected must be", "found null"]);
        refused(
            r#"{"prompt": 1, "chosen": "b", "rejected": "c"}"#,
            &["prompt must be a string", "a number (1)"],
        );
        refused(r#"{"prompt": null, "chosen": "b", "rejected": "c"}"#, &["found null", "leave it out"]);
        refused(
            r#"{"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": "c"}]}"#,
            &["chosen is a string (\"b\") but rejected is a list", "both"],
        );
        refused(
            r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}"#,
            &["prompt must be a string where chosen and rejected are", "a list"],
        );
    }

    #[test]
    fn empty_and_equal_answers_are_refused() {
        refused(r#"{"prompt": "a", "chosen": "b", "rejected": ""}"#, &["rejected is empty", "two non-empty"]);
        refused(r#"{"prompt": "a", "chosen": "", "rejected": "c"}"#, &["chosen is empty"]);
        refused(
            r#"{"prompt": "a", "chosen": "same", "rejected": "same"}"#,
            &["are equal (same)", "remove it"],
        );
        let conversation = r#"{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "a"}]}"#;
        refused(conversation, &["are equal (a)"]);
        let silent = r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": ""}],
                         "rejected": [{"role": "assistant", "content": "c"}]}"#;
        refused(silent.replace('\n', " ").leak(), &["chosen is empty"]);
    }

    #[test]
    fn labels_lie_between_0_and_1() {
        let label = |value: &str| {
            parse(format!(r#"{{"prompt": "a", "chosen": "b", "rejected": "c", "label": {value}}}"#).leak())
        };
        for (value, expected) in [("0.25", 0.25), ("1", 1.0), ("0", 0.0), ("null", 1.0)] {
            assert_eq!(label(value).unwrap().kind, Kind::pair(expected));
        }
        for value in ["1.5", "-0.1", "\"1\"", "true", "1e400"] {
            let message = label(value).unwrap_err().to_string();
            assert!(
                message.contains("label must be") || message.contains("number out of range"),
                "{message}"
            );
        }
        let message = label("NaN").unwrap_err().to_string();
        assert!(message.contains("label must be") && message.contains("NaN"), "{message}");
        assert!(label("1.5").unwrap_err().to_string().contains("1.5"));
    }

    #[test]
    fn conversations_with_and_without_a_prompt() {
        let explicit = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}"#;
        let expected = [vec!["user:q"], vec!["assistant:b"], vec!["assistant:c"]];
        assert_eq!(chat(explicit), expected);
        let implicit = r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"}]}"#;
        assert_eq!(chat(implicit), expected);
        // UltraFeedback's layout: the question is repeated as a string.
        let with_string = implicit.replacen('{', r#"{"prompt": "q", "#, 1);
        assert_eq!(chat(with_string.leak()), expected);
        // One conversation is a prefix of the other: its last message stays with the answers.
        let longer = r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]}"#;
        assert_eq!(chat(longer)[1], ["assistant:b"]);
        assert_eq!(chat(longer)[2], ["assistant:b", "user:d", "assistant:e"]);
    }

    #[test]
    fn broken_conversations_name_the_message() {
        let prompt = |prompt: &str| -> &'static str {
            format!(
                r#"{{"prompt": {prompt}, "chosen": [{{"role": "assistant", "content": "b"}}], "rejected": [{{"role": "assistant", "content": "c"}}]}}"#
            )
            .leak()
        };
        refused(prompt("[]"), &["prompt is an empty list"]);
        refused(prompt(r#"["hi"]"#), &["prompt[0] must be a message", "a string (\"hi\")"]);
        refused(prompt(r#"[{"content": "a"}]"#), &["prompt[0] has no `role`"]);
        refused(
            prompt(r#"[{"role": "user", "contents": "a"}]"#),
            &["prompt[0] has no `content`; found `contents`"],
        );
        refused(
            prompt(r#"[{"role": "user", "content": 5}]"#),
            &["prompt[0].content must be a string", "a number (5)"],
        );
        refused(prompt(r#"[{"role": "user", "content": null}]"#), &["prompt[0].content", "null"]);
        refused(prompt(r#"[{"role": "", "content": "a"}]"#), &["prompt[0].role is empty"]);
        refused(prompt("\"a\""), &["prompt is a string (\"a\")", "make prompt a list"]);
        refused(prompt("7"), &["prompt must be a list of messages", "a number (7)"]);
        let repeated = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"}]}"#;
        refused(repeated, &["repeat the messages of prompt"]);
        let strangers = r#"{"chosen": [{"role": "user", "content": "x"}], "rejected": [{"role": "user", "content": "y"}]}"#;
        refused(strangers, &["missing `prompt`", "no first message in common"]);
    }

    #[test]
    fn tools_and_template_arguments_are_kept() {
        let with = |extra: &str| -> &'static str {
            format!(
                r#"{{{extra}, "prompt": [{{"role": "user", "content": "q"}}], "chosen": [{{"role": "assistant", "tool_calls": [{{"name": "f"}}]}}], "rejected": [{{"role": "assistant", "content": "c"}}]}}"#
            )
            .leak()
        };
        let parts = |json| match parse(json).unwrap().content {
            Content::Chat { tools, kwargs, .. } => (tools, kwargs),
            Content::Text { .. } => panic!("conversations"),
        };
        let (tools, kwargs) = parts(with(
            r#""tools": "[{\"name\": \"f\"}]", "chat_template_kwargs": {"enable_thinking": false}"#,
        ));
        assert_eq!(tools, Some(serde_json::json!([{"name": "f"}])));
        assert_eq!(kwargs.unwrap()["enable_thinking"], false);
        assert_eq!(parts(with(r#""tools": null"#)), (None, None));
        refused(with(r#""tools": "f""#), &["tools must be a list", "a string (\"f\")"]);
        refused(with(r#""chat_template_kwargs": 1"#), &["chat_template_kwargs must be an object"]);
    }

    #[test]
    fn a_bad_record_does_not_hide_the_next() {
        let text = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\nnonsense\n{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}";
        let inputs = [Input::text("t", text)];
        assert_eq!(read(&inputs).map(|r| r.is_ok()).collect::<Vec<_>>(), [false, false, true]);
        assert!(load(&inputs).unwrap_err().to_string().starts_with("t:1: "));
        assert!(load(&[Input::text("t", "\n")]).unwrap_err().to_string().contains("no records"));
    }

    #[test]
    fn long_values_are_shortened() {
        let long: &'static str =
            format!(r#"{{"prompt": "a", "chosen": "{0}", "rejected": "{0}"}}"#, "é".repeat(500)).leak();
        let message = parse(long).unwrap_err().to_string();
        assert!(message.contains('…') && message.chars().count() < 300, "{message}");
    }
}
