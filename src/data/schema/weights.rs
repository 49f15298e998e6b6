//! Fields of messages that say how much of a message is imitated. Every message of an answer is imitated as a whole, so that
//! another wish is refused.

use serde_json::Value as Json;

use super::super::fields::shortened;
use super::super::messages::Message;

/// A field of this kind.
struct Field {
    name: &'static str,
    /// The value of a message that is imitated.
    imitated: bool,
    /// Whether it may be a number other than 0 and 1.
    is_weight: bool,
}

const fn weight(name: &'static str) -> Field {
    Field { name, imitated: true, is_weight: true }
}

const fn switch(name: &'static str, imitated: bool) -> Field {
    Field { name, imitated, is_weight: false }
}

/// The fields of OpenAI and Mistral (`weight`), ms-swift (`loss`, `loss_scale`), axolotl (`train`, `training`) and others.
const FIELDS: [Field; 9] = [
    weight("weight"),
    weight("loss_weight"),
    weight("loss_scale"),
    switch("loss", true),
    switch("train", true),
    switch("training", true),
    switch("trainable", true),
    switch("mask", false),
    switch("masked", false),
];

impl Field {
    /// Whether the message is not imitated, or less than others.
    fn excludes(&self, value: &Json) -> bool {
        match value {
            Json::Bool(value) => *value != self.imitated,
            Json::Number(number) => match number.as_f64() {
                Some(0.0) => self.imitated,
                Some(1.0) => !self.imitated,
                Some(_) | None => self.is_weight,
            },
            Json::String(text) => {
                let wrong = if self.imitated { ["false", "0"] } else { ["true", "1"] };
                wrong.iter().any(|wrong| text.trim().eq_ignore_ascii_case(wrong))
            }
            Json::Null | Json::Array(_) | Json::Object(_) => false,
        }
    }
}

/// Refuses an answer `name` with a message of the assistant that is not to be imitated as a whole. What other speakers say
/// is often marked so.
pub(super) fn refuse_excluded(name: &str, turns: &[Message]) -> Result<(), String> {
    for turn in turns.iter().filter(|turn| turn.is_answer()) {
        let set = |field: &Field| turn.fields().get(field.name).filter(|value| field.excludes(value));
        if let Some((field, value)) = FIELDS.iter().find_map(|field| Some((field, set(field)?))) {
            return Err(format!(
                "a message of the assistant in {name} ({:?}) has `{}`: {}, which is not supported: every message of an answer \
                 counts as a whole; leave the message or the record out, or remove the field",
                shortened(turn.content()),
                field.name,
                shortened(&value.to_string())
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(role: &str, field: &str, value: Json) -> Option<String> {
        let message = json!({"role": role, "content": "a", field: value});
        let turns =
            [Message::new("assistant", "b"), Message::from_fields(message.as_object().unwrap().clone())];
        refuse_excluded("messages", &turns).err()
    }

    #[test]
    fn an_answer_that_is_not_imitated_is_refused() {
        for (field, value) in [
            ("weight", json!(0)),
            ("weight", json!(0.5)),
            ("weight", json!(false)),
            ("loss_scale", json!(2)),
            ("train", json!(false)),
            ("training", json!(0)),
            ("trainable", json!("False")),
            ("loss", json!(false)),
            ("mask", json!(true)),
        ] {
            let error = refused("assistant", field, value.clone()).unwrap();
            let named = format!("in messages (\"a\") has `{field}`: {value}, which");
            assert!(error.contains(&named) && error.contains("remove the field"), "{error}");
            assert_eq!(refused("user", field, value), None, "{field}");
        }
        for (field, value) in [
            ("weight", json!(1)),
            ("weight", json!(1.0)),
            ("weight", json!(null)),
            ("train", json!(true)),
            ("loss", json!(0.83)),
            ("mask", json!(false)),
            ("name", json!("train")),
        ] {
            assert_eq!(refused("assistant", field, value.clone()), None, "{field}: {value}");
        }
    }
}
