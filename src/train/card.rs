//! The model card of an adapter: `README.md` in its directory, with the front matter by which the Hub knows it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::eval::preference::{Evaluation, wilson};

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
    /// Prefix tuning.
    Prefix,
    /// Adapter layers, which PEFT does not load.
    Layers,
}

impl AdapterKind {
    /// Its name in the title, and the Hub's tag.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Lora => ("LoRA adapter", "lora"),
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
        if self.is_reward {
            text.push_str(&self.use_of_reward());
        } else {
            text.push_str(&self.usage());
        }
        text
    }

    /// How to load it.
    fn usage(&self) -> String {
        let mut text = String::from("\n## Use\n\n");
        if self.kind != AdapterKind::Layers {
            text.push_str(
                "```python\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n\
                 model = AutoPeftModelForCausalLM.from_pretrained(\"PATH OR HUB ID OF THIS ADAPTER\")\n\
                 tokenizer = AutoTokenizer.from_pretrained(\"PATH OR HUB ID OF THIS ADAPTER\")\n```\n\n",
            );
        }
        let base = &self.base;
        let _ = writeln!(text, "```sh\ndpo-lora generate --base {base} --adapter PATH --prompt \"...\"");
        if self.kind == AdapterKind::Lora {
            let _ = writeln!(
                text,
                "dpo-lora export --base {base} --adapter PATH --format gguf --output adapter.gguf"
            );
        }
        text.push_str("```\n");
        text
    }

    fn use_of_reward(&self) -> String {
        format!(
            "\n## Use\n\nThe reward is the only label, read at the last token that is not the padding token.\n\n```python\n\
             from peft import AutoPeftModelForSequenceClassification\nfrom transformers import AutoTokenizer\n\n\
             model = AutoPeftModelForSequenceClassification.from_pretrained(\"PATH OR HUB ID OF THIS ADAPTER\", num_labels=1)\n\
             tokenizer = AutoTokenizer.from_pretrained(\"PATH OR HUB ID OF THIS ADAPTER\")\n```\n\n```sh\n\
             dpo-lora score --base {} --adapter PATH --data PAIRS\n```\n",
            self.base
        )
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
}
