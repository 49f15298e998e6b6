//! Malformed rows of each schema.

use super::{configured, refused, refused_by};

const U: &str = r#"{"role": "user", "content": "q"}"#;
const A: &str = r#"{"role": "assistant", "content": "a"}"#;
const B: &str = r#"{"role": "assistant", "content": "b"}"#;

/// Rows in which `U`, `A` and `B` stand for messages of the user and of the assistant.
#[track_caller]
fn table(rows: &[(&str, &[&str])]) {
    for (row, parts) in rows {
        let row = row.replace("@U", U).replace("@A", A).replace("@B", B);
        refused(&row, parts);
    }
}

#[test]
fn pairs() {
    table(&[
        ("[1]", &["must be a JSON object", "a list ([1])"]),
        ("{}", &["missing `chosen`", "no fields"]),
        (r#"{"prompt": "q", "chosen": "a"}"#, &["missing `rejected`", "found `prompt`, `chosen`"]),
        (
            r#"{"prompt": "q", "chosen": "a", "rejectd": "b"}"#,
            &["found `rejectd`: rename it (data.columns: {rejected: rejectd})"],
        ),
        (r#"{"prompt": "q", "chosen": "a", "rejected": null}"#, &["rejected must be a string", "found null"]),
        (r#"{"prompt": "q", "chosen": "a", "rejected": 3}"#, &["rejected must be a string", "a number (3)"]),
        (
            r#"{"prompt": "q", "chosen": true, "rejected": "b"}"#,
            &["chosen must be a string", "a boolean (true)"],
        ),
        (
            r#"{"prompt": null, "chosen": "x a", "rejected": "x b"}"#,
            &["found null", "data.columns: {prompt: null}"],
        ),
        (
            r#"{"prompt": 3, "chosen": "x a", "rejected": "x b"}"#,
            &["prompt must be a string", "a number (3)"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "a"}"#,
            &["chosen and rejected are equal (a)", "remove it"],
        ),
        (r#"{"prompt": "q", "chosen": "a", "rejected": ""}"#, &["rejected is empty;", "two non-empty"]),
        (r#"{"prompt": "q", "chosen": " \n\t", "rejected": "b"}"#, &["chosen is empty (only white space)"]),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": [@B]}"#,
            &["chosen is a string", "rejected is a list", "both"],
        ),
        (
            r#"{"prompt": [@U], "chosen": "a", "rejected": "b"}"#,
            &["prompt must be a string where chosen and rejected are"],
        ),
        (
            r#"{"prompt": "q", "chosen": [@A], "rejected": [@B]}"#,
            &["prompt is a string (\"q\")", "make prompt a list"],
        ),
        (r#"{"prompt": [@U], "chosen": [@U, @A], "rejected": [@U, @B]}"#, &["repeat the messages of prompt"]),
        (
            r#"{"prompt": [@U], "chosen": [@A, @U], "rejected": [@B]}"#,
            &["chosen ends with a message of user"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "system", "content": "b"}]}"#,
            &["rejected ends with a message of system"],
        ),
        (
            r#"{"prompt": [@U, @B], "chosen": [@A], "rejected": [@B]}"#,
            &["prompt ends with a message of the assistant (b)", "chosen begins with another"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "assistant", "content": " "}]}"#,
            &["rejected is empty (only white space)"],
        ),
        (r#"{"prompt": [@U], "chosen": [], "rejected": [@B]}"#, &["chosen is an empty list"]),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"role": "assistant"}]}"#,
            &["rejected[0] has no `content`"],
        ),
        (
            r#"{"prompt": [@U], "chosen": [@A], "rejected": [{"from": "bard", "value": "b"}]}"#,
            &["rejected[0].from is \"bard\", an unknown speaker"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": 1.5}"#,
            &["label must be a number from 0", "1.5", "{label: null}"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": "good"}"#,
            &["label must be a number", "\"good\""],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "votes_chosen": 0, "votes_rejected": 0}"#,
            &["votes_chosen and votes_rejected have no votes"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "votes_chosen": -1, "votes_rejected": 2}"#,
            &["votes_chosen must be a number of votes", "-1"],
        ),
        (
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": 1, "votes_chosen": 1, "votes_rejected": 2}"#,
            &["label and the votes", "both"],
        ),
    ]);
}

#[test]
fn pairs_with_an_implicit_prompt() {
    table(&[
        (r#"{"chosen": "Paris", "rejected": "London"}"#, &["missing `prompt`", "no beginning in common"]),
        (
            r#"{"chosen": "Paris", "rejected": "London", "task": "capital"}"#,
            &["found `task`", "data.columns: {prompt: NAME}"],
        ),
        (r#"{"chosen": "same", "rejected": "same"}"#, &["are equal (same)"]),
        (r#"{"chosen": [@A], "rejected": [@B]}"#, &["missing `prompt`", "no first message in common"]),
        (r#"{"promt": "q", "chosen": "q a", "rejected": "q b"}"#, &["found `promt`: rename it"]),
        (r#"{"chosen": [@U, @A], "rejected": [@U, @A, @U]}"#, &["rejected ends with a message of user"]),
        (
            r#"{"prompt": "other words", "chosen": [@U, @A], "rejected": [@U, @B]}"#,
            &["prompt (\"other words\") is not among the messages", "\"q\""],
        ),
    ]);
}

#[test]
fn judged_answers_and_texts() {
    table(&[
        (r#"{"prompt": "q", "completion": "a", "label": 1}"#, &["label must be true", "a number (1)"]),
        (r#"{"prompt": "q", "completion": "a", "label": null}"#, &["label must be true", "found null"]),
        (r#"{"completion": "a"}"#, &["missing `prompt`", "`text`"]),
        (r#"{"completion": "a", "label": true}"#, &["missing `prompt`"]),
        (r#"{"prompt": "q", "completion": " "}"#, &["completion is empty (only white space)"]),
        (r#"{"prompt": "q", "completion": ["a"]}"#, &["completion must be a string where prompt is"]),
        (r#"{"prompt": [@U], "completion": "a"}"#, &["completion must be a list of messages"]),
        (r#"{"prompt": [@U], "completion": [@U, @A]}"#, &["completion repeats"]),
        (r#"{"prompt": [@U], "completion": [@U]}"#, &["completion repeats"]),
        (r#"{"text": "  "}"#, &["text is empty"]),
        (r#"{"text": 3}"#, &["text must be a string", "a number (3)"]),
        (r#"{"messages": "q"}"#, &["messages must be a list of messages", "a string"]),
        (r#"{"messages": []}"#, &["messages is an empty list"]),
        (r#"{"messages": [@U]}"#, &["messages ends with a message of user"]),
        (r#"{"messages": [@A], "label": true}"#, &["messages has one message"]),
        (
            r#"{"messages": [@U, {"role": "assistant", "contents": "a"}]}"#,
            &["messages[1] has no `content`; found `contents`"],
        ),
        (r#"{"mesages": [@U]}"#, &["found `mesages`, which is probably meant to be `messages`"]),
        (r#"{"prompt": "q", "completions": "a"}"#, &["completions must be a list"]),
        (r#"{"prompt": "q", "completions": ["a"]}"#, &["completions has 1 entries", "two or more"]),
        (
            r#"{"prompt": "q", "completions": ["a", "b", "a"]}"#,
            &["completions[0] and completions[2] are equal"],
        ),
        (r#"{"prompt": "q", "completions": ["a", " "]}"#, &["completions[1] is empty"]),
        (
            r#"{"prompt": "q", "completions": [{"response": "a"}, {"response": "b"}]}"#,
            &["completions[0] must be a string", "ultrafeedback"],
        ),
        (r#"{"completions": ["a", "b"]}"#, &["missing `prompt`"]),
    ]);
}

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

#[test]
fn grades_and_rankings() {
    table(&[
        (
            r#"{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 4}"#,
            &["preference_strength must be a number from -3 (response_1 is better) to 3", "4"],
        ),
        (
            r#"{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": "1"}"#,
            &["preference_strength must be a number"],
        ),
        (
            r#"{"prompt": "q<extra_id_1>Narrator\nx", "response_1": "a", "response_2": "b", "preference_strength": 1}"#,
            &["<extra_id_1> without \"User\" or \"Assistant\""],
        ),
        (
            r#"{"prompt": "q\n<extra_id_1>Assistant\n\n<extra_id_1>User\nr", "response_1": "a", "response_2": "b", "preference_strength": 1}"#,
            &["turn 2 of prompt is empty"],
        ),
        (
            r#"{"context": 3, "response1": "a", "response2": "b", "overall_preference": 1}"#,
            &["context must be a list of messages"],
        ),
        (
            r#"{"context": [@U], "response1": "a", "response2": "a", "overall_preference": 0}"#,
            &["response1 and response2 are equal"],
        ),
        (
            r#"{"prompt": "q", "response_a": "a", "response_b": "b", "wins_a": "3", "wins_b": 1}"#,
            &["wins_a must be a number of votes"],
        ),
        (
            r#"{"prompt": "q", "response_a": "a", "response_b": "b", "wins_a": 0, "wins_b": 0}"#,
            &["wins_a and wins_b have no votes"],
        ),
        (
            r#"{"prompt": "q", "response_a": "a", "response_b": "a", "wins_a": 1, "wins_b": 0}"#,
            &["response_a and response_b are equal"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "b", "overall_score": 3}]}"#,
            &["all answers have the same score (3)", "data.filter"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}]}"#,
            &["there are 1 answers"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "b"}]}"#,
            &["completions[1] has no `overall_score` or `fine-grained_score`"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": "good"}, {"response": "b", "overall_score": 1}]}"#,
            &["completions[0].overall_score must be a number"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, "b"]}"#,
            &["completions[1] must be an object"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"overall_score": 1}]}"#,
            &["completions[1] has no `response`"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "a", "overall_score": 1}]}"#,
            &["completions[0].response and completions[1].response are equal"],
        ),
        (
            r#"{"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": null}]}"#,
            &["answers[1] has no `rank`"],
        ),
        (r#"{"prompt": "q", "answers": "a"}"#, &["answers must be a list of objects"]),
        (
            r#"{"question": "q", "answers": [{"text": "a", "pm_score": 1}, {"pm_score": 2}]}"#,
            &["answers[1] has no `text`"],
        ),
        (
            r#"{"question": "q", "answers": [{"text": "a", "pm_score": 1}, {"text": "b", "pm_score": 1}]}"#,
            &["same score (1)"],
        ),
        (
            r#"{"instruction": "q", "generations": ["a", "b"], "ratings": [1]}"#,
            &["generations has 2 entries and ratings has 1"],
        ),
        (
            r#"{"instruction": "q", "generations": ["a", "b"], "ratings": [1, null]}"#,
            &["ratings[1] must be a number, found null"],
        ),
        (
            r#"{"instruction": "q", "generations": ["a", null], "ratings": [1, 2]}"#,
            &["generations[1] must be a string, found null"],
        ),
        (r#"{"prompt": "q", "completions": ["a", "b"], "scores": [1, 1]}"#, &["same score (1)"]),
        (r#"{"prompt": "q", "completions": ["a", "b"], "ranks": {"a": 1}}"#, &["ranks must be a list"]),
        (
            r#"{"prompt": "q", "completions": ["a", "a"], "scores": [1, 2]}"#,
            &["completions[1] and completions[0] are equal"],
        ),
    ]);
}

#[test]
fn unknown_columns_name_the_nearest_format() {
    table(&[
        (
            r#"{"question": "q", "answer": "b"}"#,
            &["missing `chosen`; found `question`, `answer`", "Every pair", "nearest format", "data.columns"],
        ),
        (
            r#"{"prompt": "q", "response_1": "a", "response_2": "b"}"#,
            &["nearest format is helpsteer2-preference, which also needs `preference_strength`"],
        ),
        (
            r#"{"history": "q", "human_ref_A": "a", "labels": 1}"#,
            &["nearest format is shp, which also needs `human_ref_B`"],
        ),
        (r#"{"x": 1}"#, &["missing `chosen`; found `x`"]),
        (r#"{"conversatons": [@U]}"#, &["probably meant to be `conversations`"]),
    ]);
    let many: Vec<String> = (0..500).map(|i| format!("\"c{i}\": 1")).collect();
    refused(&format!("{{{}}}", many.join(", ")), &["`c23`, and 476 more"]);
}

#[test]
fn a_forced_format_needs_its_columns() {
    refused_by(
        &configured("format: orca-dpo-pairs"),
        r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#,
        &[
            "the format orca-dpo-pairs needs `question`, `chosen`, `rejected`; the row lacks `question` and has `prompt`, `chosen`",
        ],
    );
    refused_by(
        &configured("format: hh-rlhf"),
        r#"{"chosen": "x a", "rejected": "x b"}"#,
        &["chosen begins with \"x a\""],
    );
    refused_by(&configured("format: shp"), "{}", &["has no columns"]);
    refused_by(
        &configured("format: implicit-prompt"),
        r#"{"prompt": "lost words", "chosen": "x a", "rejected": "x b"}"#,
        &["`prompt` (\"lost words\") is not read"],
    );
}
