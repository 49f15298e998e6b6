//! The model card of an adapter: `README.md` in its directory, with the front matter by which the Hub knows it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::eval::preference::{Evaluation, wilson};
use crate::files::shell_word;

/// What stands for the adapter's own path.
const OWN: &str = "PATH OR HUB ID OF THIS ADAPTER";

/// What is said of a base that is a directory.
const LOCAL: &str = "The example finds the base at the path that the run named; on another machine, load the base and use \
                     `PeftModel.from_pretrained(base, ...)`.\n\n";

/// What stands for the model that a GGUF file was made from.
const ORIGINAL: &str = "PATH OR HUB ID OF THE ORIGINAL MODEL";

/// The heading of how to use it.
const USE: &str = "\n## Use\n";

/// The heading of what is below it.
const ABOVE: &str = "\n## Trained above other adapters\n";

/// What a card says that is known before the run.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The kind of adapter.
    pub kind: AdapterKind,
    /// The base as `adapter_config.json` names it.
    pub base: String,
    /// The loss.
    pub loss: String,
    /// Settings in the order in which they are listed: name and value.
    pub settings: Vec<(String, String)>,
    /// Whether it is a reward model.
    pub is_reward: bool,
    /// The training data as the run named them.
    pub data: Vec<String>,
    /// Number of training records.
    pub records: usize,
    /// The paths of the frozen adapters that it was trained above, in order.
    pub beneath: Vec<String>,
}

/// What is known at the end of the run.
#[derive(Clone, Copy, Debug)]
pub struct Results<'a> {
    /// Steps done.
    pub step: u64,
    /// Share of held-out pairs whose chosen completion was the likelier one before the first step.
    pub before: Option<f64>,
    /// The figures of the evaluation before the first step, by name. The policy need not be the reference then, and a
    /// loss without a reference has rewards of its own.
    pub initial: &'a BTreeMap<String, f64>,
    /// The evaluation of the adapter.
    pub after: Option<&'a Evaluation>,
}

/// The kinds of adapters, as far as a card tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterKind {
    /// Low-rank matrices.
    #[default]
    Lora,
    /// Low-rank matrices of DoRA, or beside whole tensors or rows that are trained: no server loads them as they are.
    Modified,
    /// Prefix tuning.
    Prefix,
    /// Adapter layers, which PEFT does not load.
    Layers,
}

impl AdapterKind {
    /// Its name in the title, and the Hub's tag.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Lora | Self::Modified => ("LoRA adapter", "lora"),
            Self::Prefix => ("Prefix", "prefix-tuning"),
            Self::Layers => ("Adapter layers", "adapter-layers"),
        }
    }
}

impl Card {
    /// The text of the card. Runs that are equal have equal cards: there is no date in it.
    pub fn text(&self, results: Results) -> String {
        let mut text = self.front_matter();
        let base = self.shown_base();
        let _ = write!(
            text,
            "\n# {} for {base}\n\nTrained on {} records with {} by dpo-lora {}, in {} \
             steps.\n",
            self.kind.names().0,
            self.records,
            self.loss,
            env!("CARGO_PKG_VERSION"),
            results.step
        );
        text.push_str(&held_out(results));
        text.push_str("\n## Settings\n\n| setting | value |\n|---|---|\n");
        for (name, value) in &self.settings {
            // A value is one line without bars.
            let value = value.replace('|', "\\|").replace(['\n', '\r'], " ");
            let _ = writeln!(text, "| `{name}` | {value} |");
        }
        text + &self.ending()
    }

    /// Returns the card of an adapter that holds those of these stages: what `last`, the card of the last stage, says of its
    /// training, and what this one says of its use.
    pub fn of_stages(&self, last: &str, stages: &[&str]) -> String {
        let ends = [ABOVE, USE].into_iter().filter_map(|heading| last.find(heading));
        let of_training = &last[..ends.min().unwrap_or(last.len())];
        let named: Vec<String> = stages.iter().map(|stage| format!("`{stage}`")).collect();
        format!(
            "{of_training}\n## Stages\n\nIt holds the adapters of the stages {} in one. The settings are those of the last \
             stage.\n{}",
            named.join(", "),
            self.ending()
        )
    }

    /// What it needs, and how to load it.
    fn ending(&self) -> String {
        let mut text = self.above();
        text.push_str(USE);
        text.push('\n');
        if self.is_reward {
            text.push_str(&self.use_of_reward());
        } else {
            text.push_str(&self.usage());
        }
        text
    }

