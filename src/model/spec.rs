//! Architecture as data: what a family's file specifies about a decoder, and all that the decoder knows about its
//! family.

use crate::ops::gated_act::Activation;
use crate::ops::rope::Pairing;
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;
use crate::trainable::Module;

/// A decoder: its sizes, and its modules in the order of computation.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// `model_type` of its `config.json`.
    pub model_type: String,
    /// Number of entries of the vocabulary (rows of the embedding).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of positions the model was made for.
    pub max_positions: usize,
    /// The token embedding, `[vocab, hidden]`.
    pub embedding: String,
    /// Factor that multiplies the embedding.
    pub embedding_scale: f32,
    /// Learned positions, if the model has them.
    pub positions: Option<PositionsSpec>,
    /// The rotary embeddings that layers refer to by index.
    pub rotations: Vec<RotationSpec>,
    /// The blocks.
    pub layers: Vec<LayerSpec>,
    /// The norm before the head.
    pub final_norm: NormSpec,
    /// The language-model head; `None` shares the embedding.
    pub head: Option<LinearSpec>,
    /// How the head's product is turned into the logits.
    pub logits: LogitShape,
    /// The head's path, even if the head shares the embedding's weight.
    pub head_module: &'static str,
    /// Whether the file itself states that the head shares the embedding's weight. Otherwise sharing is the default of
    /// the class, and a stored head that differs takes precedence.
    pub tie_is_stated: bool,
    /// Other checkpoint layouts. Each is a list of (prefix in the model, prefix in the file) pairs, and the first
    /// prefix that fits a name is replaced.
    pub layouts: Vec<Layout>,
    /// Prefixes of tensors of other parts of the model, such as vision and audio towers, in any layout. They are not
    /// used.
    pub elsewhere: &'static [&'static str],
    /// Tensors that the user allows to remain unused.
    pub ignored: Vec<String>,
}

/// Prefixes in the model and the prefixes that replace them in a file.
pub type Layout = &'static [(&'static str, &'static str)];

/// Learned positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionsSpec {
    /// Module path of the tensor `[max_positions + offset, hidden]`.
    pub module: String,
    /// Number of rows before that of position 0 (OPT has two).
    pub offset: usize,
}

/// A rotary embedding: one angle per position and pair of features.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationSpec {
    /// Radians per position, one for each pair; `2·frequencies.len()` features of a head are rotated.
    pub frequencies: Vec<f32>,
    /// Factor of cosine and sine (yarn and longrope use it to scale attention).
    pub scale: f32,
    /// Which features form a pair.
    pub pairing: Pairing,
    /// How the frequencies depend on the length of the sequence, if they do.
    pub by_length: Option<ByLength>,
    /// A factor of the queries that grows with the position (Ministral 3).
    pub growth: Option<Growth>,
}

/// Frequencies that depend on the length of a sequence, and apply to all its positions.
#[derive(Clone, Debug, PartialEq)]
pub enum ByLength {
    /// Other frequencies beyond a length (longrope).
    Long {
        /// The number of tokens that a sequence must exceed.
        beyond: usize,
        /// Radians per position, one for each pair.
        frequencies: Vec<f32>,
    },
    /// A base that grows with the length beyond `max` tokens (dynamic NTK).
    Dynamic {
        /// The base up to `max` tokens.
        theta: f64,
        /// The factor by which the range of positions is extended.
        factor: f64,
        /// The number of tokens up to which the base does not change.
        max: usize,
    },
}

impl ByLength {
    /// The frequencies of a sequence of `length` tokens, where `plain` are those of short sequences.
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

    /// Whether sequences of these two lengths have the same frequencies.
    pub fn same(&self, a: usize, b: usize) -> bool {
        match self {
            Self::Long { beyond, .. } => (a > *beyond) == (b > *beyond),
            Self::Dynamic { max, .. } => a.max(*max) == b.max(*max),
        }
    }
}

/// The factor `1 + beta·ln(1 + ⌊position / original⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The slope of the factor.
    pub beta: f64,
    /// The number of positions over which the factor is constant.
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
    /// Norm before attention.
    pub attention_norm: Option<NormSpec>,
    /// Attention.
    pub attention: AttentionSpec,
    /// Norm after attention, before the residual sum.
    pub post_attention_norm: Option<NormSpec>,
    /// Norm before the MLP. In a parallel block without it, the MLP reads the input of attention.
    pub mlp_norm: Option<NormSpec>,
    /// The MLP.
    pub mlp: MlpSpec,
    /// Norm after the MLP, before the residual sum.
    pub post_mlp_norm: Option<NormSpec>,
    /// Whether attention and MLP read the same residual stream (GPT-J, NeoX) instead of one following the other.
    pub parallel: bool,
    /// Factor that multiplies both branches in the residual sum.
    pub residual_scale: f32,
}

