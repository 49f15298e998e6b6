//! Architecture as data: what a family's file says of a decoder, and all that the decoder knows of its family.

use crate::ops::gated_act::Activation;
use crate::ops::rope::Pairing;
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;
use crate::trainable::Module;

/// A decoder: sizes, and the modules in the order they compute.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// `model_type` of its `config.json`.
    pub model_type: String,
    /// Entries of the vocabulary (rows of the embedding).
    pub vocab_size: usize,
    /// Features of the residual stream.
    pub hidden: usize,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// The token embedding, `[vocab, hidden]`.
    pub embedding: String,
    /// Factor of the embedding.
    pub embedding_scale: f32,
    /// Learned positions, if there are any.
    pub positions: Option<PositionsSpec>,
    /// The rotary embeddings that layers refer to by index.
    pub rotations: Vec<RotationSpec>,
    /// The blocks.
    pub layers: Vec<LayerSpec>,
    /// The norm before the head.
    pub final_norm: NormSpec,
    /// The language-model head; `None` shares the embedding.
    pub head: Option<LinearSpec>,
    /// From the head's product to the logits.
    pub logits: LogitShape,
    /// The head's path, also where it shares the embedding's weight.
    pub head_module: &'static str,
    /// Whether the file itself says that the head shares the embedding's weight; else its class takes it so, and a stored
    /// head that differs counts.
    pub tie_is_stated: bool,
    /// Other layouts of checkpoints: each a list of (prefix in the model, prefix in the file). The first prefix that fits a
    /// name is replaced.
    pub layouts: Vec<Layout>,
    /// Prefixes of tensors of other parts of the model, in any layout: they see or hear, and are not computed with.
    pub elsewhere: &'static [&'static str],
    /// Tensors that the user accepts as not computed with.
    pub ignored: Vec<String>,
}

/// Prefixes in the model and what stands for them in a file.
pub type Layout = &'static [(&'static str, &'static str)];

/// Learned positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionsSpec {
    /// The module, `[max_positions + offset, hidden]`.
    pub module: String,
    /// Rows before that of position 0 (OPT has two).
    pub offset: usize,
}

/// A rotary embedding: one angle a position and pair of features.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationSpec {
    /// Radians a position, one a pair; `2·frequencies.len()` features of a head turn.
    pub frequencies: Vec<f32>,
    /// Factor of cosine and sine (yarn and longrope scale attention by it).
    pub scale: f32,
    /// Which features make a pair.
    pub pairing: Pairing,
    /// Frequencies that depend on the length of the sequence.
    pub by_length: Option<ByLength>,
    /// A factor that grows with the position, of queries (Ministral 3).
    pub growth: Option<Growth>,
}

/// Frequencies of all positions of a sequence that follow from its length.
#[derive(Clone, Debug, PartialEq)]
pub enum ByLength {
    /// Others beyond a length (longrope).
    Long {
        /// Tokens that a sequence must exceed.
        beyond: usize,
        /// Radians a position, one a pair.
        frequencies: Vec<f32>,
    },
    /// A base that grows with the length beyond `max` tokens (dynamic NTK).
    Dynamic {
        /// The base up to `max` tokens.
        theta: f64,
        /// How much farther the positions reach.
        factor: f64,
        /// Tokens up to which nothing changes.
        max: usize,
    },
}

impl ByLength {
    /// The frequencies of a sequence of `length` tokens; `plain` are those of short ones.
    pub fn frequencies(&self, plain: &[f32], length: usize) -> Vec<f32> {
        match self {
            Self::Long { beyond, frequencies } if length > *beyond => frequencies.clone(),
            Self::Dynamic { theta, factor, max } if length > *max => {
                let turned = 2.0 * plain.len() as f64;
                let grown = factor * length as f64 / *max as f64 - (factor - 1.0);
                let theta = theta * grown.powf(turned / (turned - 2.0));
                let power = |i: usize| theta.powf(2.0 * i as f64 / turned) as f32;
                (0..plain.len()).map(|i| 1.0 / power(i)).collect()
            }
            _ => plain.to_vec(),
        }
    }