    /// The frozen adapters that it was trained above.
    fn above(&self) -> String {
        if self.beneath.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "{ABOVE}\nIt was trained above these frozen adapters, which belong to the model: without them it is another \
             one. The reference of the training had them too. The paths are those of the run; put your own in their \
             place.\n\n"
        );
        for (index, path) in self.beneath.iter().enumerate() {
            let _ = writeln!(text, "{}. `{path}`", index + 1);
        }
        if self.kind == AdapterKind::Lora && !self.is_reward {
            let _ = write!(
                text,
                "\nOne adapter that holds all of them:\n\n```sh\ndpo-lora merge --base {} {} --combination cat --output-adapter \
                 ALL\n```\n",
                self.base,
                self.flags()
            );
        }
        text
    }

    /// All adapters as flags, in order.
    fn flags(&self) -> String {
        let mut text = String::new();
        for path in &self.beneath {
            let _ = write!(text, "--adapter {} ", shell_word(Path::new(path)));
        }
        text + "--adapter PATH"
    }

    /// How to load it.
    fn usage(&self) -> String {
        let mut text = String::new();
        if self.kind != AdapterKind::Layers {
            text.push_str(&self.python("CausalLM", ""));
        }
        let (base, with) = (&self.base, self.flags());
        let _ = writeln!(text, "```sh\ndpo-lora generate --base {base} {with} --prompt \"...\"");
        let _ = match self.kind {
            AdapterKind::Lora => {
                writeln!(text, "dpo-lora export --base {base} {with} --format gguf --output adapter.gguf")
            }
            AdapterKind::Modified => writeln!(text, "dpo-lora merge --base {base} {with} --output merged"),
            AdapterKind::Prefix | AdapterKind::Layers => Ok(()),
        };
        text.push_str("```\n");
        text
    }

    fn use_of_reward(&self) -> String {
        format!(
            "The reward is the only label, read at the last token that is not the padding token.\n\n{}```sh\n\
             dpo-lora score --base {} {} --data PAIRS\n```\n",
            self.python("SequenceClassification", ", num_labels=1"),
            self.base,
            self.flags()
        )
    }

    /// How PEFT loads it, with `more` arguments. The frozen adapters are folded into the base, each in its turn.
    fn python(&self, class: &str, more: &str) -> String {
        let tokenizer = format!("tokenizer = AutoTokenizer.from_pretrained(\"{OWN}\")\n```\n\n");
        // PEFT finds the base itself by the name in `adapter_config.json`.
        let is_local = Path::new(&self.base).is_dir();
        if self.beneath.is_empty() && (self.is_hub_id() || is_local) {
            let note = if is_local { LOCAL } else { "" };
            return format!(
                "{note}```python\nfrom peft import AutoPeftModelFor{class}\nfrom transformers import AutoTokenizer\n\n\
                 model = AutoPeftModelFor{class}.from_pretrained(\"{OWN}\"{more})\n{tokenizer}"
            );
        }
        let (note, base) = self.loadable();
        let paths: Vec<String> = self.beneath.iter().map(|path| format!("{path:?}")).collect();
        let folded = match paths.is_empty() {
            true => String::new(),
            false => format!(
                "for adapter in [{}]:\n    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()\n",
                paths.join(", ")
            ),
        };
        format!(
            "{note}```python\nfrom peft import PeftModel\nfrom transformers import AutoModelFor{class}, AutoTokenizer\n\n\
             model = AutoModelFor{class}.from_pretrained({base:?}{more})\n{folded}\
             model = PeftModel.from_pretrained(model, \"{OWN}\")\n{tokenizer}"
        )
    }

    /// The base as transformers loads it, after a note on what is to be put in its place.
    fn loadable(&self) -> (&'static str, &str) {
        if self.base.to_lowercase().ends_with(".gguf") {
            let note = "The base was a GGUF file, to which PEFT adds no adapter: name the model that it was made from.\n\n";
            return (note, ORIGINAL);
        }
        if self.is_hub_id() {
            return ("", &self.base);
        }
        ("The base is named as in the run; put a path or Hub id of your own in its place.\n\n", &self.base)
    }

    /// YAML as PEFT writes it. The base is named only by a Hub id: the Hub refuses paths.
    fn front_matter(&self) -> String {
        let mut text = String::from("---\n");
        let is_id = self.is_hub_id();
        if is_id {
            let _ = writeln!(text, "base_model: {}", self.base);
        }
        let pipeline = if self.is_reward { "text-classification" } else { "text-generation" };
        let _ = write!(text, "library_name: peft\npipeline_tag: {pipeline}\ntags:\n");
        if is_id {
            let _ = writeln!(text, "- base_model:adapter:{}", self.base);
        }
        let kind = if self.is_reward { "reward-model" } else { "dpo" };
        let _ = writeln!(text, "- {}\n- transformers\n- {kind}\n- dpo-lora", self.kind.names().1);
        let datasets: Vec<&str> = self.data.iter().filter_map(|name| hub_data_set(name)).collect();
        if !datasets.is_empty() {
            text.push_str("datasets:\n");
            datasets.iter().for_each(|name| text.push_str(&format!("- {name}\n")));
        }
        text.push_str("---\n");
        text
    }

    fn shown_base(&self) -> String {
        if self.is_hub_id() {
            format!("[{0}](https://huggingface.co/{0})", self.base)
        } else {
            format!("`{}`", self.base)
        }
    }

    /// Whether the base is named as `owner/name`.
    fn is_hub_id(&self) -> bool {
        let plain = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let begins = self.base.starts_with(['.', '/', '~']);
        let is_file =
            self.base.to_lowercase().ends_with(".gguf") || std::path::Path::new(&self.base).exists();
        !begins && !is_file && self.base.split('/').count() == 2 && self.base.split('/').all(plain)
    }
}