/// Attention of a block.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// The projections to queries, keys and values.
    pub qkv: QkvSpec,
    /// The magnitude to which projected queries, keys and values are clipped (OLMo 1).
    pub clip: Option<f32>,
    /// Norms of queries and of keys.
    pub qk_norm: Option<(NormSpec, NormSpec)>,
    /// Whether those norms come after the rotation (Hunyuan).
    pub norm_after_rotation: bool,
    /// Heads, scale, soft-cap and window.
    pub heads: Heads,
    /// Index into [`DecoderSpec::rotations`]; `None` means that this layer has no rotary embedding.
    pub rotation: Option<usize>,
    /// Index of the rotation of queries, if it differs from that of keys.
    pub query_rotation: Option<usize>,
    /// Whether transformers caches a key for every head of queries, so that PEFT's prefixes are wider than the keys.
    pub cached_wide: bool,
    /// The output projection.
    pub output: LinearSpec,
}

/// The projections to queries, keys and values.
#[derive(Clone, Debug)]
pub enum QkvSpec {
    /// One projection each.
    Separate([LinearSpec; 3]),
    /// One projection for all, `[q; k; v]` (Phi-3, GPT-2).
    Stacked(LinearSpec),
    /// One projection for all, which gives for each key head its queries, its key and its value (NeoX, Falcon).
    PerHead(LinearSpec),
}

/// The MLP of a block.
#[derive(Clone, Debug)]
pub enum MlpSpec {
    /// `down(act(gate(x)) ∘ up(x))`.
    Gated {
        /// Projection to the gate.
        gate: LinearSpec,
        /// Projection to the features that the gate multiplies.
        up: LinearSpec,
        /// Projection back to the residual stream.
        down: LinearSpec,
        /// The nonlinearity.
        act: Activation,
    },
    /// The same, with `[gate; up]` in one projection (Phi-3).
    FusedGated {
        /// Projection to the gate and the gated features.
        gate_up: LinearSpec,
        /// Projection back to the residual stream.
        down: LinearSpec,
        /// The nonlinearity.
        act: Activation,
    },
    /// `down(act(up(x)))`.
    Plain {
        /// Projection into the hidden layer.
        up: LinearSpec,
        /// Projection back to the residual stream.
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
    /// Number of input features.
    pub inputs: usize,
    /// Number of output features.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether the weight is stored as `[in, out]` (Conv1D).
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
    /// Number of features normalised together.
    pub size: usize,
    /// Number of runs of `size` features with gains of their own, stored as `[runs, size]`; `None`: all runs share the
    /// same gains, stored as `[size]`.
    pub runs: Option<usize>,
    /// The kind of norm.
    pub kind: NormKind,
    /// Value added to the mean square or variance.
    pub eps: f64,
}

/// The kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm; the gain is the stored weight.
    Rms,
    /// RMS norm; the gain is the stored weight plus one (Gemma).
    RmsPlusOne,
    /// Layer norm with gain and bias.
    Layer,
    /// Layer norm with a gain only.
    LayerWithoutBias,
    /// Layer norm with a bias, whose gain is the stored weight plus one (Nemotron).
    LayerPlusOne,
    /// Layer norm without weights (OLMo 1).
    LayerPlain,
}

impl NormKind {
    /// Whether the norm has a stored gain and whether it has a stored bias.
    pub fn stored(self) -> (bool, bool) {
        match self {
            Self::Rms | Self::RmsPlusOne | Self::LayerWithoutBias => (true, false),
            Self::Layer | Self::LayerPlusOne => (true, true),
            Self::LayerPlain => (false, false),
        }
    }
}

impl LinearSpec {
    /// Creates a plain projection without bias.
    pub fn new(module: String, inputs: usize, outputs: usize) -> Self {
        Self { module, inputs, outputs, bias: false, transposed: false }
    }

    /// Returns the same module, with a bias if `bias` is true.
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }
}

/// The path of the module that holds a module.
pub(super) fn parent(module: &str) -> &str {
    module.rsplit_once('.').map_or(module, |(parent, _)| parent)
}

impl AttentionSpec {
    /// The path of the module that holds the projections.
    pub fn module(&self) -> &str {
        parent(&self.output.module)
    }

    /// Creates an attention without clipping, norms or rotation.
    pub fn new(qkv: QkvSpec, heads: Heads, output: LinearSpec) -> Self {
        Self {
            qkv,
            clip: None,
            qk_norm: None,
            norm_after_rotation: false,
            heads,
            rotation: None,
            query_rotation: None,
            cached_wide: false,
            output,
        }
    }
}

impl MlpSpec {
    /// The projection that ends it.
    pub fn down(&self) -> &LinearSpec {
        match self {
            Self::Gated { down, .. } | Self::FusedGated { down, .. } | Self::Plain { down, .. } => down,
        }
    }
}

impl LayerSpec {
    /// Creates a block without norms, in which the branches follow one another.
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

    /// The block's projections, in the order of computation.
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
    /// The name of a tensor in a file, whose layout is the one whose names it `holds`; `name` itself if no layout fits.
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

    /// The head, even if the model shares it with the embedding.
    pub fn head_linear(&self) -> LinearSpec {
        let tied = || LinearSpec::new(self.head_module.into(), self.hidden, self.vocab_size);
        self.head.clone().unwrap_or_else(tied)
    }

    /// Every linear module of the blocks. This is what `target_modules: all-linear` selects (PEFT leaves the head out).
    pub fn linears(&self) -> impl Iterator<Item = &LinearSpec> {
        self.layers.iter().flat_map(LayerSpec::linears)
    }
}
