//! Chat templates, which turn a conversation into the text format the model was trained on, as transformers'
//! `apply_chat_template` does.

mod builtin;
mod sources;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, NaiveTime};
use serde_json::{Map, Value as Json};

use self::sources::DEFAULT;
pub use self::sources::portable;
use super::jinja::Template;
use super::messages::Message;
use crate::error::{Error, Result};

/// The chat templates of a model by name; most models have only `default`.
#[derive(Debug)]
pub struct ChatTemplate {
    named: BTreeMap<String, Named>,
    now: NaiveDateTime,
}

/// A template and its source text.
#[derive(Clone, Debug)]
struct Named {
    source: String,
    template: Arc<Template>,
}

/// The format of a point in time, with a resolution of seconds.
const MOMENT: &str = "%Y-%m-%dT%H:%M:%S";

/// Parses an ISO 8601 date (as its midnight), or date and time.
///
/// # Errors
/// Returns [`Error::Config`] with the text and the remedy.
pub fn moment(text: &str) -> Result<NaiveDateTime> {
    let day = |text| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN));
    NaiveDateTime::parse_from_str(text, MOMENT).or_else(|_| day(text)).map_err(|_| {
        Error::Config(format!("{text}, which is not a date; write 2026-01-31, or 2026-01-31T12:00:00"))
    })
}

/// Finds the templates to use. In order of precedence they come from `setting` (`data.chat_template`: Jinja text, the
/// name of one of the model's templates or of a built-in one, or a file), from files in the model's directory
/// (`chat_template.jinja`, `additional_chat_templates/*.jinja`), and from `chat_template` in its
/// `tokenizer_config.json`.
///
/// # Errors
/// Fails if a file cannot be read, `chat_template` has the wrong type, or the text is not valid Jinja.
pub fn find(
    setting: Option<&str>,
    model_dir: Option<&Path>,
    tokenizer_config: &Map<String, Json>,
) -> Result<Option<ChatTemplate>> {
    sources::find(setting, model_dir, tokenizer_config)?.map(ChatTemplate::named).transpose()
}

impl ChatTemplate {
    /// Returns the name of a built-in template and the marks of turns that it writes, which should be tokens.
    pub(super) fn marks(&self) -> Option<(&'static str, &'static [&'static str])> {
        builtin::marks(self.source())
    }
}

/// The inputs of a rendering apart from the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// Whether to append the prefix that opens the assistant's answer.
    pub add_generation_prompt: bool,
    /// The record's `tools`.
    pub tools: Option<&'a Json>,
    /// The record's `chat_template_kwargs`: `tools`, `documents` and `chat_template` (a name or Jinja text), which have
    /// the same meaning as in `apply_chat_template`, and template variables.
    pub kwargs: Option<&'a Map<String, Json>>,
}

/// Arguments of `apply_chat_template` that do not affect the text or are already set elsewhere.
const NOT_FOR_ROWS: [&str; 14] = [
    "conversation",
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "sanitize_control_tokens",
    "processor_kwargs",
];

impl ChatTemplate {
    /// Compiles `source`. `strftime_now` returns the time of this call for the template's lifetime. The environment
    /// variable `SOURCE_DATE_EPOCH` (reproducible-builds.org) overrides it, for templates that print the date.
    ///
    /// # Errors
    /// Returns [`Error::Data`] with the line at which the template is not valid Jinja.
    pub fn new(source: impl Into<String>) -> Result<Self> {
        Self::named(BTreeMap::from([(DEFAULT.to_owned(), source.into())]))
    }

