//! Chat templates: a conversation becomes the text the model was taught, as transformers' `apply_chat_template` renders it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, NaiveTime};
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};

use super::jinja::{environment, without_generation_blocks};
use super::messages::Message;
use super::pydata::to_value;
use crate::error::{Error, Result};

/// The name under which errors show the template.
const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    now: NaiveDateTime,
    env: Environment<'static>,
}

/// How a moment is written, to the second.
const MOMENT: &str = "%Y-%m-%dT%H:%M:%S";

/// The moment of an ISO 8601 date (its midnight), or date and time.
///
/// # Errors
/// [`Error::Config`] with the text and the remedy.
pub fn moment(text: &str) -> Result<NaiveDateTime> {
    let day = |text| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN));
    NaiveDateTime::parse_from_str(text, MOMENT).or_else(|_| day(text)).map_err(|_| {
        Error::Config(format!("{text}, which is no date; write 2026-01-31, or 2026-01-31T12:00:00"))
    })
}

/// What besides the messages a rendering depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// Whether to append what opens the assistant's answer.
    pub add_generation_prompt: bool,
    /// The record's `tools`.
    pub tools: Option<&'a Json>,
    /// The record's `chat_template_kwargs`.
    pub kwargs: Option<&'a Map<String, Json>>,
}

impl ChatTemplate {
    /// Compiles `source`. `strftime_now` tells the moment of this call, once for the template's life; the variable
    /// `SOURCE_DATE_EPOCH` (reproducible-builds.org) fixes it, for templates that print the date.
    ///
    /// # Errors
    /// [`Error::Data`] with the line where the template is not Jinja.
    pub fn new(source: impl Into<String>) -> Result<Self> {
        let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse().ok());
        let now = fixed.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        Self::compile(source.into(), now.map_or_else(|| Local::now().naive_local(), |now| now.naive_utc()))
    }

    /// Compiles `source` for the moment `unix_seconds`, in UTC.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`]; a moment beyond the calendar.
    pub fn at(source: impl Into<String>, unix_seconds: i64) -> Result<Self> {
        let now = DateTime::from_timestamp(unix_seconds, 0)
            .ok_or_else(|| Error::Config(format!("{unix_seconds} seconds since 1970 is no date")))?;
        Self::compile(source.into(), now.naive_utc())
    }

    fn compile(source: String, now: NaiveDateTime) -> Result<Self> {
        let mut env = environment(now);
        env.add_template_owned(NAME, without_generation_blocks(&source))
            .map_err(|e| Error::Data(format!("the chat template is not valid Jinja: {}", describe(&e))))?;
        Ok(Self { source, now, env })
    }

    /// The same template at another moment: an ISO 8601 date, or date and time.
    ///
    /// # Errors
    /// [`Error::Config`] if it is none.
    pub fn on(&self, date: &str) -> Result<Self> {
        Self::compile(self.source.clone(), moment(date)?)
    }

    /// The moment that `strftime_now` tells, if the template asks for it.
    pub fn date(&self) -> Option<String> {
        self.source.contains("strftime_now").then(|| self.now.format(MOMENT).to_string())
    }

    /// The Jinja text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders `messages`; `special_tokens` (`bos_token`, `eos_token`, ...) are variables of the template.
    ///
    /// # Errors
    /// [`Error::Data`] with what the template raised, or where it failed.
    pub fn render(
        &self,
        messages: &[&Message],
        special_tokens: &BTreeMap<String, String>,
        options: RenderOptions,
    ) -> Result<String> {
        if messages.is_empty() {
            return Err(Error::Data("a chat template needs at least one message".into()));
        }
        let messages = Json::Array(messages.iter().map(|message| Json::Object(plain(message))).collect());
        let mut context: BTreeMap<&str, Value> =
            special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token))).collect();
        // Record's own arguments overrule the special tokens, as in transformers.
        for (name, value) in options.kwargs.into_iter().flatten() {
            context.insert(name, to_value(value));
        }
        context.insert("messages", to_value(&messages));
        context.insert("tools", options.tools.map_or(Value::from(()), to_value));
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", Value::from(options.add_generation_prompt));
        let mut text = Bounded::default();
        let rendered =
            self.env.get_template(NAME).and_then(|template| template.render_captured_to(context, &mut text));
        let failed = |what: &str| {
            Err(Error::Data(format!("the chat template cannot render this conversation: {what}")))
        };
        match (rendered, String::from_utf8(text.bytes)) {
            _ if text.refused => failed(&format!("it writes more than {} MiB", MOST_BYTES >> 20)),
            (Err(e), _) => failed(&describe(&e)),
            (Ok(_), Err(e)) => failed(&e.to_string()),
            (Ok(_), Ok(text)) => Ok(text),
        }
    }
}

/// Bytes of a rendered conversation, at most: some 16 million tokens. Without a bound a short template writes until the
/// memory is full, long before it has used up its instructions.
const MOST_BYTES: usize = 64 << 20;