/// `owner/name` of `hub:owner/name[/config][:split]`.
fn hub_data_set(name: &str) -> Option<&str> {
    let name = name.strip_prefix("hub:")?.split([':', '@']).next()?;
    let end = name.match_indices('/').nth(1).map_or(name.len(), |(at, _)| at);
    name.get(..end)
}

fn held_out(Results { before, initial, after, .. }: Results) -> String {
    let Some(found) = after else { return String::new() };
    let pairs = found.metrics().comparisons() as f64;
    let share = |share: f64| {
        let (low, high) = wilson(share, pairs);
        format!("{:.1} % ({:.1}–{:.1})", 100.0 * share, 100.0 * low, 100.0 * high)
    };
    let mut rows = String::new();
    let likelier = found.metrics().logp_accuracy();
    let what = if likelier.is_some() { "likelier" } else { "with the greater reward" };
    if let (Some(before), Some(after)) = (before, likelier.or_else(|| found.accuracy())) {
        let _ = writeln!(
            rows,
            "| chosen completion {what}, of {pairs} pairs | {} | {} |",
            share(before),
            share(after)
        );
    }
    let values = found.values();
    let of = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    for (name, shown) in
        [("eval_rewards/margins", "reward margin"), ("eval_kl", "KL from the reference, nats")]
    {
        if let Some(value) = of(name) {
            let before = initial.get(name).map_or_else(|| "-".to_string(), |before| figure(*before));
            let _ = writeln!(rows, "| {shown} | {before} | {} |", figure(value));
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "\n## On held-out pairs\n\n95 % intervals are Wilson's.\n\n| | before | after |\n|---|---|---|\n{rows}"
    )
}

/// With four decimals, and without a sign where these are 0.
fn figure(value: f64) -> String {
    let text = format!("{value:.4}");
    if text == "-0.0000" { "0.0000".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_FIGURES: BTreeMap<String, f64> = BTreeMap::new();

    fn nothing() -> Results<'static> {
        Results { step: 5, before: None, initial: &NO_FIGURES, after: None }
    }

    #[test]
    fn a_figure_has_no_sign_where_it_is_0() {
        assert_eq!([0.0, -0.0, -1e-9, -0.5].map(figure), ["0.0000", "0.0000", "0.0000", "-0.5000"]);
    }

    #[test]
    fn only_a_hub_id_is_named_as_base_model() {
        let card = |base: &str| Card { base: base.into(), ..Card::default() }.text(nothing());
        let id = card("owner/name-0.5B");
        assert!(id.starts_with("---\nbase_model: owner/name-0.5B\nlibrary_name: peft\n"), "{id}");
        assert!(id.contains("- base_model:adapter:owner/name-0.5B\n"));
        for path in ["models/base/deep", "./a/b", "/a/b", "a/b.gguf", "tiny-reviews", "src/train"] {
            assert!(!card(path).contains("base_model"), "{path}");
        }
    }

    #[test]
    fn data_sets_of_the_hub_are_named_without_their_parts() {
        let data =
            ["hub:owner/pairs/config:train", "hub:owner/more", "pairs.jsonl"].map(String::from).to_vec();
        let text = Card { data, ..Card::default() }.text(nothing());
        assert!(text.contains("datasets:\n- owner/pairs\n- owner/more\n---\n"), "{text}");
    }

    #[test]
    fn the_adapters_below_are_named_in_order_wherever_it_is_used() {
        let beneath = ["1-sft/adapter", "a b"].map(String::from).to_vec();
        let card = Card { base: "owner/name".into(), beneath, ..Card::default() };
        let text = card.text(nothing());
        let flags = "--adapter 1-sft/adapter --adapter 'a b' --adapter PATH";
        assert_eq!(text.matches(flags).count(), 3, "merge, generate and export in {text}");
        for part in [
            "The paths are those of the run; put your own in their place.\n\n1. `1-sft/adapter`\n2. `a b`\n",
            "model = AutoModelForCausalLM.from_pretrained(\"owner/name\")\nfor adapter in [\"1-sft/adapter\", \"a b\"]:\n    \
             model = PeftModel.from_pretrained(model, adapter).merge_and_unload()\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let reward = Card { is_reward: true, ..card.clone() }.text(nothing());
        assert!(
            reward.contains(&format!("dpo-lora score --base owner/name {flags} --data PAIRS")),
            "{reward}"
        );
        // What holds all of them needs none of them.
        let all = Card { base: "owner/name".into(), ..Card::default() };
        let whole = all.of_stages(&text, &["sft", "dpo"]);
        let plain = all.text(nothing());
        assert!(whole.contains("the stages `sft`, `dpo` in one"), "{whole}");
        let ending = |text: &str| text[text.find(USE).unwrap()..].to_string();
        assert_eq!(ending(&whole), ending(&plain));
        assert!(
            !whole.contains("1-sft/adapter") && whole.starts_with("---\nbase_model: owner/name\n"),
            "{whole}"
        );
    }

    #[test]
    fn what_peft_cannot_find_is_named_in_the_example() {
        let card = |base: &str, is_reward: bool| {
            Card { base: base.into(), is_reward, ..Card::default() }.text(nothing())
        };
        for (base, named, note) in [
            ("models/base.Q8_0.gguf", ORIGINAL, "The base was a GGUF file"),
            ("tiny-reviews", "tiny-reviews", "The base is named as in the run"),
        ] {
            for (is_reward, class, more) in
                [(false, "CausalLM", ""), (true, "SequenceClassification", ", num_labels=1")]
            {
                let text = card(base, is_reward);
                let loads = format!(
                    "model = AutoModelFor{class}.from_pretrained(\"{named}\"{more})\nmodel = \
                     PeftModel.from_pretrained(model, \"{OWN}\")\n"
                );
                assert!(text.contains(&loads) && text.contains(note), "{text}");
                assert!(!text.contains("AutoPeftModel"), "{text}");
            }
        }
        for (base, is_noted) in [("owner/name", false), ("src/train", true)] {
            let text = card(base, false);
            let noted = text.contains("The example finds the base at the path that the run named");
            assert!(text.contains("AutoPeftModelForCausalLM") && noted == is_noted, "{text}");
        }
    }

    #[test]
    fn what_no_server_loads_is_merged() {
        let text = Card { kind: AdapterKind::Modified, ..Card::default() }.text(nothing());
        assert!(text.contains("dpo-lora merge --base") && !text.contains("export"), "{text}");
    }

    #[test]
    fn an_adapter_of_the_bare_base_is_used_alone() {
        let text = Card { base: "owner/name".into(), ..Card::default() }.text(nothing());
        let expected = "\n## Use\n\n```python\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import \
                        AutoTokenizer\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(\"PATH OR HUB ID OF THIS \
                        ADAPTER\")\ntokenizer = AutoTokenizer.from_pretrained(\"PATH OR HUB ID OF THIS \
                        ADAPTER\")\n```\n\n```sh\ndpo-lora generate --base owner/name --adapter PATH --prompt \
                        \"...\"\ndpo-lora export --base owner/name --adapter PATH --format gguf --output \
                        adapter.gguf\n```\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
