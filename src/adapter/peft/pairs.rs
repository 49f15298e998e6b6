//! The tensors of an adapter's file, sorted by the modules they belong to.

use std::collections::BTreeMap;

use super::super::{layout, names};
use super::PREFIX;
use super::whole::{self, Part, Whole};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::trainable::SCORE;
use crate::weights::{SafetensorsSource, WeightSource};

/// The modules of a base, or of a file that is read without a base.
pub(super) struct Modules<'a> {
    /// The linear modules that may be adapted, by name.
    pub linears: BTreeMap<String, LinearSpec>,
    /// Their owner, for messages.
    pub family: &'a str,
    /// The head, whether or not it is among them.
    pub head: String,
    /// Whether the file has a scalar head, `score`.
    pub score: bool,
    /// The base; `None` for a file that is read without one.
    pub spec: Option<&'a DecoderSpec>,
}

/// The tensors of one module.
pub(super) struct Pair<'a> {
    pub linear: &'a LinearSpec,
    pub a: String,
    pub b: String,
    /// The magnitude of DoRA, if the file has one.
    pub magnitude: Option<String>,
    pub rank: usize,
    /// The names of the module, the file's own name first.
    pub names: Vec<String>,
}

/// The content of a file.
pub(super) struct Sorted<'a> {
    /// The low-rank matrices, by module.
    pub pairs: BTreeMap<String, Pair<'a>>,
    /// Tensors of embedding and head that are no halves of pairs.
    pub whole: Vec<(String, Whole, Part)>,
    /// The weight of the scalar head.
    pub score: Option<String>,
}

/// A, B and magnitude of a module as found so far, with the module's name in the file.
type Halves = BTreeMap<String, ([Option<String>; 3], String)>;

/// Sorts the file's tensors into pairs that fit the modules, and whole weights.
///
/// # Errors
/// If a tensor belongs to no module, a pair is incomplete, or a shape does not fit; all problems are named.
pub(super) fn sort<'a>(source: &SafetensorsSource, modules: &'a Modules) -> Result<Sorted<'a>> {
    let (mut problems, mut strangers) = (Problems::default(), Vec::new());
    let (mut halves, mut whole, mut score): (Halves, _, _) = (BTreeMap::new(), Vec::new(), None);
    for name in source.names() {
        match place(&name, modules) {
            Place::Half(module, own, index) => {
                let (both, _) = halves.entry(module).or_insert_with(|| ([None, None, None], own));
                if let Some(other) = both[index].replace(name.clone()) {
                    problems.add(format!("{name} and {other} are the same matrix of one module"));
                }
            }
            Place::Whole(which, part) => whole.push((name, which, part)),
            Place::Score => score = Some(name),
            Place::Nowhere(why) => strangers.push(why),
        }
        if strangers.len() >= names::MOST_TOLD {
            strangers.push("... and perhaps more".into());
            break;
        }
    }
    strangers.into_iter().for_each(|stranger| problems.add(stranger));
    let mut pairs = BTreeMap::new();
    for (module, (both, own)) in halves {
        let linear = &modules.linears[&module];
        let [Some(a), Some(b), magnitude] = both else {
            problems.add(format!("{module} has only half of its pair lora_A, lora_B"));
            continue;
        };
        let pair = pair(source, linear, (a, b, magnitude), layout::aliases(&own), &mut problems);
        pairs.insert(module, pair);
    }
    problems.require(!source.names().is_empty(), || "there are no tensors".into());
    problems.require(score.is_some() || !modules.score, || {
        format!(
            "{PREFIX}{SCORE}.weight is missing, the head of this reward model; PEFT would draw it at random"
        )
    });
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(Sorted { pairs, whole, score })
}

fn pair<'a>(
    source: &SafetensorsSource,
    linear: &'a LinearSpec,
    (a, b, magnitude): (String, String, Option<String>),
    names: Vec<String>,
    problems: &mut Problems,
) -> Pair<'a> {
    let shape = |name: &str| source.shape(name).unwrap_or_default();
    let (shape_a, shape_b) = (shape(&a), shape(&b));
    let fits = shape_a.len() == 2 && shape_a[1] == linear.inputs && shape_b == [linear.outputs, shape_a[0]];
    let some = linear.inputs > 0 && linear.outputs > 0 && shape_a.first() != Some(&0);
    problems.require(fits && some, || {
        let LinearSpec { module, inputs, outputs, .. } = linear;
        format!(
            "{module} has lora_A {shape_a:?} and lora_B {shape_b:?}; this base needs [r, {inputs}] and [{outputs}, r]"
        )
    });
    let shape_m = magnitude.as_deref().map(shape);
    problems.require(shape_m.as_ref().is_none_or(|shape| *shape == [linear.outputs]), || {
        let LinearSpec { module, outputs, .. } = linear;
        format!(
            "{module} has a lora_magnitude_vector {:?}; this base needs [{outputs}]",
            shape_m.as_deref().unwrap_or_default()
        )
    });
    let rank = shape_a.first().copied().unwrap_or(0);
    Pair { linear, a, b, magnitude, rank, names }
}