/// What a template wrote, up to [`MOST_BYTES`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    refused: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MOST_BYTES - self.bytes.len() {
            self.refused = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message as transformers hands it over: keys whose value is null are dropped, and reasoning stands under each of
/// its names.
fn plain(message: &Message) -> Map<String, Json> {
    let mut map: Map<_, _> = message
        .fields()
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let reasoning =
        ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| map.get(*name).cloned());
    if let Some(reasoning) = reasoning {
        map.entry("thinking").or_insert_with(|| reasoning.clone());
        map.insert("reasoning_content".into(), reasoning);
    }
    map
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    }
}

/// The template in force: `setting` (`data.chat_template`: Jinja text or a file), else `chat_template.jinja` in the model's
/// directory, else `chat_template` of its `tokenizer_config.json`.
///
/// # Errors
/// A file that cannot be read, a `chat_template` of the wrong shape, text that is not Jinja.
pub fn find(
    setting: Option<&str>,
    model_dir: Option<&Path>,
    tokenizer_config: &Json,
) -> Result<Option<ChatTemplate>> {
    let file = model_dir.map(|dir| dir.join("chat_template.jinja")).filter(|file| file.is_file());
    let source = match (setting, file) {
        (Some(setting), _) => Some(from_setting(setting)?),
        (None, Some(file)) => Some(fs::read_to_string(&file).map_err(Error::read(&file))?),
        (None, None) => from_tokenizer_config(tokenizer_config)?,
    };
    source.map(ChatTemplate::new).transpose()
}

/// The text that `data.chat_template` stands for: itself, or that of the file it names.
///
/// # Errors
/// [`Error::Config`] if it is neither.
pub fn from_setting(setting: &str) -> Result<String> {
    if ["{{", "{%", "\n"].iter().any(|mark| setting.contains(mark)) {
        return Ok(setting.to_owned());
    }
    fs::read_to_string(setting).map_err(|e| {
        Error::Config(format!(
            "data.chat_template `{setting}` is neither Jinja text (no `{{{{` or `{{%` in it) nor a file that can be \
             read: {e}"
        ))
    })
}

/// A string, or a list of `{name, template}` of which `default` counts.
fn from_tokenizer_config(config: &Json) -> Result<Option<String>> {
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(Json::Array(named)) => {
            let name = |entry: &Json| entry.get("name").and_then(Json::as_str).unwrap_or("?").to_owned();
            let default = named.iter().find(|entry| name(entry) == "default");
            default.and_then(|entry| entry.get("template")?.as_str()).map(|source| Some(source.to_owned())).ok_or_else(
                || {
                    let names: Vec<_> = named.iter().map(name).collect();
                    Error::Data(format!(
                        "tokenizer_config.json has chat templates ({}) but none named `default`; set data.chat_template",
                        names.join(", ")
                    ))
                },
            )
        }
        Some(_) => Err(Error::Data(
            "chat_template in tokenizer_config.json is neither a string nor a list of {name, template}; set \
             data.chat_template"
                .into(),
        )),
    }
}

#[cfg(test)]
mod tests {
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
        // trim_blocks eats the newline behind `{% for … %}`, not the one behind `{{ … }}`.
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

    /// 100 GB, were it not for the bound; one that fits to the byte is rendered.
    #[test]
    fn what_a_template_writes_is_bounded() {
        let messages = [Message::new("user", "x")];
        let endless = "{% for i in range(100000) %}{{ 'x' * 1000000 }}{% endfor %}";
        let refusal = render(endless, &messages, RenderOptions::default()).unwrap_err().to_string();
        assert!(
            refusal.ends_with("cannot render this conversation: it writes more than 64 MiB"),
            "{refusal}"
        );
        let whole = format!("{{{{ 'x' * {MOST_BYTES} }}}}");
        assert_eq!(render(&whole, &messages, RenderOptions::default()).unwrap().len(), MOST_BYTES);
        assert!(render(&format!("{whole}y"), &messages, RenderOptions::default()).is_err());
    }

    #[test]
    fn precedence_is_setting_then_file_then_tokenizer_config() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "c"}]});
        let source = |setting, dir| find(setting, dir, &config).unwrap().unwrap().source().to_owned();
        assert_eq!(source(None, Some(dir.path())), "c");
        let file = dir.path().join("chat_template.jinja");
        fs::write(&file, "f").unwrap();
        assert_eq!(source(None, Some(dir.path())), "f");
        assert_eq!(source(Some("{{ x }}"), Some(dir.path())), "{{ x }}");
        assert_eq!(source(file.to_str(), None), "f");
        assert!(find(None, None, &json!({})).unwrap().is_none());
        assert!(matches!(find(Some("nowhere.jinja"), None, &config), Err(Error::Config(_))));
        let nameless = find(None, None, &json!({"chat_template": [{"name": "rag", "template": "t"}]}));
        assert!(nameless.unwrap_err().to_string().contains("rag"));
    }
}
