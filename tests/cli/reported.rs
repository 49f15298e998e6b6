//! The page of a run.

use serde_json::{Value, json};

use crate::common::program::Place;

/// The figures that a page holds.
fn figures(page: &str) -> Value {
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(data).unwrap()
}

#[test]
fn a_run_leaves_a_page_and_several_are_laid_over_each_other() {
    let place = Place::new();
    // A rate at which the watchdogs warn.
    let more = [
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(30)),
        ("train.learning_rate", json!(0.02)),
        ("watch.max_reward", json!(0.01)),
    ];
    place.llama_recipe(&more);
    for run in ["runs/a", "runs/b"] {
        let seed = if run == "runs/a" { "seed=1" } else { "seed=2" };
        place.run(&["train", "-c", "run.yaml", "--set", seed, "--set", &format!("output_dir={run}")]).ok();
    }
    let page = String::from_utf8(place.read("runs/a/report.html")).unwrap();
    let found = figures(&page);
    let run = &found["runs"][0];
    assert_eq!((&run["name"], run["curves"]["loss"].as_array().unwrap().len()), (&json!("runs/a"), 30));
    assert_eq!(run["curves"]["loss"][0], json!([1, std::f64::consts::LN_2]));
    assert_eq!(run["curves"]["eval_loss"].as_array().unwrap().len(), 2);
    assert_eq!(run["settings"]["lora.r"], "3");
    assert!(!run["warnings"].as_array().unwrap().is_empty(), "{}", run["warnings"]);
    // Nothing is loaded from elsewhere.
    for word in ["src=", "href=", "@import", "fetch("] {
        assert!(!page.contains(word), "{word}");
    }
    place.run(&["report", "runs/a", "runs/b", "--output", "both.html"]).ok();
    let both = String::from_utf8(place.read("both.html")).unwrap();
    assert_eq!(figures(&both)["runs"].as_array().unwrap().len(), 2);
    place.run(&["report", "runs"]).ok();
    assert_eq!(place.read("report.html"), both.as_bytes());
    let wrong = place.run(&["report", "runs/c"]);
    assert!(
        wrong.code == Some(2) && wrong.stderr.contains("runs/c does not exist; did you mean runs/"),
        "{}",
        wrong.stderr
    );
    std::fs::remove_file(place.path("runs/a/metrics.jsonl")).unwrap();
    let silent = place.run(&["report", "runs/a"]);
    let said = "runs/a is a run without a metrics.jsonl: it has logged nothing, or the file was removed; did you mean runs/b?";
    assert!(silent.code == Some(2) && silent.stderr.contains(said), "{}", silent.stderr);
    place.write("runs/b/metrics.jsonl", "{\"step\":\"x\",\"loss\":{\"a\":1}}\n");
    let damaged = place.run(&["report", "runs/b"]);
    let said = "runs/b/metrics.jsonl:1: `step` is \"x\"; it must be a whole number";
    assert!(damaged.code == Some(1) && damaged.stderr.contains(said), "{}", damaged.stderr);
}
