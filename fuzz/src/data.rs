//! The targets that read data sets, templates and tokenizers.

use std::sync::OnceLock;

use dpo_lora::data::{
    ChatTemplate, ChatTokenizer, DataConfig, Input, Message, RecordReader, RenderOptions, Schema,
};
use dpo_lora::data::{records as read_records, tokenize};

use super::{fixture, parts, place, put};

/// The first byte says whether the rest is JSON Lines or one array.
pub(super) fn records(data: &[u8]) {
    use dpo_lora::data::source::Input as Source;
    let Some((which, bytes)) = data.split_first() else { return };
    let path = put(if which % 2 == 0 { "records.jsonl" } else { "records.json" }, bytes);
    let sources = dpo_lora::data::Sources::from(path.to_str().expect("a path"));
    let inputs: Vec<Source> = dpo_lora::data::source::resolve(&sources).expect("a file");
    for record in read_records::read(&inputs).take(100).flatten() {
        let _ = tokenize(characters(), &record);
    }
    // By every schema, whether or not the columns are its own.
    let readers = readers();
    for row in inputs.iter().flat_map(|input| input.rows().into_iter().flatten()).take(10).flatten() {
        for reader in &readers {
            let _ = reader.read(row.clone());
        }
    }
    let _ = read_records::load(&[Input::text("x", String::from_utf8_lossy(bytes).into_owned())]);
}

/// The rows of a file of the given name; a reader may not go on for ever.
fn rows(name: &str, bytes: &[u8]) {
    let path = put(name, bytes);
    let sources = dpo_lora::data::Sources::from(path.to_str().expect("a path"));
    for input in dpo_lora::data::source::resolve(&sources).expect("a file") {
        let Ok(rows) = input.rows() else { continue };
        let reader = RecordReader::default();
        for row in rows.take(2000).flatten() {
            let _ = reader.read(row);
        }
    }
}

pub(super) fn parquet(data: &[u8]) {
    rows("rows.parquet", data);
}

/// The first byte says whether the name is that of commas or tabs.
pub(super) fn csv(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    rows(if which % 2 == 0 { "rows.csv" } else { "rows.tsv" }, bytes);
}

/// Texts whose kind their content tells, compressed ones too. The first byte says whether the name is that of JSON Lines.
pub(super) fn json(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    rows(if which % 2 == 0 { "rows.json" } else { "lines.jsonl" }, bytes);
}

/// The first byte says whether the rest is a SentencePiece model or a tekken.json.
pub(super) fn vocabulary(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let name = if which % 2 == 0 { "tokenizer.model" } else { "tekken.json" };
    let directory = place().join("vocabulary");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    put(&format!("vocabulary/{name}"), bytes);
    if let Ok(tokenizer) = ChatTokenizer::load(&directory, None) {
        if let Ok(ids) = tokenizer.encode("The film, a <s>ü</s>\u{1F600}.", true) {
            let _ = tokenizer.decode(&ids, true);
        }
        let _ = tokenizer.vocab_size();
    }
}

/// A file of tokenized data. The hash at its end is made to fit, or nothing behind it would ever be looked at.
pub(super) fn dataset(data: &[u8]) {
    // The sizes are in the last 24 bytes, behind the words.
    let sizes = data.len().checked_sub(24);
    let words = sizes.and_then(|at| Some(u64::from_le_bytes(*data[at..].first_chunk::<8>()?)));
    let body = words.and_then(|words| {
        let padded = usize::try_from(words.checked_add(words % 2)?.checked_mul(4)?).ok()?;
        data.get(padded.checked_add(8)?..)
    });
    let hash = blake3::hash(body.unwrap_or_default());
    let path = put("data.tokens", &[data, hash.as_bytes()].concat());
    if let Ok((set, _)) = dpo_lora::data::Dataset::open(&path) {
        for example in set.iter().take(1000) {
            let _ = example.map(|example| example.longest());
        }
        let _ = set.fingerprint();
    }
}

fn readers() -> Vec<RecordReader> {
    let reader = |schema: &Schema| {
        let mut config = DataConfig::new("x".into());
        config.format = Some(schema.name().into());
        RecordReader::new(&config).expect("a known format")
    };
    Schema::ALL.iter().map(reader).collect()
}

/// The first line is a condition, the rest the rows that it reads. `{old` at its beginning renames a column first.
pub(super) fn filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (condition, rows) = text.split_once('\n').unwrap_or((&text, "{}"));
    let mut config = DataConfig::new("x".into());
    if let Some((column, rest)) = condition.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        config.columns.0.insert("prompt".into(), Some(column.into()));
        config.filter = Some(rest.into());
    } else {
        config.filter = Some(condition.into());
    }
    let _ = config.validate();
    let Ok(reader) = RecordReader::new(&config) else { return };
    let Ok(rows) = Input::text("x", rows.to_string()).rows() else { return };
    for row in rows.take(100).flatten() {
        let _ = reader.read(row);
    }
}

pub(super) fn characters() -> &'static ChatTokenizer {
    static TOKENIZER: OnceLock<ChatTokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| ChatTokenizer::load(fixture("tokenizer"), None).expect("a tokenizer"))
}

pub(super) fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::at(source, 0) else { return };
    let messages =
        [Message::new("system", "be brief"), Message::new("user", "a <b> ü"), Message::new("assistant", "c")];
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_string(), v.to_string()));
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let _ = template.render(&messages.iter().collect::<Vec<_>>(), &tokens.into(), options);
}

/// The library's own panics become errors before the fuzzer's hook, which would end the process, hears of them.
pub(super) fn tokenizer(data: &[u8]) {
    let Some((config, json)) = parts(data) else { return };
    if let Ok(tokenizer) = ChatTokenizer::from_bytes(json, config, None) {
        if let Ok(ids) = tokenizer.encode("The film, a <s>ü</s>\u{1F600}.", true) {
            let _ = tokenizer.decode(&ids, true);
        }
        let _ = tokenizer.vocab_size();
    }
}
