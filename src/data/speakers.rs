//! Messages of `from` and `value`, the form of ShareGPT. Speakers and function calls are read as in LLaMA-Factory.

use serde_json::{Value as Json, json};

use super::fields::{Fields, described, is_empty, shortened};

/// Speakers and their roles. A `function_call` is a message of the assistant as well; its value names the functions.
const SPEAKERS: [(&str, &str); 8] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("function_call", "assistant"),
    ("system", "system"),
    ("observation", "tool"),
    ("tool", "tool"),
];

/// Roles of chat templates. There are others, which only a template knows.
const ROLES: [&str; 8] =
    ["user", "assistant", "system", "developer", "tool", "function", "observation", "ipython"];

/// Names of speakers in other formats, in lower case, and the roles that they have in a template.
const OTHER_NAMES: [(&str, &str); 12] = [
    ("human", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("chatbot", "assistant"),
    ("ai", "assistant"),
    // Templates whose turns are those of a `model` write them for the assistant.
    ("model", "assistant"),
    ("bard", "assistant"),
    ("bing", "assistant"),
    ("claude", "assistant"),
    ("function_call", "assistant, with the call in tool_calls"),
];

/// Refuses a role that is another name, or another spelling, of one that templates know: they would write it as it is, and
/// the model would learn turns of a stranger.
pub(super) fn refuse_other_name(place: &str, role: &str) -> Result<(), String> {
    if ROLES.contains(&role) {
        return Ok(());
    }
    let plain = role.trim().to_lowercase();
    let known = ROLES.into_iter().find(|known| *known == plain);
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == plain).map(|(_, right)| *right);
    match known.or(other) {
        Some(right) => {
            Err(format!("{place}.role is {:?}, the name of another format; write {right}", shortened(role)))
        }
        None => Ok(()),
    }
}

/// Returns the fields of the message with `role` and `content`.
pub(super) fn message(place: &str, from: &Json, fields: &Fields) -> Result<Fields, String> {
    let Json::String(speaker) = from else {
        return Err(format!("{place}.from must be a string, found {}", described(from)));
    };
    let Some((_, role)) = SPEAKERS.iter().find(|(name, _)| name == speaker) else {
        let known: Vec<_> = SPEAKERS.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "{place}.from is {speaker:?}, an unknown speaker; use one of {}",
            known.join(", ")
        ));
    };
    let value = match fields.get("value") {
        Some(Json::String(value)) => value,
        Some(other) => return Err(format!("{place}.value must be a string, found {}", described(other))),
        None => return Err(format!("{place} has no `value`; a message of `from` needs it")),
    };
    let mut message = fields.clone();
    message.remove("from");
    message.remove("value");
    message.insert("role".into(), (*role).into());
    if speaker == "function_call" {
        message.insert("content".into(), "".into());
        message.insert("tool_calls".into(), calls(place, value)?);
    } else {
        message.insert("content".into(), value.as_str().into());
    }
    Ok(message)
}

/// Replaces a text with a JSON object by the object.
pub(super) fn read_arguments(arguments: &mut Json) {
    if let Json::String(text) = arguments
        && let Ok(read @ Json::Object(_)) = serde_json::from_str(text)
    {
        *arguments = read;
    }
}

/// Replaces OpenAI's older form of a call, `function_call`, by the `tool_calls` that chat templates read.
pub(super) fn read_function_call(place: &str, message: &mut Fields) -> Result<(), String> {
    // "none" and "auto" are settings of a request.
    let is_call = |found: &&Json| !is_empty(found) && !matches!(found.as_str(), Some("none" | "auto"));
    let Some(found) = message.get("function_call").filter(is_call) else { return Ok(()) };
    let Some(call) = call(found) else {
        return Err(format!(
            "{place}.function_call must be an object {{name, arguments}}, found {}",
            described(found)
        ));
    };
    if message.get("tool_calls").is_some_and(|calls| !is_empty(calls)) {
        return Err(format!("{place} has both `function_call` and `tool_calls`; keep tool_calls alone"));
    }
    message.shift_remove("function_call");
    message.insert("tool_calls".into(), Json::Array(vec![call]));
    Ok(())
}

/// Reads `{"name": ..., "arguments": ...}` into a call that chat templates read.
fn call(call: &Json) -> Option<Json> {
    let name = call.get("name")?.as_str()?;
    let mut arguments = call.get("arguments")?.clone();
    read_arguments(&mut arguments);
    Some(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
}

/// Reads `{"name": ..., "arguments": ...}`, or a list of these, into the calls that chat templates read.
fn calls(place: &str, value: &str) -> Result<Json, String> {
    let wrong = || {
        format!(
            "{place}.value must be JSON text {{\"name\": ..., \"arguments\": ...}} in a function_call, or a list of these, \
             found {}",
            described(&value.into())
        )
    };
    let list = match serde_json::from_str(value).map_err(|_| wrong())? {
        Json::Array(list) if !list.is_empty() => list,
        call @ Json::Object(_) => vec![call],
        _ => return Err(wrong()),
    };
    let calls = list.iter().map(|entry| call(entry).ok_or_else(wrong)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json::Array(calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message_: Json) -> Result<Json, String> {
        let Json::Object(fields) = message_ else { panic!("an object") };
        message("c[0]", &fields["from"], &fields).map(Json::Object)
    }

    #[test]
    fn speakers_have_roles() {
        for (speaker, role) in SPEAKERS.iter().filter(|(speaker, _)| *speaker != "function_call") {
            let found = read(json!({"from": speaker, "value": "a", "weight": 0})).unwrap();
            assert_eq!(found, json!({"role": role, "content": "a", "weight": 0}));
        }
        let call = json!({"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"});
        let calls = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]);
        assert_eq!(read(call).unwrap(), json!({"role": "assistant", "content": "", "tool_calls": calls}));
    }

    #[test]
    fn unknown_speakers_and_calls_are_refused() {
        for (message, part) in [
            (json!({"from": "bard", "value": "a"}), "c[0].from is \"bard\", an unknown speaker"),
            (json!({"from": 3, "value": "a"}), "c[0].from must be a string, found a number (3)"),
            (json!({"from": "gpt"}), "c[0] has no `value`"),
            (json!({"from": "gpt", "value": null}), "c[0].value must be a string, found null"),
            (json!({"from": "function_call", "value": "f(1)"}), "must be JSON text"),
            (json!({"from": "function_call", "value": "[]"}), "must be JSON text"),
            (json!({"from": "function_call", "value": "{\"name\": \"f\"}"}), "must be JSON text"),
        ] {
            let error = read(message).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
