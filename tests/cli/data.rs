//! `data check`, `data show` and `data convert`.

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::Place;

/// Three records of one pair, one of them reversed; a label, a special token, two invalid rows and another pair.
const TRAIN: &str = r#"{"prompt": "The river runs", "chosen": " down to the sea.", "rejected": " up."}
{"prompt": "The river runs", "chosen": " down to the sea.", "rejected": " up."}
{"prompt": "The river runs", "chosen": " up.", "rejected": " down to the sea."}
{"prompt": "a", "chosen": " b</s> c", "rejected": " d", "label": 0.25}
{"prompt": "a", "chosen": "", "rejected": " d"}
not json
{"prompt": "A longer prompt for the pair", "chosen": " one two", "rejected": " six"}
"#;

/// A record of the training data, and one that has a prompt of the training data.
const EVAL: &str = r#"{"prompt": "The river runs", "chosen": " down to the sea.", "rejected": " up."}
{"prompt": "a", "chosen": " z", "rejected": " y"}
"#;

fn place() -> (Place, String) {
    let place = Place::new();
    place.write("t.jsonl", TRAIN);
    place.write("e.jsonl", EVAL);
    (place, fixture("models/llama").to_str().unwrap().to_string())
}

fn report(place: &Place, args: &[&str], code: i32) -> Value {
    let ran = place.run(&[&["data", "check", "--json"], args].concat());
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn check_counts_characters_without_a_base() {
    let (place, _) = place();
    let found = report(&place, &["t.jsonl", "--eval", "e.jsonl"], 1);
    let train = &found["train"];
    assert_eq!((&train["records"], &train["kinds"]), (&json!(5), &json!({"pair (strings)": 5})));
    assert_eq!(train["refused"]["count"], 2);
    let first = train["refused"]["first"].as_array().unwrap();
    assert!(first[0].as_str().unwrap().starts_with("t.jsonl:5: chosen is empty"), "{first:?}");
    assert!(first[1].as_str().unwrap().starts_with("t.jsonl:6: not valid JSON"), "{first:?}");
    assert_eq!(train["unit"], "characters");
    let lengths = |count, p50, p90| json!({"count": count, "p50": p50, "p90": p90, "p99": p90, "max": p90});
    assert_eq!(train["lengths"]["chosen"], lengths(5, 8, 17));
    assert_eq!(train["lengths"]["prompt"], lengths(5, 14, 28));
    assert_eq!(train["lengths"]["rejected"], lengths(5, 4, 17));
    let bar = |from, to, count| json!({"from": from, "to": to, "count": count});
    assert_eq!(train["histogram"], json!([bar(8, 15, 1), bar(16, 31, 3), bar(32, 63, 1)]));
    assert_eq!(
        train["repeats"],
        json!({
            "duplicates": 1, "first_duplicate": ["t.jsonl:1", "t.jsonl:2"],
            "conflicts": 1, "first_conflict": ["t.jsonl:1", "t.jsonl:3"]
        })
    );
    // The differences are 13, 13, −13, 6 and 4.
    let bias = &train["length_bias"];
    assert_eq!((&bias["chosen_longer"], &bias["mean_difference"]), (&json!(0.8), &json!(4.6)));
    let variance = [13.0, 13.0, -13.0, 6.0, 4.0].map(|d: f64| (d - 4.6).powi(2)).iter().sum::<f64>() / 4.0;
    assert!((bias["z"].as_f64().unwrap() - 4.6 / (variance / 5.0).sqrt()).abs() < 1e-9, "{bias}");
    assert_eq!(train["labels"], json!({"pairs": 5, "labelled": 1, "below_half": 1}));
    assert_eq!(
        found["leaks"],
        json!({
            "records": 1, "first_record": ["t.jsonl:1", "e.jsonl:1"],
            "prompts": 2, "first_prompt": ["t.jsonl:1", "e.jsonl:1"]
        })
    );
    assert_eq!(found["eval"]["records"], 2);
    assert_eq!((&found["tokens"], &found["peak_memory"]), (&Value::Null, &Value::Null));
    assert_eq!(found["errors"], json!(["2 records are invalid"]));
    assert_eq!(found["warnings"].as_array().unwrap().len(), 5, "{}", found["warnings"]);
}

#[test]
fn check_counts_tokens_with_a_base() {
    let (place, base) = place();
    let found = report(&place, &["t.jsonl", "--base", &base, "--max-length", "9"], 1);
    let train = &found["train"];
    assert_eq!(train["unit"], "tokens");
    assert_eq!(train["lengths"]["chosen"], json!({"count": 5, "p50": 6, "p90": 10, "p99": 10, "max": 10}));
    assert_eq!(
        train["special_tokens"],
        json!([{"token": "</s>", "within": "strings", "records": 1, "first": "t.jsonl:4"}])
    );
    let cut = &train["truncation"];
    assert_eq!(
        (&cut["truncated"], &cut["dropped"], &cut["lost_tokens"]),
        (&json!(0), &json!(4), &json!(108))
    );
    assert!(cut["first_dropped"][0].as_str().unwrap().starts_with("t.jsonl:1: its prompt of 10 tokens"));
    // The remaining record has 2 tokens of prompt, and 5 and 3 of the answers, whose last tokens are only targets.
    assert_eq!((&found["tokens"]["packed"], &found["tokens"]["unpacked"]), (&json!(6), &json!(10)));
    assert!((found["tokens"]["saved"].as_f64().unwrap() - 0.4).abs() < 1e-12);
    assert!(found["peak_memory"].as_u64().unwrap() > 0);
}

#[test]
fn check_ends_well_where_nothing_is_wrong_and_says_the_same_to_people() {
    let (place, base) = place();
    let found = report(&place, &["e.jsonl"], 0);
    assert_eq!((&found["errors"], &found["warnings"]), (&json!([]), &json!([])));
    let text = place.run(&["data", "check", "e.jsonl", "--base", &base]).ok();
    for part in ["records            2\n", "leaks", "peak memory", "p50 3, p90 10, p99 10, max 10 tokens"] {
        assert_eq!(text.contains(part), part != "leaks", "{part}: {text}");
    }
    place.write("empty.jsonl", "");
    assert_eq!(report(&place, &["empty.jsonl"], 1)["errors"], json!(["there are no records"]));
    for args in [&["data", "check", "e.jsonl", "--max-length", "9"][..], &["data", "check"], &["data"]] {
        assert_eq!(place.run(args).code, Some(2), "{args:?}");
    }
    assert_eq!(place.run(&["data", "check", "missing.jsonl"]).code, Some(2));
}

#[test]
fn columns_and_filter_of_a_configuration_are_applied() {
    let (place, base) = place();
    place.write(
        "t.jsonl",
        "{\"q\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\", \"score\": 1}\n\
         {\"q\": \"d\", \"chosen\": \" e\", \"rejected\": \" f\", \"score\": 3}\n",
    );
    place.write(
        "run.yaml",
        format!(
            "output_dir: run\nmodel: {{base: {base}}}\ndata:\n  train: t.jsonl\n  columns: {{prompt: q}}\n  filter: score > 2\n"
        ),
    );
    let found = report(&place, &["--config", "run.yaml"], 0);
    assert_eq!((&found["train"]["records"], &found["train"]["unit"]), (&json!(1), &json!("tokens")));
    place.run(&["data", "convert", "--config", "run.yaml", "-o", "o.jsonl"]).ok();
    let written: Value = serde_json::from_slice(&place.read("o.jsonl")).unwrap();
    assert_eq!(written, json!({"prompt": "d", "chosen": " e", "rejected": " f"}));
}

#[test]
fn convert_writes_what_reads_back_and_nothing_of_invalid_data() {
    let (place, _) = place();
    let schemas = fixture("schemas/ultrafeedback-binarized.jsonl");
    place.run(&["data", "convert", schemas.to_str().unwrap(), "-o", "o.jsonl"]).ok();
    place.run(&["data", "convert", "o.jsonl", "-o", "again.jsonl"]).ok();
    assert_eq!(place.read("o.jsonl"), place.read("again.jsonl"));
    let ran = place.run(&["data", "convert", "t.jsonl", "-o", "none.jsonl"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("t.jsonl:5: ") && ran.stderr.contains("t.jsonl:6: "), "{}", ran.stderr);
    assert!(!place.path("none.jsonl").exists());
    for output in ["o.json", "e.jsonl"] {
        assert_eq!(place.run(&["data", "convert", "e.jsonl", "-o", output]).code, Some(2), "{output}");
    }
    assert_eq!(place.read("e.jsonl"), EVAL.as_bytes());
}

/// Gold answers and margins, which only some losses read, are shown, counted and kept.
#[test]
fn triples_and_margins_are_shown_counted_and_kept() {
    let (place, base) = place();
    let rows = "{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\", \"reference\": \" b c\"}\n\
                {\"prompt\": \"a\", \"chosen\": \" d\", \"rejected\": \" e\", \"label\": 0.75, \"margin\": -0.5}\n";
    place.write("triples.jsonl", rows);
    place.run(&["data", "convert", "triples.jsonl", "-o", "again.jsonl"]).ok();
    let written = String::from_utf8(place.read("again.jsonl")).unwrap();
    let parsed =
        |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(parsed(&written), parsed(rows));
    for more in [&[][..], &["--base", &base]] {
        let args = [&["data", "show", "triples.jsonl", "-n", "2"][..], more].concat();
        let shown = place.run(&args).ok();
        assert!(
            shown.contains("triple") && shown.contains("reference") && shown.contains("pair, label 0.75"),
            "{shown}"
        );
        let args = [&["data", "check", "triples.jsonl"][..], more].concat();
        let found = place.run(&args).ok();
        for part in ["triple (strings)", "pair (strings)", "reference"] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }
    place.write(
        "margin.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\", \"margin\": \"wide\"}\n",
    );
    place.run(&["data", "convert", "margin.jsonl", "-o", "none.jsonl"]).ok();
    assert_eq!(
        parsed(&String::from_utf8(place.read("none.jsonl")).unwrap()),
        [json!({"prompt": "a", "chosen": " b", "rejected": " c"})]
    );
}

#[test]
fn show_marks_scored_and_special_tokens() {
    let (place, base) = place();
    let shown = place.run(&["data", "show", "t.jsonl", "--base", &base, "-n", "1", "--start", "3"]).ok();
    assert_eq!(
        shown,
        "t.jsonl:3 (pair)\nprompt, 10 tokens:\n{<s>}The river runs\nchosen, 5 tokens, 5 of them scored:\n\
         [ ][u][p][.][{</s>}]\nrejected, 10 tokens, 10 of them scored:\n[ do][w][n][ t][o][ the][ s][ea][.][{</s>}]\n\n"
    );
    place.write("x.jsonl", "{\"prompt\": \"<b>\\u001b[0m\", \"chosen\": \"\\\"&\", \"rejected\": \"c\"}\n");
    let shown = place.run(&["data", "show", "x.jsonl"]).ok();
    assert!(shown.contains("prompt:\n<b>\\u{1b}\\[0m\nchosen:\n[\"&]\n"), "{shown}");
    place.run(&["data", "show", "x.jsonl", "--html", "x.html"]).ok();
    let page = String::from_utf8(place.read("x.html")).unwrap();
    assert!(page.contains("<span>&lt;b&gt;␛[0m</span>") && page.contains("&quot;&amp;"), "{page}");
    assert!(!page.contains("<b>") && !page.contains('\u{1b}'), "{page}");
    // An invalid record is reported, and the others are shown.
    let ran = place.run(&["data", "show", "t.jsonl", "--start", "4", "-n", "4"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("t.jsonl:5: ") && ran.stdout.contains("t.jsonl:7 "), "{}", ran.stderr);
    assert_eq!(place.run(&["data", "show", "e.jsonl", "--start", "3"]).code, Some(1));
}

#[test]
fn files_of_a_directory_that_may_not_belong_together_are_named() {
    let place = Place::new();
    for directory in ["d/more", "e"] {
        std::fs::create_dir_all(place.path(directory)).unwrap();
    }
    place.write("d/a.jsonl", EVAL);
    place.write("d/a.csv", "prompt,chosen,rejected\nq,b,c\n");
    place.write("d/more/b.jsonl", EVAL);
    place.write("d/._a.jsonl", [0_u8, 5, 22, 7]);
    let ran = place.run(&["data", "check", "d", "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &found["train"]["records"]), (Some(0), &json!(3)), "{}", ran.stderr);
    for part in ["d/a.csv and d/a.jsonl differ in their format alone", "subdirectories", "d/more/b.jsonl"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    place.write("e/a.jsonl", EVAL);
    place.write("e/b.jsonl", "");
    place.llama_recipe(&[("data.train", json!("e"))]);
    let ran = place.run(&["train", "-c", "run.yaml", "--dry-run"]);
    assert!(ran.stderr.contains("e/b.jsonl: the file is empty and adds no records"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("e/a.jsonl: the file is empty"), "{}", ran.stderr);
}

#[test]
fn quotation_marks_that_join_rows_of_commas_are_a_warning() {
    let place = Place::new();
    place.write("t.csv", "prompt,chosen,rejected\nq1,\"foo a,b1\nq2,bar\",b2\nq3,x,y\n");
    let ran = place.run(&["data", "check", "t.csv", "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &found["train"]["records"]), (Some(0), &json!(2)), "{}", ran.stderr);
    let part = "t.csv:2: quotation marks join 2 lines into one record, and without them each line would be a row of 3 cells";
    assert!(ran.stderr.contains(part), "{}", ran.stderr);
}
