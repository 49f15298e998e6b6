use super::*;

/// The type and the bytes of a value.
type Stored = (u32, Vec<u8>);

fn text(value: &str) -> Stored {
    (8, [(value.len() as u64).to_le_bytes().as_slice(), value.as_bytes()].concat())
}

fn list(kind: u32, values: &[Vec<u8>]) -> Stored {
    let length = (values.len() as u64).to_le_bytes();
    (9, [kind.to_le_bytes().as_slice(), length.as_slice(), values.concat().as_slice()].concat())
}

fn texts(values: &[&str]) -> Stored {
    list(8, &values.iter().map(|value| text(value).1).collect::<Vec<_>>())
}

fn kinds(values: &[i32]) -> Stored {
    list(5, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

fn scores(values: &[f32]) -> Stored {
    list(6, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

/// A file without tensors that has this metadata.
fn file(keys: &[(&str, Stored)]) -> (tempfile::TempDir, GgufFile) {
    let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, (kind, value)) in keys {
        bytes.extend(text(key).1);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    (place, file)
}

/// Reads the tokenizer of a file with this metadata.
fn read(keys: &[(&str, Stored)]) -> Result<(TokenizerFiles, ChatTokenizer)> {
    let (_place, file) = file(keys);
    let files = TokenizerFiles::read(&file)?;
    let tokenizer = files.load(None)?;
    Ok((files, tokenizer))
}

fn complaint(keys: &[(&str, Stored)]) -> String {
    read(keys).map(drop).unwrap_err().to_string()
}

/// Metadata of a byte-level vocabulary.
fn byte_level(tokens: &[&str], types: &[i32], merges: &[&str]) -> Vec<(&'static str, Stored)> {
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.tokens", texts(tokens)),
        ("tokenizer.ggml.token_type", kinds(types)),
        ("tokenizer.ggml.merges", texts(merges)),
    ]
}

const PIECES: [&str; 9] = ["<unk>", "<s>", "</s>", "▁", "a", "▁a", "aa", "\n", "<|end|>"];

/// Metadata of a SentencePiece vocabulary.
fn sentencepiece(scored: [f32; 9]) -> Vec<(&'static str, Stored)> {
    vec![
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", texts(&PIECES)),
        ("tokenizer.ggml.token_type", kinds(&[2, 3, 3, 1, 1, 1, 1, 1, 3])),
        ("tokenizer.ggml.scores", scores(&scored)),
    ]
}

const SCORES: [f32; 9] = [0.0, 0.0, 0.0, -2.0, -3.0, 0.0, -1.0, -4.0, 0.0];

#[test]
fn text_is_split_as_the_file_says_or_not_at_all() {
    let mut keys = byte_level(&["1", "2", "3", "4", "34"], &[1; 5], &["3 4"]);
    let missing = complaint(&keys);
    assert!(missing.contains("m.gguf") && missing.contains("tokenizer.ggml.pre is missing"), "{missing}");
    for (name, expected) in [("gpt-2", vec![0u32, 1, 4]), ("default", vec![0, 1, 2, 3])] {
        keys.push(("tokenizer.ggml.pre", text(name)));
        assert_eq!(read(&keys).unwrap().1.encode("1234", false).unwrap(), expected, "{name}");
        keys.pop();
    }
}

#[test]
fn a_merge_of_what_is_no_token_is_named() {
    for (merge, expected) in [("a b", "needs \"ab\""), ("c a", "needs \"c\""), ("ab", "two tokens")] {
        let mut keys = byte_level(&["a", "b"], &[1, 1], &[merge]);
        keys.push(("tokenizer.ggml.pre", text("gpt-2")));
        let error = complaint(&keys);
        assert!(error.contains("tokenizer.ggml.merges: the merge") && error.contains(expected), "{error}");
    }
}

#[test]
fn tokens_that_end_a_completion_are_known_by_their_text() {
    let ends = |tokens: &[&str]| {
        let mut keys = byte_level(tokens, &vec![1; tokens.len()], &[]);
        keys.push(("tokenizer.ggml.pre", text("gpt-2")));
        let (_place, file) = file(&keys);
        (TokenizerFiles::ends(&file).unwrap(), read(&keys).unwrap().1)
    };
    // The file marks them as ordinary tokens, which would be spelled in letters.
    let (found, tokenizer) = ends(&["a", "<|im_end|>", "<|end_of_text|>", "[EOS]", "<|file_sep|>", "<PRE>"]);
    assert_eq!(found, [1, 2, 3, 4]);
    assert_eq!(tokenizer.encode("a<|im_end|>a<PRE>", false).unwrap(), [0, 1, 0, 5]);
    assert_eq!(tokenizer.decode(&[0, 1], true).unwrap(), "a");
    assert_eq!(ends(&["a", "<|end|>", "<|return|>", "<|call|>"]).0, [2, 3]);
    assert_eq!(ends(&["a", "<|end|>", "<|return|>"]).0, [1, 2]);
    assert_eq!(ends(&["a", "</s>", "<|tool_response>"]).0, [2]);
}

#[test]
fn special_tokens_without_ids_are_llama_cpps_or_refused() {
    let (files, tokenizer) = read(&sentencepiece(SCORES)).unwrap();
    assert_eq!((&files.config["bos_token"], &files.config["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert_eq!(tokenizer.encode("a", true).unwrap(), [1, 5]);
    let mut keys = sentencepiece(SCORES);
    keys[2] = ("tokenizer.ggml.token_type", kinds(&[2, 1, 3, 1, 1, 1, 1, 1, 3]));
    assert!(complaint(&keys).contains("tokenizer.ggml.bos_token_id is missing"), "{}", complaint(&keys));
}

#[test]
fn scores_that_give_merges_no_order_are_refused() {
    let error = complaint(&sentencepiece([-1000.0; 9]));
    assert!(error.contains("tokenizer.ggml.scores: 2 of 2 tokens that are made of others share"), "{error}");
    let error = complaint(&sentencepiece([f32::NAN; 9]));
    assert!(error.contains("tokenizer.ggml.scores: the score of token 5 (\"▁a\") is NaN"), "{error}");
}

/// llama.cpp goes by the name; a vocabulary of Phi-3 under another name is known by its architecture.
#[test]
fn phi_3_drops_white_space_after_its_special_tokens() {
    let (kept, dropped) = (vec![8u32, 3, 7, 4], vec![8u32, 5]);
    for (key, value, expected) in [
        ("general.name", "Llama", kept),
        ("general.name", "my-Phi-3-mini", dropped.clone()),
        ("general.architecture", "phi3", dropped),
    ] {
        let mut keys = sentencepiece(SCORES);
        keys.push((key, text(value)));
        assert_eq!(read(&keys).unwrap().1.encode("<|end|>\na", false).unwrap(), expected, "{value}");
    }
    let mut keys = sentencepiece(SCORES);
    keys.push(("general.architecture", text("phi3")));
    // `<s>` is an exception.
    assert_eq!(read(&keys).unwrap().1.encode("<s>\na", false).unwrap(), [1, 3, 7, 4]);
}

#[test]
fn named_chat_templates_are_read() {
    let mut keys = sentencepiece(SCORES);
    keys.push(("tokenizer.chat_template", text("plain")));
    keys.push(("tokenizer.chat_template.tool_use", text("tools")));
    let (files, tokenizer) = read(&keys).unwrap();
    let template = tokenizer.template().unwrap();
    assert_eq!(template.source(), "plain");
    assert_eq!(template.names().collect::<Vec<_>>(), ["default", "tool_use"]);
    assert_eq!(files.load(Some("tool_use")).unwrap().template().unwrap().source(), "tools");
    keys.remove(4);
    let only = read(&keys).unwrap().1;
    assert_eq!(only.template().unwrap().names().collect::<Vec<_>>(), ["tool_use"]);
}
