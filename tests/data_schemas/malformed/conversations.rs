//! Questions, prompts, transcripts and choices in columns of other programs.

use super::super::refused;
use super::table;

#[test]
fn questions_in_columns_of_their_own() {
    table(&[
        (r#"{"system": "s", "question": "", "chosen": "a", "rejected": "b"}"#, &["question is empty"]),
        (
            r#"{"system": 3, "question": "q", "chosen": "a", "rejected": "b"}"#,
            &["system must be a string", "a number (3)"],
        ),
        (r#"{"question": ["q"], "chosen": "a", "rejected": "b"}"#, &["question must be a string", "a list"]),
        (r#"{"question": "q", "chosen": "a", "rejected": "a"}"#, &["chosen and rejected are equal (a)"]),
        (r#"{"question": "q", "chosen": "a", "rejected": ""}"#, &["rejected is empty"]),
        (r#"{"input": "q", "chosen": " ", "rejected": "b"}"#, &["chosen is empty (only white space)"]),
        (
            r#"{"instruction": "", "input": " ", "chosen": "a", "rejected": "b"}"#,
            &["instruction is empty, and so is input"],
        ),
        (
            r#"{"instruction": "q", "history": "h", "chosen": "a", "rejected": "b"}"#,
            &["history must be a list of [question, answer]"],
        ),
        (
            r#"{"instruction": "q", "history": [["x"]], "chosen": "a", "rejected": "b"}"#,
            &["history[0] must be [question, answer]"],
        ),
        (
            r#"{"instruction": "q", "history": [["x", ""]], "chosen": "a", "rejected": "b"}"#,
            &["history[0][1] is empty"],
        ),
        (r#"{"instruction": "q", "output": ["a"]}"#, &["output has 1 entries"]),
        (r#"{"instruction": "q", "output": ["a", "a"]}"#, &["output[0] and output[1] are equal"]),
        (r#"{"instruction": "q", "output": ""}"#, &["output is empty"]),
        (r#"{"instruction": "q", "output": 3}"#, &["output must be a string", "a number (3)"]),
        (
            r#"{"instruction": "q", "chosen_response": "a", "rejected_response": "a"}"#,
            &["chosen_response and rejected_response are equal"],
        ),
        (
            r#"{"instruction": "q", "chosen_response": 1, "rejected_response": "a"}"#,
            &["chosen_response must be a string"],
        ),
        (r#"{"system": "s", "prompt": " ", "chosen": "a", "rejected": "b"}"#, &["prompt is empty"]),
    ]);
}

#[test]
fn prompts_in_lists_of_messages() {
    let sharegpt = |conversations: &str, chosen: &str| {
        format!(
            r#"{{"conversations": {conversations}, "chosen": {chosen}, "rejected": {{"from": "gpt", "value": "b"}}}}"#
        )
    };
    let (human, gpt) = (r#"[{"from": "human", "value": "q"}]"#, r#"{"from": "gpt", "value": "a"}"#);
    for (conversations, chosen, part) in [
        ("[]", gpt, "conversations is an empty list"),
        (
            r#"[{"from": "narrator", "value": "q"}]"#,
            gpt,
            "conversations[0].from is \"narrator\", an unknown speaker",
        ),
        (r#"[{"from": "human", "text": "q"}]"#, gpt, "conversations[0] has no `value`"),
        (human, r#"{"from": "human", "value": "a"}"#, "chosen ends with a message of user"),
        (human, r#"{"from": "gpt", "value": ""}"#, "chosen is empty"),
        (human, r#"{"from": "gpt", "value": "b"}"#, "chosen and rejected are equal (b)"),
        (human, r#"{"from": "function_call", "value": "add(3)"}"#, "chosen.value must be JSON text"),
        (
            r#"[{"from": "human", "value": "q"}, {"from": "gpt", "value": "x"}]"#,
            gpt,
            "prompt ends with a message of the assistant (x)",
        ),
        ("\"q\"", gpt, "conversations must be a list of messages"),
    ] {
        refused(&sharegpt(conversations, chosen), &[part]);
    }
    table(&[
        (r#"{"conversations": "q"}"#, &["conversations must be a list of messages"]),
        (
            r#"{"messages": [{"role": "human", "content": "q"}, @A]}"#,
            &["messages[0].role is \"human\"", "write user"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "Assistant", "content": "b"}]}"#,
            &["rejected[0].role is \"Assistant\"", "write assistant"],
        ),
        (
            r#"{"messages": [{"role": "user", "content": "q", "images": ["x.png"]}, @A]}"#,
            &["messages[0].images is not read: models of texts"],
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "train": false}]}"#,
            &["in conversations (\"a\") has `train`: false"],
        ),
        (
            r#"{"system": "s", "conversations": [{"from": "system", "value": "t"}, {"from": "gpt", "value": "a"}]}"#,
            &["both system prompts"],
        ),
        (r#"{"messages": [@U, @A], "rejected_response": 3}"#, &["rejected_response must be a string"]),
        (
            r#"{"messages": [@U, @A], "rejected_response": "a"}"#,
            &["the end of messages and rejected_response are equal"],
        ),
        (
            r#"{"input": "q", "preferred_output": [@A], "non_preferred_output": [@B]}"#,
            &["input must be an object with `messages`"],
        ),
        (
            r#"{"input": {}, "preferred_output": [@A], "non_preferred_output": [@B]}"#,
            &["input has no `messages`"],
        ),
        (
            r#"{"input": {"messages": [@U]}, "preferred_output": "a", "non_preferred_output": [@B]}"#,
            &["preferred_output must be a list of messages"],
        ),
        (
            r#"{"input": {"messages": [@U], "tools": 3}, "preferred_output": [@A], "non_preferred_output": [@B]}"#,
            &["tools must be a list"],
        ),
        (
            r#"{"conversation_a": [@U, @A], "conversation_b": [@U, @B], "winner": "A"}"#,
            &["winner must be model_a", "\"A\""],
        ),
        (
            r#"{"conversation_a": [@U, @A], "conversation_b": [@B], "winner": "tie"}"#,
            &["no first message in common"],
        ),
        (
            r#"{"conversation_a": [@U, @A], "conversation_b": [@U, @A], "winner": "tie"}"#,
            &["conversation_a and conversation_b are equal"],
        ),
    ]);
}

#[test]
fn transcripts_and_choices() {
    table(&[
        (
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"}"#,
            &["the prompts of chosen and rejected differ", "Human: q", "Human: r"],
        ),
        (
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q"}"#,
            &["rejected has no \"\\n\\nAssistant:\""],
        ),
        (
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "Human: q"}"#,
            &["rejected begins with \"Human: q\""],
        ),
        (
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: "}"#,
            &["rejected is empty"],
        ),
        (
            r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"}"#,
            &["are equal"],
        ),
        (
            r#"{"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 2}"#,
            &["labels must be 0 or 1", "a number (2)"],
        ),
        (
            r#"{"history": "q", "human_ref_A": "", "human_ref_B": "b", "labels": 1}"#,
            &["human_ref_A is empty"],
        ),
        (r#"{"history": " ", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}"#, &["history is empty"]),
        (
            r#"{"question": "q", "response_j": "a", "response_k": "a"}"#,
            &["response_j and response_k are equal"],
        ),
        (
            r#"{"info": {"title": "t"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}"#,
            &["info has neither `post` nor `article`"],
        ),
        (
            r#"{"info": {"post": "p"}, "summaries": [{"text": "a"}], "choice": 0}"#,
            &["summaries must be a list of two"],
        ),
        (
            r#"{"info": {"post": "p"}, "summaries": [{"text": "a"}, {"policy": "b"}], "choice": 0}"#,
            &["summaries[1] has no `text`"],
        ),
        (
            r#"{"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": "0"}"#,
            &["choice must be 0 or 1"],
        ),
        (
            r#"{"info": "p", "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}"#,
            &["info must be an object"],
        ),
        (
            r#"{"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 7}"#,
            &["better_response_id must be 0 or 1"],
        ),
    ]);
}
