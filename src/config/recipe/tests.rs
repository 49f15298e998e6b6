use super::*;
use crate::objective::{Objective, Sigmoid};

const COMMON: &str = "output_dir: out\nmodel: {base: m}\n";

fn read(stages: &str, overrides: &[&str]) -> Result<Staged> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    match Recipe::from_yaml(&format!("{COMMON}{stages}"), "run.yaml", &overrides)? {
        Recipe::Staged(staged) => Ok(staged),
        Recipe::Single(config) => panic!("{config:?}"),
    }
}

fn refused(stages: &str, overrides: &[&str]) -> String {
    let error = read(stages, overrides).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

const TWO: &str = "data: {train: pairs.jsonl}\nobjective: {beta: 0.3}\nlora: {r: 4}\nstages:\n  - name: sft\n    data:\n      \
                   train: texts.jsonl\n    train: {learning_rate: 2.0e-4}\n  - name: dpo\n    lora:\n      lora_dropout: 0.1\n";

#[test]
fn names_alone_are_stages() {
    let staged = read("data: {train: p}\nstages: [preferred_ft, dpo, unlikelihood]\n", &[]).unwrap();
    let losses: Vec<_> =
        staged.stages.iter().map(|stage| stage.config.objective.loss_type[0].as_str()).collect();
    assert_eq!(losses, ["sft", "sigmoid", "unlikelihood"]);
    assert_eq!(staged.output_dir, Path::new("out"));
    assert_eq!(staged.stages[1].config.output_dir, Path::new("out/2-dpo"));
    assert_eq!(staged.stages[2].config.lora.init_from.as_deref(), Some(Path::new("out/2-dpo/adapter")));
}

#[test]
fn own_keys_go_over_common_ones_and_the_command_line_over_both() {
    let staged = read(TWO, &["train.learning_rate=1e-3", "stages.dpo.objective.beta=0.7"]).unwrap();
    let [sft, dpo] = &staged.stages[..] else { panic!("{staged:?}") };
    assert_eq!(sft.config.data.train.paths(), ["texts.jsonl"]);
    assert_eq!(dpo.config.data.train.paths(), ["pairs.jsonl"]);
    assert_eq!((sft.config.train.learning_rate, dpo.config.train.learning_rate), (1e-3, 1e-3));
    assert_eq!(
        dpo.config.objective,
        ObjectiveConfig::from(&Objective::new(Sigmoid { beta: 0.7, ..Sigmoid::default() }))
    );
    // The shape of the adapter that is gone on with is that of the first stage.
    assert_eq!((dpo.config.lora.r, dpo.config.lora.lora_dropout), (4, 0.1));
}

#[test]
fn a_stack_leaves_the_adapters_below_frozen() {
    let stages = "data: {train: p}\nmodel: {base: m, adapter: own}\nstages: [sft, {name: dpo, adapter: stack, lora: {r: 2}}, \
                  {name: ipo}]\n";
    let text = format!("output_dir: out\n{stages}");
    let Recipe::Staged(staged) = Recipe::from_yaml(&text, "run.yaml", &[]).unwrap() else { panic!() };
    let frozen = |index: usize| staged.stages[index].config.model.adapter.clone();
    assert_eq!(frozen(0), [PathBuf::from("own")]);
    assert_eq!(frozen(1), [PathBuf::from("own"), "out/1-sft/adapter".into()]);
    assert_eq!(frozen(2), frozen(1));
    let lora = |index: usize| staged.stages[index].config.lora.clone();
    assert_eq!((lora(1).init_from, lora(1).r), (None, 2));
    assert_eq!((lora(2).init_from, lora(2).r), (Some("out/2-dpo/adapter".into()), 2));
}

#[test]
fn the_resolved_file_reads_back() {
    for text in [TWO, "data: {train: p}\nstages: [sft, {name: dpo, adapter: stack, lora: {r: 2}}, ipo]\n"] {
        let staged = read(text, &[]).unwrap();
        let again = Recipe::from_yaml(&staged.to_yaml().unwrap(), "resolved", &[]).unwrap();
        assert_eq!(again, Recipe::Staged(staged));
    }
}

#[test]
fn wrong_stages_are_told_with_their_lines() {
    let text = "data: {train: p}\nstages:\n  - name: sft\n    trian: {}\n  - name: dpo\n    seed: 3\n    train:\n      learning_rte: 1\n    \
                adapter: merge\n";
    let message = refused(text, &[]);
    for part in [
        "run.yaml:6: stages[0].trian is not a key; did you mean train?",
        "run.yaml:8: stages[1].seed is the same for all stages",
        "run.yaml:11: stages[1].adapter is merge; write continue or stack",
    ] {
        assert!(message.contains(part), "{part} in\n{message}");
    }
    let message = refused(
        "data: {train: p}\nstages:\n  - sft\n  - name: dpo\n    train:\n      learning_rte: 1\n",
        &[],
    );
    assert!(
        message.contains("run.yaml:8: train.learning_rte is not a key; did you mean learning_rate?"),
        "{message}"
    );
    assert!(message.contains("stages[1] (dpo)"), "{message}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (stages, part) in [
        ("stages: 3", "stages is 3; expected a list such as [sft, dpo]"),
        ("stages: []", "expected a list"),
        ("stages: [sft, sft]", "two stages are called sft"),
        ("stages: [first]", "first is not the name of one; set objective.loss_type"),
        ("stages: [{adapter: stack, name: sft}]", "there is no stage before the first"),
        ("stages: [sft, {name: dpo, lora: {r: 3}}]", "lora.r is set, and the stage continues the adapter"),
        ("stages: [sft, {name: dpo, adapter: stack, lora: {init_from: x}}]", "lora.init_from is set"),
        ("stages: [sft, {name: dpo, train: {threads: 2}}]", "train.threads is the same for all stages"),
        (
            "lora: {use_dora: true}\nstages: [sft, {name: dpo, adapter: stack}]",
            "only LoRA adapters are stacked",
        ),
        ("objective: {simpo_gamma: 1}\nstages: [sft, dpo]", "the loss of no stage has such a parameter"),
        ("stages: [sft, {name: dpo, objective: {cpo_alpha: 1}}]", "loss_type sigmoid has no such parameter"),
        ("stages: [{name: a/b}]", "its directory needs one of letters"),
        ("stages: [{train: {}}]", "the name of stages[0] is missing"),
        (
            "stages: [sft, {name: dpo, train.max_steps: 3}]",
            "is not read as one key; write max_steps under train:",
        ),
        ("stages: [{name: sft, <<: {a: 1}}]", "stages[0].<< is a merge key of YAML"),
    ] {
        let message = refused(&format!("data: {{train: p}}\n{stages}\n"), &[]);
        assert!(message.contains(part), "{part} in\n{message}");
    }
    assert!(refused("stages: [sft]", &[]).contains("data.train is missing"));
}

#[test]
fn a_stage_that_continues_begins_with_what_was_trained() {
    for init in ["pissa", "eva"] {
        let text =
            format!("data: {{train: p}}\nlora: {{r: 4, init_lora_weights: {init}}}\nstages: [sft, dpo]\n");
        let staged = read(&text, &["stages.dpo.train.sync_ref_model=true"]).unwrap();
        let lora = &staged.stages[1].config.lora;
        assert_eq!((lora.init_lora_weights, lora.eva_config, lora.r), (InitLoraWeights::Kaiming, None, 4));
        // Each stage writes its configuration, which a resumed run reads.
        for Stage { config, .. } in &staged.stages {
            assert_eq!(
                &RunConfig::from_yaml(&config.to_yaml().unwrap(), "config.yaml", &[]).unwrap(),
                config
            );
        }
        let again = Recipe::from_yaml(&staged.to_yaml().unwrap(), "resolved", &[]).unwrap();
        assert_eq!(again, Recipe::Staged(staged));
    }
}

#[test]
fn what_a_stage_has_from_those_before_is_checked() {
    let fixed = "stages: [sft, {name: dpo, lora: {reference: base}, train: {sync_ref_model: true}}]";
    let message = refused(&format!("data: {{train: p}}\n{fixed}\n"), &[]);
    assert!(
        message.contains("stages[1] (dpo)") && message.contains("has no adapter that could move"),
        "{message}"
    );
    // A stacked stage does not begin with the common adapter.
    let stacked =
        "lora: {init_from: a}\nstages: [sft, {name: dpo, adapter: stack, lora: {init_lora_weights: pissa}}]";
    let staged = read(&format!("data: {{train: p}}\n{stacked}\n"), &[]).unwrap();
    assert_eq!(staged.stages[1].config.lora.init_from, None);
}

#[test]
fn settings_of_the_command_line_are_those_of_a_stage() {
    let two = "data: {train: p}\nstages: [sft, dpo]\n";
    for (setting, part) in [
        ("objective.bta=1", "objective.bta is not a key; did you mean objective.beta?"),
        (
            "objective.simpo_gamma=1",
            "objective.simpo_gamma is set on the command line, and the loss of no stage",
        ),
        ("stages.dpo.lora.r=4", "lora.r is set, and the stage continues the adapter"),
        ("stages.dpo.lora.rank_pattern.q_proj=4", "lora.rank_pattern is set, and the stage continues"),
        ("stages.dpo.model.base=other", "model is the same for all stages; write --set model.base=other"),
        ("stages.dpo.seed=7", "seed is the same for all stages"),
        ("stages.dpo.output_dir=x", "output_dir is the same for all stages"),
        ("stages.dpo.adapter=stack", "adapter is not a key that is set for one stage"),
        ("stages.dpo", "is not a key that is set for one stage"),
        ("stages.dop.seed=7", "there is no stage dop; there are sft, dpo"),
    ] {
        let message = refused(two, &[setting]);
        assert!(message.contains(part), "{part} in\n{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    assert!(
        refused("data: {train: p}\nstages: [sft]\n", &["objective.beta=1"]).contains("no stage has such")
    );
    // A loss that is named for one stage decides what the parameters for all are those of.
    let simpo = ["stages.dpo.objective.loss_type=simpo", "objective.simpo_gamma=1"];
    assert_eq!(read(two, &simpo).unwrap().stages[1].config.objective.loss_type, ["simpo"]);
    assert_eq!(read(two, &["stages.sft.lora.r=4", "lora.lora_alpha=7"]).unwrap().stages[1].config.lora.r, 4);
}
