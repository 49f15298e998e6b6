//! Judgements, repeated prompts, context columns and contradictions that were ignored.

use dpo_lora::data::records::Content;
use dpo_lora::data::{Input, Kind};

use super::{configured, read, refused};

#[track_caller]
fn accepted(row: &str) -> dpo_lora::Record {
    read(row, &configured("")).unwrap_or_else(|error| panic!("{row}: {error}")).unwrap()
}

fn texts(record: &dpo_lora::Record) -> Vec<String> {
    match &record.content {
        Content::Text { answers, .. } => answers.clone(),
        Content::Chat { .. } => panic!("strings"),
    }
}

#[test]
fn completions_are_sorted_by_what_judges_them_or_refused() {
    let row = |column: &str| format!(r#"{{"prompt": "q", "completions": ["a", "b", "c"], {column}}}"#);
    for column in [r#""ratings": [1, 5, 2]"#, r#""scores": ["1", "5", "2"]"#, r#""ranks": [3, 1, 2]"#] {
        assert_eq!(texts(&accepted(&row(column))), ["b", "c", "a"], "{column}");
    }
    for name in ["rank", "score", "rewards", "completion_scores", "labels", "x"] {
        let named = format!("`{name}` ([1,5,2]) has an entry for each of completions");
        refused(
            &row(&format!(r#""{name}": [1, 5, 2]"#)),
            &[&named, &format!("{{scores: {name}}}"), &format!("{{{name}: null}}")],
        );
        let out = configured(&format!("columns: {{{name}: null}}"));
        let record = read(&row(&format!(r#""{name}": [1, 5, 2]"#)), &out).unwrap().unwrap();
        assert_eq!(texts(&record), ["a", "b", "c"]);
    }
    for column in [r#""best": 1"#, r#""chosen": 2"#, r#""winner": "b""#] {
        refused(&row(column), &["says which of completions is the best"]);
    }
    for column in [r#""id": 1"#, r#""tags": ["x", "y", "z"]"#, r#""lengths": [1, 2]"#, r#""best": null"#] {
        assert_eq!(texts(&accepted(&row(column))), ["a", "b", "c"], "{column}");
    }
}

#[test]
fn judgements_of_a_list_that_contradict_each_other_are_refused() {
    let row = |columns: &str| format!(r#"{{"prompt": "q", "completions": ["a", "b", "c"], {columns}}}"#);
    refused(
        &row(r#""ranks": [1, 3, 2], "scores": [1, 3, 2]"#),
        &["by ranks completions[0] is better than completions[2], by scores it is worse", "{scores: null}"],
    );
    refused(&row(r#""scores": [1, 3, 2], "ratings": ["2", "1", "2"]"#), &["scores and ratings contradict"]);
    for columns in [
        r#""ranks": [1, 3, 2], "scores": [9, 1, 5]"#,
        r#""ranks": [1, 3, 2], "scores": [9, 5, 5]"#,
        r#""ranks": [1, 3, 2], "scores": null, "ratings": ["good", "bad", "bad"]"#,
    ] {
        assert_eq!(texts(&accepted(&row(columns))), ["a", "c", "b"], "{columns}");
    }
    refused(
        r#"{"instruction": "q", "generations": ["a", "b"], "ratings": [1, 2], "rating": [2, 1]}"#,
        &["ratings and rating contradict"],
    );
}

#[test]
fn labels_of_judged_answers_have_few_spellings() {
    let messages =
        r#""messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label""#;
    let conversations =
        r#""conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag""#;
    let alpaca = r#""instruction": "q", "output": "a", "label""#;
    let completion = r#""prompt": "q", "completion": "a", "label""#;
    for start in [messages, conversations, alpaca, completion] {
        let row = |value: &str| format!("{{{start}: {value}}}");
        for (value, desirable) in
            [("true", true), ("0", false), ("1", true), ("\"False\"", false), ("\"true\"", true)]
        {
            assert_eq!(accepted(&row(value)).kind, Kind::Judged { desirable }, "{start}: {value}");
        }
        for value in ["2", "0.5", "\"bad\"", "\"FALSE\"", "[true]", "{}"] {
            refused(&row(value), &["must be true", "or false, found"]);
        }
    }
}

#[test]
fn judgements_beside_a_single_answer_are_refused_unless_they_are_dealt_with() {
    let row = r#"{"prompt": "q", "completion": "a", "rating": 1}"#;
    refused(row, &["`rating` (1) is not read", "{label: rating}", "data.filter", "{rating: null}"]);
    for yaml in ["filter: rating >= 1", "columns: {rating: null}"] {
        assert_eq!(read(row, &configured(yaml)).unwrap().unwrap().kind, Kind::Text, "{yaml}");
    }
    let labelled = read(row, &configured("columns: {label: rating}")).unwrap().unwrap();
    assert_eq!(labelled.kind, Kind::Judged { desirable: true });
    for column in
        [r#""desirable": false"#, r#""labels": 0"#, r#""feedback": "thumbs_down""#, r#""is_good": false"#]
    {
        refused(&format!(r#"{{"prompt": "q", "completion": "a", {column}}}"#), &["is not read", "imitated"]);
    }
    accepted(r#"{"prompt": "q", "completion": "a", "source": "x", "id": 3, "feedback": "A longer remark."}"#);
    accepted(r#"{"prompt": "q", "completion": "a", "label": true, "score": 0.5}"#);
}

#[test]
fn repeated_prompts_are_refused_in_all_records() {
    for row in [
        r#"{"prompt": "Name one. ", "chosen": "Name one.\nLoire", "rejected": "Name one.\nElbe"}"#,
        r#"{"prompt": "Q: x\nA:", "completion": "Q: x\nA: Loire"}"#,
        r#"{"prompt": "Q: x\nA:", "completion": "Q: x\nA: Loire", "label": true}"#,
        r#"{"prompt": "Q: x\nA:", "completions": ["Q: x\nA: Loire", "Q: x\nA: Elbe"]}"#,
        r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Name one."}], "chosen": [{"role": "user", "content": "Name one."}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "Name one."}, {"role": "assistant", "content": "b"}]}"#,
        r#"{"prompt": [{"role": "user", "content": "Name one."}], "chosen": [{"role": "assistant", "content": "Name one. a"}], "rejected": [{"role": "assistant", "content": "Name one. b"}]}"#,
    ] {
        refused(row, &["repeat"]);
    }
    accepted(r#"{"prompt": "Paris", "completion": "Paris is a town."}"#);
    accepted(r#"{"prompt": "Name one. ", "chosen": "Name one.\nLoire", "rejected": "Elbe"}"#);
}

#[test]
fn context_under_other_names_is_refused() {
    let row = |column: &str| format!(r#"{{{column}, "prompt": "q", "chosen": "a", "rejected": "b"}}"#);
    for column in [
        r#""system_message": "Be brief""#,
        r#""instructions": "Be brief""#,
        r#""contexts": ["It is long."]"#,
        r#""article": "It is long.""#,
        r#""passage_text": "It is long.""#,
        r#""choices": ["x", "y"]"#,
    ] {
        refused(&row(column), &["is not read", ": null}"]);
    }
    for column in [
        r#""context_id": "a b""#,
        r#""document_url": "http://x y""#,
        r#""instruction_type": "open question""#,
        r#""option": 3"#,
        r#""contexts": []"#,
    ] {
        accepted(&row(column));
    }
    let chat = r#"{"functions": [{"name": "look_up"}], "prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#;
    refused(chat, &["`functions`", "{tools: functions}"]);
}

#[test]
fn contradictions_are_doubts_and_labels_below_a_half_are_none() {
    let doubts = |columns: &str| {
        accepted(&format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "b", {columns}}}"#)).doubts.len()
    };
    assert_eq!(doubts(r#""chosen_score": 1, "rejected_score": 9"#), 1);
    assert_eq!(doubts(r#""winner": "rejected""#), 1);
    assert_eq!(doubts(r#""chosen_score": 9, "rejected_score": 1, "winner": "chosen""#), 0);
    assert_eq!(doubts(r#""chosen_score": 1, "rejected_score": 9, "label": 0.25"#), 0);
}

#[test]
fn integers_keep_their_digits_or_are_refused_by_place() {
    let rows = |value: &str| {
        let row =
            format!("{{\"prompt\": \"a\\\" 1\", \"chosen\": \"b\", \"rejected\": \"c\", \"id\": {value}}}");
        Input::text("t.jsonl", format!("\n{row}\n"))
            .rows()
            .unwrap()
            .next()
            .unwrap()
            .map_err(|e| e.to_string())
    };
    for value in
        ["18446744073709551615", "-9223372036854775808", "1e30", "1.5", "\"123456789012345678901234567890\""]
    {
        assert!(rows(value).is_ok(), "{value}");
    }
    let error = rows("[1, 123456789012345678901234567890]").unwrap_err();
    for part in [
        "t.jsonl:2: ",
        "column 63",
        "123456789012345678901234567890",
        "beyond 64 bits",
        "write it as a string",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn arguments_of_calls_become_objects() {
    let call = r#"{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}"#;
    let row = format!(
        r#"{{"input": {{"messages": [{{"role": "user", "content": "q"}}]}}, "preferred_output": [{call}], "non_preferred_output": [{{"role": "assistant", "content": "b"}}]}}"#
    );
    let Content::Chat { answers, .. } = accepted(&row).content else { panic!("a conversation") };
    assert_eq!(answers[0][0].fields()["tool_calls"][0]["function"]["arguments"], serde_json::json!({"a": 1}));
}

/// Reads the rows of a file of cells.
fn cells(text: &str, yaml: &str) -> Vec<Result<Option<dpo_lora::Record>, String>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.csv");
    std::fs::write(&path, text).unwrap();
    let reader = dpo_lora::data::RecordReader::new(&configured(yaml)).unwrap();
    let input = Input::File(path, dpo_lora::data::format::Format::Csv);
    let rows = input.rows().unwrap();
    rows.map(|row| reader.read(row.unwrap()).map_err(|error| error.to_string())).collect()
}

#[test]
fn cells_have_the_type_that_their_column_means() {
    let excel = cells("prompt,completion,label\nq,a,FALSE\n", "").remove(0).unwrap().unwrap();
    assert_eq!(excel.kind, Kind::Judged { desirable: false });
    let pair = cells("prompt,chosen,rejected,label\n1,2,true,0.25\n", "").remove(0).unwrap().unwrap();
    assert_eq!((pair.kind, texts(&pair)), (Kind::pair(0.25), vec!["2".into(), "true".into()]));
    let judged = cells("prompt,completion,label\nq,a,False\nq,b,1\nq,c,maybe\n", "");
    let kinds: Vec<_> = judged.iter().map(|row| row.as_ref().map(|r| r.as_ref().unwrap().kind)).collect();
    assert_eq!(kinds[..2], [Ok(Kind::Judged { desirable: false }), Ok(Kind::Judged { desirable: true })]);
    assert!(kinds[2].as_ref().unwrap_err().contains("a string (\"maybe\")"));
    let ranked =
        cells("prompt,completions,scores\nq,\"[\"\"bad\"\",\"\"good\"\"]\",\"[1,5]\"\n", "").remove(0);
    assert_eq!(texts(&ranked.unwrap().unwrap()), ["good", "bad"]);
    let filtered =
        cells("prompt,chosen,rejected,score\n3,a,b,3\n3,a,b,1\n", "filter: score > 2 and len(prompt) == 1");
    assert_eq!(filtered.iter().map(|row| row.as_ref().unwrap().is_some()).collect::<Vec<_>>(), [true, false]);
    let votes = cells("prompt,chosen,rejected,votes_chosen,votes_rejected\nq,a,b,3,1\n", "").remove(0);
    assert_eq!(votes.unwrap().unwrap().kind, Kind::pair(0.75));
}

#[test]
fn a_cell_that_spells_a_missing_value_is_a_doubt() {
    let doubts = |row: &str| {
        cells(&format!("prompt,chosen,rejected\n{row}\n"), "").remove(0).unwrap().unwrap().doubts.len()
    };
    assert_eq!((doubts("q,Loire,nan"), doubts("NA,a,b"), doubts("q,a,nanny")), (1, 1, 0));
}

#[test]
fn other_layouts_of_json_are_read_or_named() {
    let rows = |text: &'static str| {
        dpo_lora::data::format::Format::Json.parse(text, "t.json".into()).map(Iterator::count)
    };
    let viewed = r#"{"features": [{"name": "a"}], "rows": [{"row_idx": 0, "row": {"prompt": "q"}}, {"row_idx": 1, "row": {}}]}"#;
    assert_eq!(rows(viewed).unwrap(), 2);
    for (text, part) in [
        (r#"{"prompt": ["a", "b"], "chosen": ["x", "x"], "rejected": ["y", "y"]}"#, "a list for each column"),
        (r#"{"prompt": {"0": "a"}, "chosen": {"0": "x"}}"#, "by their index"),
        (r#"{"columns": ["prompt"], "index": [0], "data": [["a"]]}"#, "orient=\"split\""),
        (r#"{"0": {"prompt": "a"}, "1": {"prompt": "b"}}"#, "orient=\"index\""),
    ] {
        let error = rows(text).err().unwrap_or_else(|| panic!("{text}")).to_string();
        assert!(error.contains(part) && error.contains("lines=True"), "{error}");
    }
}
