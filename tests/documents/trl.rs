//! The page for those who come from TRL names every field of TRL's configurations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{prose, read};

/// Words of code spans, without the class and the value: `DPOConfig.loss_type` is `loss_type`.
fn named(page: &str) -> BTreeSet<String> {
    let prose = prose(page);
    let spans = prose.split('`').skip(1).step_by(2);
    let names = spans.filter_map(|span| span.split([':', ' ', '=']).next()?.rsplit('.').next());
    names.map(String::from).collect()
}

#[test]
fn every_field_of_trls_configurations_is_named() {
    let named = named(&read("docs/src/trl.md"));
    let fields: Value = serde_json::from_str(&read("tests/fixtures/trl_fields.json")).unwrap();
    let mut seen = 0;
    for (config, fields) in fields.as_object().unwrap().iter().filter(|(config, _)| *config != "versions") {
        let fields: Vec<&String> = fields.as_object().unwrap().keys().collect();
        let missing: Vec<_> = fields.iter().filter(|field| !named.contains(field.as_str())).collect();
        assert!(missing.is_empty(), "docs/src/trl.md does not name {missing:?} of {config}");
        seen += fields.len();
    }
    assert!(seen > 270, "{seen}");
}

#[test]
fn fields_are_found_in_code_spans() {
    let found = named("`a`, `B.c_d` and `e: f`\n\n    `g`\n");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "c_d", "e"]);
}