    /// Whether sequences of these lengths have the same frequencies.
    pub fn same(&self, a: usize, b: usize) -> bool {
        match self {
            Self::Long { beyond, .. } => (a > *beyond) == (b > *beyond),
            Self::Dynamic { max, .. } => a.max(*max) == b.max(*max),
        }
    }
}

/// `1 + beta·ln(1 + ⌊position / original⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Its slope.
    pub beta: f64,
    /// Positions in which it stays the same.
    pub original: f64,
}

impl Growth {
    /// The factor at a position.
    pub fn at(&self, position: u32) -> f32 {
        (1.0 + self.beta * (1.0 + (f64::from(position) / self.original).floor()).ln()) as f32
    }
}

/// A block: attention and MLP, each with the norms around it.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Before attention.
    pub attention_norm: Option<NormSpec>,
    /// Attention.
    pub attention: AttentionSpec,
    /// After attention, before the residual sum.
    pub post_attention_norm: Option<NormSpec>,
    /// Before the MLP. In a parallel block without one, the MLP reads what attention reads.
    pub mlp_norm: Option<NormSpec>,
    /// The MLP.
    pub mlp: MlpSpec,
    /// After the MLP, before the residual sum.
    pub post_mlp_norm: Option<NormSpec>,
    /// Attention and MLP read the same residual stream (GPT-J, NeoX) instead of one after the other.
    pub parallel: bool,
    /// Factor of both branches in the residual sum.
    pub residual_scale: f32,
}

/// Attention of a block.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Where queries, keys and values come from.
    pub qkv: QkvSpec,
    /// Queries, keys and values are clipped to this size as they are projected (OLMo 1).
    pub clip: Option<f32>,
    /// Norms of queries and keys.
    pub qk_norm: Option<(NormSpec, NormSpec)>,
    /// Whether those norms come after the rotation (Hunyuan).
    pub norm_after_rotation: bool,
    /// Heads, scale, soft-cap, window.
    pub heads: Heads,
    /// Index into [`DecoderSpec::rotations`]; `None`: no rotary embedding in this layer.
    pub rotation: Option<usize>,
    /// The rotation of queries, where it differs from that of keys.
    pub query_rotation: Option<usize>,
    /// The output projection.
    pub output: LinearSpec,
}

/// The projections to queries, keys and values.
#[derive(Clone, Debug)]
pub enum QkvSpec {
    /// One each.
    Separate([LinearSpec; 3]),
    /// One for all, `[q; k; v]` (Phi-3, GPT-2).
    Stacked(LinearSpec),
    /// One for all; for each key head in turn, its queries, its key and its value (NeoX, Falcon).
    PerHead(LinearSpec),
}

/// The MLP of a block.
#[derive(Clone, Debug)]
pub enum MlpSpec {
    /// `down(act(gate(x)) ∘ up(x))`.
    Gated {
        /// To the gate.
        gate: LinearSpec,
        /// To what is gated.
        up: LinearSpec,
        /// Back to the residual stream.
        down: LinearSpec,
        /// The nonlinearity.
        act: Activation,
    },
    /// The same with `[gate; up]` in one projection (Phi-3).
    FusedGated {
        /// To gate and gated.
        gate_up: LinearSpec,
        /// Back to the residual stream.
        down: LinearSpec,
        /// The nonlinearity.
        act: Activation,
    },
    /// `down(act(up(x)))`.
    Plain {
        /// Into the hidden layer.
        up: LinearSpec,
        /// Back to the residual stream.
        down: LinearSpec,
        /// The nonlinearity.
        act: Activation,
    },
}

/// A linear module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSpec {
    /// Path in transformers' model, as adapters name it.
    pub module: String,
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Stored `[in, out]` (Conv1D).
    pub transposed: bool,
}

impl From<&LinearSpec> for Module {
    fn from(linear: &LinearSpec) -> Self {
        Self { name: linear.module.clone(), inputs: linear.inputs, outputs: linear.outputs }
    }
}

