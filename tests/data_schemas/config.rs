//! `data.format`, `data.columns` and `data.filter`, for all sources and for a single one.

use dpo_lora::data::{DataSource, Input, RecordReader, Schema};

use super::{configured, read, refused_by, shown};

#[test]
fn columns_get_the_names_of_a_schema() {
    let config = configured("columns: {prompt: frage, chosen: gut, rejected: schlecht}");
    let record = read(r#"{"frage": "q", "gut": "a", "schlecht": "b"}"#, &config).unwrap().unwrap();
    assert_eq!(record.schema, Schema::Preference);
    assert_eq!(shown(&record)["prompt"], "q");
    refused_by(
        &config,
        r#"{"frage": "q", "gut": "a"}"#,
        &["`rejected` from `schlecht`, which the row lacks", "it has `frage`, `gut`"],
    );
    let nested = configured("columns: {prompt: row.q, chosen: row.answers.0, rejected: row.answers.1}");
    let record = read(r#"{"row": {"q": "q", "answers": ["a", "b"]}}"#, &nested).unwrap().unwrap();
    assert_eq!(shown(&record)["answers"], serde_json::json!(["a", "b"]));
}

#[test]
fn the_filter_reads_the_columns_of_the_file() {
    let config = configured(
        "columns: {prompt: question}\nfilter: chosen_score - rejected_score >= 1 and len(question) > 2",
    );
    let row = |scores: &str| format!(r#"{{"question": "Where?", "chosen": "a", "rejected": "b", {scores}}}"#);
    let kept = read(&row(r#""chosen_score": 4.5, "rejected_score": 3"#), &config).unwrap();
    assert_eq!(kept.unwrap().schema, Schema::Preference);
    assert_eq!(read(&row(r#""chosen_score": 3.5, "rejected_score": 3"#), &config).unwrap(), None);
    refused_by(
        &config,
        &row(r#""chosen_score": 3.5"#),
        &["no column `rejected_score`; the row has `question`"],
    );
    refused_by(
        &config,
        &row(r#""chosen_score": "high", "rejected_score": 3"#),
        &["- needs numbers", "\"high\""],
    );
    // A row that is filtered out need not be a record.
    assert_eq!(read(r#"{"chosen_score": 0, "rejected_score": 0, "question": ""}"#, &config).unwrap(), None);
    refused_by(&configured("filter: score"), r#"{"score": 3}"#, &["data.filter gives a number (3)"]);
}

#[test]
fn malformed_settings_are_errors_of_the_configuration() {
    for (yaml, part) in [
        ("format: hh_rlhf", "data.format: `hh_rlhf` is no known format; did you mean `hh-rlhf`?"),
        ("filter: a >", "data.filter at its end: expected a value"),
    ] {
        let error = RecordReader::new(&configured(yaml)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn mixed_files_are_read_by_the_columns_of_each_row() {
    let rows = "{\"question\": \"q\", \"chosen\": \"a x\", \"rejected\": \"a y\"}\n{\"chosen\": \"a x\", \"rejected\": \"a y\"}";
    let schemas = |yaml: &str| {
        let reader = RecordReader::new(&configured(yaml)).unwrap();
        let rows = Input::text("t", rows).rows().unwrap();
        rows.map(|row| Ok(reader.read(row?)?.map(|record| record.schema)))
            .collect::<dpo_lora::Result<Vec<_>>>()
    };
    assert_eq!(schemas("format: mixed").unwrap(), [Some(Schema::OrcaDpoPairs), Some(Schema::ImplicitPrompt)]);
    assert!(schemas("").unwrap_err().to_string().starts_with("t:2: this row has the format implicit-prompt"));
    assert!(
        schemas("format: orca-dpo-pairs")
            .unwrap_err()
            .to_string()
            .starts_with("t:2: the format orca-dpo-pairs needs")
    );
}

#[test]
fn settings_of_a_source_precede_those_of_all() {
    let config = configured("format: shp\ncolumns: {prompt: x}\nfilter: 'false'");
    let yaml = "{path: a, format: preference, columns: {prompt: q}, filter: 'true'}";
    let source: DataSource = serde_yaml::from_str(yaml).unwrap();
    let read = |reader: &RecordReader| {
        let text = r#"{"q": "q", "chosen": "a", "rejected": "b"}"#;
        reader.read(Input::text("t", text).rows().unwrap().next().unwrap().unwrap()).unwrap()
    };
    let record = read(&RecordReader::of(&config, &source).unwrap()).unwrap();
    assert_eq!(record.schema, Schema::Preference);
    assert_eq!(read(&RecordReader::of(&config, &DataSource::new("a")).unwrap()), None);
    assert!(
        RecordReader::of(&configured(""), &serde_yaml::from_str("{path: a, format: zz}").unwrap()).is_err()
    );
}
