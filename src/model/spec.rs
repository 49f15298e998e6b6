//! Architecture as data: what a family's file says of a decoder, and all that the decoder knows of its family.

use crate::ops::gated_act::Activation;
use crate::ops::rope::Pairing;
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;

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
    /// Learned positions `[max_positions, hidden]`, if there are any.
    pub positions: Option<String>,
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
    /// A prefix of module names that a checkpoint's tensors may lack.
    pub absent_prefix: &'static str,
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
    /// Norms of queries and keys.
    pub qk_norm: Option<(NormSpec, NormSpec)>,
    /// Heads, scale, soft-cap, window.
    pub heads: Heads,
    /// Index into [`DecoderSpec::rotations`]; `None`: no rotary embedding in this layer.
    pub rotation: Option<usize>,
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
    /// One for all, `[q; k; v]` of each head in turn (NeoX).
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

/// A norm.
#[derive(Clone, Debug, PartialEq)]
pub struct NormSpec {
    /// Path in transformers' model.
    pub module: String,
    /// Features normalised together.
    pub size: usize,
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

impl LayerSpec {
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
    /// Every linear module of the blocks: what `target_modules: all-linear` means (PEFT leaves the head out).
    pub fn linears(&self) -> impl Iterator<Item = &LinearSpec> {
        self.layers.iter().flat_map(LayerSpec::linears)
    }
}