    /// Compiles templates given by name.
    fn named(sources: BTreeMap<String, String>) -> Result<Self> {
        let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse().ok());
        let now = fixed.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        Self::compile(sources, now.map_or_else(|| Local::now().naive_local(), |now| now.naive_utc()))
    }

    /// Compiles `source` with the time `unix_seconds`, in UTC.
    ///
    /// # Errors
    /// Same as [`ChatTemplate::new`]; also fails if the time is out of the calendar's range.
    pub fn at(source: impl Into<String>, unix_seconds: i64) -> Result<Self> {
        let now = DateTime::from_timestamp(unix_seconds, 0)
            .ok_or_else(|| Error::Config(format!("{unix_seconds} seconds since 1970 is not a valid date")))?;
        Self::compile(BTreeMap::from([(DEFAULT.to_owned(), source.into())]), now.naive_utc())
    }

    fn compile(sources: BTreeMap<String, String>, now: NaiveDateTime) -> Result<Self> {
        let compiled = |(name, source): (String, String)| {
            let template = parse(&source)?;
            Ok((name, Named { source, template: Arc::new(template) }))
        };
        Ok(Self { named: sources.into_iter().map(compiled).collect::<Result<_>>()?, now })
    }

    /// Returns the same templates with another time: an ISO 8601 date, or date and time.
    ///
    /// # Errors
    /// Returns [`Error::Config`] if `date` is invalid.
    pub fn on(&self, date: &str) -> Result<Self> {
        Ok(Self { named: self.named.clone(), now: moment(date)? })
    }

    /// Returns the time that `strftime_now` reports, if a template uses it.
    pub fn date(&self) -> Option<String> {
        let asks = self.named.values().any(|named| named.source.contains("strftime_now"));
        asks.then(|| self.now.format(MOMENT).to_string())
    }

    /// Returns the Jinja text of the default template, or an empty string if there is none.
    pub fn source(&self) -> &str {
        self.named.get(DEFAULT).map_or("", |named| &named.source)
    }

    /// Returns the names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// transformers' `get_chat_template`: returns the template that a row names (or contains), otherwise `tool_use` for
    /// rows with tools, otherwise `default`.
    fn choose(&self, wanted: Option<&Json>, tools: bool) -> Result<Arc<Template>> {
        let found = match wanted {
            None | Some(Json::Null) => {
                self.named.get("tool_use").filter(|_| tools).or_else(|| self.named.get(DEFAULT))
            }
            Some(Json::String(name)) => match self.named.get(name) {
                Some(named) => Some(named),
                None if ["{{", "{%", "\n"].iter().any(|mark| name.contains(mark)) => {
                    return parse(name).map(Arc::new);
                }
                None => {
                    return Err(Error::Data(format!(
                        "chat_template_kwargs.chat_template is {name:?}, but the model's templates are: {}",
                        self.names().collect::<Vec<_>>().join(", ")
                    )));
                }
            },
            Some(other) => {
                return Err(Error::Data(format!(
                    "chat_template_kwargs.chat_template must be a template's name or text, found {other}"
                )));
            }
        };
        found.map(|named| named.template.clone()).ok_or_else(|| {
            Error::Data(format!(
                "the model has chat templates ({}) but none named `default`; set data.chat_template to one of the names",
                self.names().collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// Renders `messages`. `special_tokens` (`bos_token`, `eos_token`, ...) are variables of the template.
    ///
    /// # Errors
    /// Returns [`Error::Data`] with the exception raised by the template, or the place where it failed.
    pub fn render(
        &self,
        messages: &[&Message],
        special_tokens: &BTreeMap<String, String>,
        options: RenderOptions,
    ) -> Result<String> {
        if messages.is_empty() {
            return Err(Error::Data("a chat template needs at least one message".into()));
        }
        let kwarg = |name: &str| options.kwargs.and_then(|kwargs| kwargs.get(name));
        if let Some(name) = NOT_FOR_ROWS.into_iter().find(|name| kwarg(name).is_some()) {
            return Err(Error::Data(format!(
                "chat_template_kwargs has {name}, which a row cannot decide; leave it out"
            )));
        }
        let null = Json::Null;
        let tools = kwarg("tools").or(options.tools).unwrap_or(&null);
        let documents = kwarg("documents").unwrap_or(&null);
        for (name, list) in [("tools", tools), ("documents", documents)] {
            if !list.is_null() && !list.as_array().is_some_and(|list| list.iter().all(Json::is_object)) {
                return Err(Error::Data(format!("{name} must be a list of objects, found {list}")));
            }
        }
        let template = self.choose(kwarg("chat_template"), !tools.is_null())?;
        let messages = Json::Array(messages.iter().map(|message| Json::Object(plain(message))).collect());
        let tokens: BTreeMap<&str, Json> =
            special_tokens.iter().map(|(name, token)| (name.as_str(), token.as_str().into())).collect();
        let mut variables: BTreeMap<&str, &Json> =
            tokens.iter().map(|(name, token)| (*name, token)).collect();
        // A record's own arguments override the special tokens, as in transformers.
        variables.extend(options.kwargs.into_iter().flatten().map(|(name, value)| (name.as_str(), value)));
        variables.remove("chat_template");
        let prompted = Json::Bool(options.add_generation_prompt);
        variables.extend([
            ("messages", &messages),
            ("tools", tools),
            ("documents", documents),
            ("add_generation_prompt", &prompted),
        ]);
        template
            .render(variables, self.now)
            .map_err(|e| Error::Data(format!("the chat template cannot render this conversation: {e}")))
    }
}

fn parse(source: &str) -> Result<Template> {
    Template::parse(source).map_err(|e| Error::Data(format!("the chat template is not valid Jinja: {e}")))
}

/// Returns the message in the form transformers passes to the template: keys with null values are dropped, and the
/// reasoning is available under each of its names, `thinking` first.
fn plain(message: &Message) -> Map<String, Json> {
    let given = message.fields().iter().filter(|(_, value)| !value.is_null());
    let mut map: Map<_, _> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
    let reasoning =
        ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| map.get(*name).cloned());
    let Some(reasoning) = reasoning else { return map };
    let thinking = map.remove("thinking").unwrap_or_else(|| reasoning.clone());
    let mut aliased = Map::from_iter([("thinking".to_owned(), thinking)]);
    aliased.extend(map);
    aliased.insert("reasoning_content".into(), reasoning);
    aliased
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n\
                          {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn render(source: &str, messages: &[Message], options: RenderOptions) -> Result<String> {
        let tokens = BTreeMap::from([("bos_token".to_string(), "<s>".to_string())]);
        ChatTemplate::at(source, 0)?.render(&messages.iter().collect::<Vec<_>>(), &tokens, options)
    }

    #[test]
    fn renders_messages_tokens_and_the_generation_prompt() {
        let messages = [Message::new("user", "hi <b>")];
        let with = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let source = format!("{{{{ bos_token }}}}{CHATML}");
        let expected = "<s><|im_start|>user\nhi <b><|im_end|>\n";
        // trim_blocks removes the newline after `{% for … %}`, but not the one after `{{ … }}`.
        assert_eq!(render(&source, &messages, RenderOptions::default()).unwrap(), expected);
        assert_eq!(render(&source, &messages, with).unwrap(), format!("{expected}<|im_start|>assistant\n"));
    }

    #[test]
    fn kwargs_tools_and_reasoning_reach_the_template() {
        let kwargs = json!({"enable_thinking": false, "bos_token": "B"});
        let tools = json!([{"name": "f"}]);
        let options =
            RenderOptions { kwargs: kwargs.as_object(), tools: Some(&tools), ..RenderOptions::default() };
        let fields = json!({"role": "assistant", "content": "x", "reasoning": "r", "tool_calls": null});
        let message = Message::from_fields(fields.as_object().unwrap().clone());
        let source = "{{ bos_token }} {{ enable_thinking }} {{ tools | tojson }} {{ messages[0].reasoning_content }} \
                      {{ messages[0].tool_calls is defined }} {{ documents is none }}";
        assert_eq!(render(source, &[message], options).unwrap(), r#"B False [{"name": "f"}] r False True"#);
    }

    #[test]
    fn errors_carry_the_templates_words_and_line() {
        let messages = [Message::new("system", "x")];
        let refusal = render(
            "\n{{ raise_exception('System role not supported') }}",
            &messages,
            RenderOptions::default(),
        );
        let refusal = refusal.unwrap_err().to_string();
        assert!(refusal.contains("System role not supported (line 2 of the template)"), "{refusal}");
        let broken = render("{% for %}", &messages, RenderOptions::default()).unwrap_err().to_string();
        assert!(broken.contains("not valid Jinja") && broken.contains("line 1"), "{broken}");
        assert!(render(CHATML, &[], RenderOptions::default()).is_err());
    }

    /// Without the limit this would take 100 GB. A text that exactly fits the limit is rendered.
    #[test]
    fn what_a_template_writes_is_bounded() {
        let messages = [Message::new("user", "x")];
        let endless = "{% for i in range(100000) %}{{ 'x' * 1000000 }}{% endfor %}";
        let refusal = render(endless, &messages, RenderOptions::default()).unwrap_err().to_string();
        assert!(
            refusal.contains(
                "cannot render this conversation: it writes more than 64 MiB (line 1 of the template)"
            ),
            "{refusal}"
        );
        let whole = format!("{{{{ 'x' * {} }}}}", 64 << 20);
        assert_eq!(render(&whole, &messages, RenderOptions::default()).unwrap().len(), 64 << 20);
        assert!(render(&format!("{whole}y"), &messages, RenderOptions::default()).is_err());
    }

    #[test]
    fn precedence_is_setting_then_file_then_tokenizer_config() {
        let dir = tempfile::tempdir().unwrap();
        let map = |json: Json| json.as_object().unwrap().clone();
        let config = map(
            json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "c"}]}),
        );
        let source = |setting, dir| find(setting, dir, &config).unwrap().unwrap().source().to_owned();
        assert_eq!(source(None, Some(dir.path())), "c");
        let file = dir.path().join("chat_template.jinja");
        fs::write(&file, "f").unwrap();
        assert_eq!(source(None, Some(dir.path())), "f");
        assert_eq!(source(Some("{{ x }}"), Some(dir.path())), "{{ x }}");
        assert_eq!(source(file.to_str(), None), "f");
        assert!(find(None, None, &Map::new()).unwrap().is_none());
        assert!(matches!(find(Some("nowhere.jinja"), None, &config), Err(Error::Config(_))));
        let nameless = map(json!({"chat_template": [{"name": "rag", "template": "t"}]}));
        let nameless = find(None, None, &nameless).unwrap().unwrap();
        let message = Message::new("user", "a");
        let error = nameless.render(&[&message], &BTreeMap::new(), RenderOptions::default()).unwrap_err();
        assert!(error.to_string().contains("rag"), "{error}");
        assert_eq!(source(Some("tool_use"), None), "t");
        assert!(source(Some("chatml"), None).contains("<|im_start|>"));
    }

    /// transformers' `get_chat_template`: a row's tools or its `chat_template` choose among named templates.
    #[test]
    fn a_row_chooses_among_named_templates() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("chat_template.jinja"), "default").unwrap();
        fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
        fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), "{{ tools | length }} tools")
            .unwrap();
        fs::write(
            dir.path().join("additional_chat_templates/rag.jinja"),
            "{{ documents | length }} documents",
        )
        .unwrap();
        let template = find(None, Some(dir.path()), &Map::new()).unwrap().unwrap();
        let message = Message::new("user", "a");
        let ask = |tools: Option<&Json>, kwargs: Json| {
            let options = RenderOptions { tools, kwargs: kwargs.as_object(), ..RenderOptions::default() };
            template.render(&[&message], &BTreeMap::new(), options).map_err(|e| e.to_string())
        };
        let tools = json!([{"name": "f"}]);
        assert_eq!(ask(None, json!({})).unwrap(), "default");
        assert_eq!(ask(Some(&tools), json!({})).unwrap(), "1 tools");
        assert_eq!(ask(None, json!({"tools": tools})).unwrap(), "1 tools");
        assert_eq!(ask(Some(&tools), json!({"tools": null})).unwrap(), "default");
        assert_eq!(ask(None, json!({"chat_template": "rag", "documents": [{}, {}]})).unwrap(), "2 documents");
        assert_eq!(ask(None, json!({"chat_template": "{{ messages[0].role }}"})).unwrap(), "user");
        assert!(ask(None, json!({"chat_template": "rga"})).unwrap_err().contains("rag"));
        assert!(
            ask(None, json!({"add_generation_prompt": true})).unwrap_err().contains("add_generation_prompt")
        );
        assert!(ask(None, json!({"tools": "f"})).unwrap_err().contains("tools must be a list of objects"));
    }

    /// Ten gigabytes within a few thousand steps, an endless list, and a macro that calls itself.
    #[test]
    fn memory_steps_and_depth_are_bounded() {
        let messages = [Message::new("user", "x")];
        for (source, what) in [
            (
                "{% set ns = namespace(s='x' * 1000000) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
                "256 MiB",
            ),
            (
                "{% set ns = namespace(s='x' * 1000000) %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                "MiB",
            ),
            (
                "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
                "MiB",
            ),
            (
                "{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}",
                "nested lists",
            ),
            ("{{ 'x' * 99999999999 }}", "MiB"),
            ("{{ 'x'.center(99999999999) }}", "MiB"),
            ("{{ ('x' * 60000).replace('x', 'y' * 60000) }}", "MiB"),
            (
                "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
                "too many steps",
            ),
            (
                "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
                "too many steps",
            ),
            ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deep"),
        ] {
            let error = render(source, &messages, RenderOptions::default()).unwrap_err().to_string();
            assert!(error.contains(what), "{source}: {error}");
        }
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(ChatTemplate::at(deep, 0).is_err());
        let long = format!("{{{{ 1{} }}}}", " + 1".repeat(100_000));
        assert!(ChatTemplate::at(long, 0).unwrap_err().to_string().contains("too long"));
    }
}