/// What a tensor belongs to.
enum Place {
    /// A (0), B (1) or magnitude (2) of a module, with the module's name in the file.
    Half(String, String, usize),
    Whole(Whole, Part),
    /// The scalar head.
    Score,
    /// Nothing, and why.
    Nowhere(String),
}

fn place(name: &str, modules: &Modules) -> Place {
    let linears = &modules.linears;
    if modules.score && is_score(name) {
        return Place::Score;
    }
    if let Some((own, index)) = half(name) {
        let module = layout::module_of(&own, |name| linears.contains_key(name))
            .unwrap_or_else(|| layout::text_path(&own));
        return match linears.contains_key(&module) {
            true => Place::Half(module, own, index),
            false if module == modules.head => Place::Nowhere(format!(
                "{name} adapts the head {module}; merge, export and inspect accept that, but commands that compute with the model do not"
            )),
            false if own.starts_with(PREFIX) => Place::Nowhere(format!(
                "{} has the prefix {PREFIX} twice, so PEFT ignores it; rename the tensors",
                names::shown(name)
            )),
            false => Place::Nowhere(format!(
                "{} adapts {}, which is not a linear module of this {}{}",
                names::shown(name),
                names::shown(&own),
                modules.family,
                names::hint(&own, linears.keys().map(String::as_str))
            )),
        };
    }
    whole_weight(name, modules)
        .map_or_else(|| Place::Nowhere(nowhere(name)), |(which, part)| Place::Whole(which, part))
}

/// Whether a tensor is the weight of the scalar head. Files saved by hand have the names of PEFT's wrapper.
fn is_score(name: &str) -> bool {
    let path = name.strip_prefix(PREFIX).and_then(|path| path.strip_prefix(SCORE));
    matches!(path, Some(".weight" | ".modules_to_save.weight" | ".modules_to_save.default.weight"))
}

/// Why a tensor is not part of a pair.
fn nowhere(name: &str) -> String {
    let shown = names::shown(name);
    if half(&format!("{PREFIX}{name}")).is_some() {
        return format!("{shown} lacks the prefix {PREFIX}, so PEFT ignores it; rename the tensors");
    }
    format!("{shown} is not lora_A or lora_B of a linear module, and is not supported")
}

/// Finds a tensor of embedding or head. For a file that is read without a base, by the names that PEFT uses for
/// both.
fn whole_weight(name: &str, modules: &Modules) -> Option<(Whole, Part)> {
    let path = layout::unwrapped(name);
    let (module, part) = whole::module(path.strip_prefix(PREFIX)?)?;
    let known = |own: &str| layout::aliases(module).iter().any(|alias| alias == own);
    let which = match modules.spec {
        Some(spec) if known(&spec.embedding) => Whole::Embedding,
        Some(_) if known(&modules.head) => Whole::Head,
        None if module.ends_with("embed_tokens") => Whole::Embedding,
        None if module.ends_with("lm_head") => Whole::Head,
        _ => return None,
    };
    Some((which, part))
}

/// Module and part (0 for A, 1 for B, 2 for DoRA's magnitude) of a tensor name.
pub(super) fn half(name: &str) -> Option<(String, usize)> {
    let name = layout::unwrapped(name);
    let path = name.strip_prefix(PREFIX)?;
    // `default` is the adapter's name in files saved by hand from a PEFT model's state.
    let bare = path.strip_suffix(".weight").unwrap_or(path);
    let bare = bare.strip_suffix(".default").unwrap_or(bare);
    if let Some(module) = bare.strip_suffix(".lora_magnitude_vector") {
        return Some((module.to_string(), 2));
    }
    let path = path.strip_suffix(".weight")?;
    let path = path.strip_suffix(".default").unwrap_or(path);
    let split = |suffix, index| path.strip_suffix(suffix).map(|module: &str| (module.to_string(), index));
    split(".lora_A", 0).or_else(|| split(".lora_B", 1))
}