/// A norm.
#[derive(Clone, Debug, PartialEq)]
pub struct NormSpec {
    /// Path in transformers' model.
    pub module: String,
    /// Features normalised together.
    pub size: usize,
    /// Runs of `size` features with gains of their own, stored as `[runs, size]`; 1: all have the same, stored as `[size]`.
    pub runs: usize,
    /// Which norm.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub eps: f64,
}

/// The kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm; the gain is the stored weight.
    Rms,
    /// RMS norm; the gain is one more than the stored weight (Gemma).
    RmsPlusOne,
    /// Layer norm with gain and bias.
    Layer,
    /// Layer norm with a gain alone.
    LayerWithoutBias,
    /// Layer norm with a bias, and a gain of one more than the stored weight (Nemotron).
    LayerPlusOne,
    /// Layer norm without weights (OLMo 1).
    LayerPlain,
}

impl NormKind {
    /// Whether it has a stored gain, and a stored bias.
    pub fn stored(self) -> (bool, bool) {
        match self {
            Self::Rms | Self::RmsPlusOne | Self::LayerWithoutBias => (true, false),
            Self::Layer | Self::LayerPlusOne => (true, true),
            Self::LayerPlain => (false, false),
        }
    }
}

impl LinearSpec {
    /// A plain projection without bias.
    pub fn new(module: String, inputs: usize, outputs: usize) -> Self {
        Self { module, inputs, outputs, bias: false, transposed: false }
    }

    /// The same, with a bias if `bias`.
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }
}

impl AttentionSpec {
    /// Attention without clipping, norms or rotation.
    pub fn new(qkv: QkvSpec, heads: Heads, output: LinearSpec) -> Self {
        Self {
            qkv,
            clip: None,
            qk_norm: None,
            norm_after_rotation: false,
            heads,
            rotation: None,
            query_rotation: None,
            output,
        }
    }
}

impl LayerSpec {
    /// A block without norms, one branch after the other.
    pub fn new(attention: AttentionSpec, mlp: MlpSpec) -> Self {
        Self {
            attention_norm: None,
            attention,
            post_attention_norm: None,
            mlp_norm: None,
            mlp,
            post_mlp_norm: None,
            parallel: false,
            residual_scale: 1.0,
        }
    }

    /// The block's projections, in the order they compute.
    pub fn linears(&self) -> Vec<&LinearSpec> {
        let mut all: Vec<&LinearSpec> = match &self.attention.qkv {
            QkvSpec::Separate(each) => each.iter().collect(),
            QkvSpec::Stacked(one) | QkvSpec::PerHead(one) => vec![one],
        };
        all.push(&self.attention.output);
        match &self.mlp {
            MlpSpec::Gated { gate, up, down, .. } => all.extend([gate, up, down]),
            MlpSpec::FusedGated { gate_up, down, .. } => all.extend([gate_up, down]),
            MlpSpec::Plain { up, down, .. } => all.extend([up, down]),
        }
        all
    }
}

impl DecoderSpec {
    /// The name of a tensor in a file that `holds` the names of one layout; its own name if it is in none.
    pub fn stored_name(&self, name: &str, holds: impl Fn(&str) -> bool) -> String {
        if holds(name) {
            return name.into();
        }
        let in_layout = |layout: &Layout| {
            let (prefix, stored) = layout.iter().find(|(prefix, _)| name.starts_with(prefix))?;
            Some(format!("{stored}{}", &name[prefix.len()..]))
        };
        self.layouts.iter().filter_map(in_layout).find(|name| holds(name)).unwrap_or_else(|| name.into())
    }

    /// The head, also of a model that shares it with the embedding.
    pub fn head_linear(&self) -> LinearSpec {
        let tied = || LinearSpec::new(self.head_module.into(), self.hidden, self.vocab_size);
        self.head.clone().unwrap_or_else(tied)
    }

    /// Every linear module of the blocks: what `target_modules: all-linear` means (PEFT leaves the head out).
    pub fn linears(&self) -> impl Iterator<Item = &LinearSpec> {
        self.layers.iter().flat_map(LayerSpec::linears)
    }
}
