//! Built-in chat templates for base models that have none: independent implementations of the public formats of
//! well-known families.

const BUILT_IN: [(&str, &str); 7] = [
    ("chatml", include_str!("chatml.jinja")),
    ("gemma", include_str!("gemma.jinja")),
    ("llama3", include_str!("llama3.jinja")),
    ("mistral", include_str!("mistral.jinja")),
    ("phi", include_str!("phi.jinja")),
    ("qwen", include_str!("qwen.jinja")),
    ("zephyr", include_str!("zephyr.jinja")),
];

/// The marks of turns that must be tokens of their own: their models know them as such. `mistral` and `zephyr` write theirs
/// as text.
const MARKS: [(&str, &[&str]); 5] = [
    ("chatml", &["<|im_start|>", "<|im_end|>"]),
    ("gemma", &["<start_of_turn>", "<end_of_turn>"]),
    ("llama3", &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    ("phi", &["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    ("qwen", &["<|im_start|>", "<|im_end|>"]),
];

/// Returns the name and the marks of the template with this text, if it is a built-in one that has some.
pub(super) fn marks(source: &str) -> Option<(&'static str, &'static [&'static str])> {
    MARKS.iter().find(|(name, _)| named(name) == Some(source)).map(|(name, marks)| (*name, *marks))
}

/// Returns the Jinja text of the template `name`.
pub(super) fn named(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(own, _)| *own == name).map(|(_, source)| *source)
}

/// Lists all names.
pub(super) fn names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::{ChatTemplate, RenderOptions};
    use crate::data::Message;

    fn render(name: &str, messages: Value, add_generation_prompt: bool) -> Result<String, String> {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let messages: Vec<Message> = messages
            .as_array()
            .unwrap()
            .iter()
            .map(|message| Message::from_fields(message.as_object().unwrap().clone()))
            .collect();
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        let template = ChatTemplate::at(super::named(name).unwrap(), 0).unwrap();
        template
            .render(&messages.iter().collect::<Vec<_>>(), &BTreeMap::from(tokens), options)
            .map_err(|e| e.to_string())
    }

    /// The output of the families' published templates for the same conversations.
    #[test]
    fn formats_are_the_families() {
        let turns = json!([{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes"},
                           {"role": "user", "content": "Why?"}]);
        let system = json!([{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"},
                            {"role": "assistant", "content": "Yes"}]);
        for (name, open, closed) in [
            (
                "chatml",
                "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n\
                 <|im_start|>assistant\n",
                "<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n",
            ),
            (
                "llama3",
                "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\
                 Yes<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
                "<s><|start_header_id|>system<|end_header_id|>\n\nShort.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
                 Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>",
            ),
            (
                "gemma",
                "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n<start_of_turn>user\nWhy?\
                 <end_of_turn>\n<start_of_turn>model\n",
                "<s><start_of_turn>user\nShort.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n",
            ),
            (
                "qwen",
                "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
                 <|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n\
                 <|im_start|>assistant\n",
                "<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n",
            ),
            (
                "mistral",
                "<s>[INST]  Hi [/INST] Yes</s>[INST] Why?[/INST]",
                "<s>[INST] Short.\n\nHi[/INST] Yes</s>",
            ),
            (
                "phi",
                "<|user|>\n Hi <|end|>\n<|assistant|>\nYes<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
                "<|system|>\nShort.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYes<|end|>\n</s>",
            ),
            (
                "zephyr",
                "<|user|>\n Hi </s>\n<|assistant|>\nYes</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
                "<|system|>\nShort.</s>\n<|user|>\nHi</s>\n<|assistant|>\nYes</s>\n",
            ),
        ] {
            assert_eq!(render(name, turns.clone(), true).as_deref(), Ok(open), "{name}");
            assert_eq!(render(name, system.clone(), false).as_deref(), Ok(closed), "{name}");
        }
        let twice = json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]);
        assert!(render("mistral", twice, false).unwrap_err().contains("must alternate"));
    }
}
