//! The kinds of adapters: a variant for each, and the one `match` for everything that a kind does outside of a pass.

use std::ops::Range;

use super::bottleneck::Bottleneck;
use super::dora::Dora;
use super::kind::Delta;
use super::lora::Lora;
use super::pissa::Pissa;
use super::prefix::Prefix;
use super::projected::{ENCODER, PrefixEncoder, ProjectedPrefix};
use super::store::Shape;
use super::token_rows::TokenRows;
use super::whole::Whole;
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;

/// The adapter of one module. To add a kind, add a file and a variant; the compiler then reports every place that must
/// handle it.
#[derive(Clone, Debug, PartialEq)]
pub enum Adapter {
    /// Two low-rank matrices.
    Lora(Lora),
    /// Two low-rank matrices and a magnitude for each output.
    Dora(Dora),
    /// Two low-rank matrices that start from the frozen weight. Files hold it as a LoRA.
    Pissa(Pissa),
    /// A copy of the whole module (`modules_to_save`).
    Whole(Whole),
    /// Copies of rows of the embedding (`trainable_token_indices`).
    TokenRows(TokenRows),
    /// Keys and values of virtual tokens before those of every sequence.
    Prefix(Prefix),
    /// What all layers of a projected prefix share.
    PrefixEncoder(PrefixEncoder),
    /// The part of one layer of a projected prefix.
    Projected(ProjectedPrefix),
    /// A bottleneck behind the module's output.
    Bottleneck(Bottleneck),
}

impl From<Lora> for Adapter {
    fn from(lora: Lora) -> Self {
        Self::Lora(lora)
    }
}

impl From<Dora> for Adapter {
    fn from(dora: Dora) -> Self {
        Self::Dora(dora)
    }
}

impl From<Pissa> for Adapter {
    fn from(pissa: Pissa) -> Self {
        Self::Pissa(pissa)
    }
}

impl From<Whole> for Adapter {
    fn from(whole: Whole) -> Self {
        Self::Whole(whole)
    }
}

impl From<TokenRows> for Adapter {
    fn from(rows: TokenRows) -> Self {
        Self::TokenRows(rows)
    }
}

impl From<Prefix> for Adapter {
    fn from(prefix: Prefix) -> Self {
        Self::Prefix(prefix)
    }
}

impl From<PrefixEncoder> for Adapter {
    fn from(encoder: PrefixEncoder) -> Self {
        Self::PrefixEncoder(encoder)
    }
}

impl From<ProjectedPrefix> for Adapter {
    fn from(part: ProjectedPrefix) -> Self {
        Self::Projected(part)
    }
}

impl From<Bottleneck> for Adapter {
    fn from(bottleneck: Bottleneck) -> Self {
        Self::Bottleneck(bottleneck)
    }
}

impl Adapter {
    /// The module's path.
    pub fn module(&self) -> &str {
        match self {
            Self::Lora(lora) => &lora.module,
            Self::Dora(Dora { lora, .. }) | Self::Pissa(Pissa { lora, .. }) => &lora.module,
            Self::Whole(whole) => &whole.module,
            Self::TokenRows(rows) => &rows.module,
            Self::Prefix(prefix) => &prefix.module,
            Self::PrefixEncoder(_) => ENCODER,
            Self::Projected(part) => &part.module,
            Self::Bottleneck(bottleneck) => &bottleneck.module,
        }
    }

    /// Shape `[out, in]` of the module's weight, as far as the adapter knows it.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Lora(lora) | Self::Dora(Dora { lora, .. }) | Self::Pissa(Pissa { lora, .. }) => {
                (lora.outputs, lora.inputs)
            }
            Self::Whole(whole) => (whole.rows, whole.columns),
            Self::TokenRows(rows) => (rows.tokens.len(), rows.hidden),
            Self::Prefix(prefix) => (prefix.tokens, prefix.width),
            Self::PrefixEncoder(encoder) => (encoder.hidden, encoder.inputs),
            Self::Projected(part) => (2 * part.width, part.hidden),
            Self::Bottleneck(bottleneck) => (bottleneck.features, bottleneck.size),
        }
    }

    /// The common name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lora(_) => "LoRA",
            Self::Dora(_) => "DoRA",
            Self::Pissa(_) => "PiSSA",
            Self::Whole(_) => "a trained copy (modules_to_save)",
            Self::TokenRows(_) => "trained rows (trainable_token_indices)",
            Self::Prefix(_) | Self::PrefixEncoder(_) | Self::Projected(_) => "a prefix (prefix tuning)",
            Self::Bottleneck(_) => "an adapter layer",
        }
    }

    /// Returns the low-rank matrices, if this is a LoRA.
    pub fn as_lora(&self) -> Option<&Lora> {
        match self {
            Self::Lora(lora) => Some(lora),
            _ => None,
        }
    }

    /// Whether a backward pass adds to each number of the gradient once. Rows of tables and prefixes get a part from every
    /// place where they are used.
    pub fn adds_once(&self) -> bool {
        match self {
            Self::Lora(_) | Self::Dora(_) | Self::Pissa(_) | Self::Bottleneck(_) => true,
            Self::Whole(_)
            | Self::TokenRows(_)
            | Self::Prefix(_)
            | Self::PrefixEncoder(_)
            | Self::Projected(_) => false,
        }
    }

    /// Returns the part of a layer of a projected prefix, if this is one.
    pub fn as_projected(&self) -> Option<&ProjectedPrefix> {
        match self {
            Self::Projected(part) => Some(part),
            _ => None,
        }
    }

    /// The number of virtual tokens that it puts before every sequence of its layer.
    pub fn virtual_tokens(&self) -> usize {
        match self {
            Self::Prefix(prefix) => prefix.tokens,
            Self::Projected(part) => part.tokens,
            _ => 0,
        }
    }

    /// Whether it stands beside the weights: no weight of the base can hold what it does.
    pub fn is_beside(&self) -> bool {
        matches!(self, Self::Prefix(_) | Self::PrefixEncoder(_) | Self::Projected(_) | Self::Bottleneck(_))
    }

    /// Whether it replaces the embedding, the head or rows of them, instead of adding to a product.
    pub fn replaces_table(&self) -> bool {
        matches!(self, Self::Whole(_) | Self::TokenRows(_))
    }

    /// Returns its low-rank matrices, whatever else it has; `None` if it has none.
    pub fn low_rank(&self) -> Option<&Lora> {
        match self {
            Self::Lora(lora) | Self::Dora(Dora { lora, .. }) | Self::Pissa(Pissa { lora, .. }) => Some(lora),
            Self::Whole(_)
            | Self::TokenRows(_)
            | Self::Prefix(_)
            | Self::PrefixEncoder(_)
            | Self::Projected(_)
            | Self::Bottleneck(_) => None,
        }
    }

    /// Whether its module is a linear one of a block.
    pub fn is_of_linear(&self) -> bool {
        self.low_rank().is_some() || matches!(self, Self::Bottleneck(_))
    }

    /// Describes everything except the values that determines what it computes, on one line ending with a semicolon.
    pub fn identity(&self) -> String {
        match self {
            Self::Lora(lora) => lora.identity(),
            Self::Dora(dora) => dora.identity(),
            Self::Pissa(pissa) => pissa.identity(),
            Self::Whole(whole) => whole.identity(),
            Self::TokenRows(rows) => rows.identity(),
            Self::Prefix(prefix) => prefix.identity(),
            Self::PrefixEncoder(encoder) => encoder.identity(),
            Self::Projected(part) => part.identity(),
            Self::Bottleneck(bottleneck) => bottleneck.identity(),
        }
    }

    /// Returns its tensors in store order, each named by the suffix that PEFT appends to the module's path.
    pub fn tensors(&self) -> Vec<(&'static str, Shape)> {
        match self {
            Self::Lora(lora) => lora.tensors(),
            Self::Dora(dora) => dora.tensors(),
            Self::Pissa(pissa) => pissa.tensors(),
            Self::Whole(whole) => whole.tensors(),
            Self::TokenRows(rows) => rows.tensors(),
            Self::Prefix(prefix) => prefix.tensors(),
            Self::PrefixEncoder(encoder) => encoder.tensors(),
            Self::Projected(part) => part.tensors(),
            Self::Bottleneck(bottleneck) => bottleneck.tensors(),
        }
    }

    /// The number of its trained parameters.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Its range in the flat buffer.
    pub(super) fn range(&self) -> Range<usize> {
        let start = match self {
            Self::Lora(lora) | Self::Dora(Dora { lora, .. }) | Self::Pissa(Pissa { lora, .. }) => lora.offset,
            Self::Whole(whole) => whole.offset,
            Self::TokenRows(rows) => rows.offset,
            Self::Prefix(prefix) => prefix.offset,
            Self::PrefixEncoder(encoder) => encoder.offset,
            Self::Projected(part) => part.offset,
            Self::Bottleneck(bottleneck) => bottleneck.offset,
        };
        start..start + self.parameters()
    }

    /// Sets its offset in the flat buffer.
    pub(super) fn place(&mut self, offset: usize) {
        match self {
            Self::Lora(lora) => lora.place(offset),
            Self::Dora(dora) => dora.lora.place(offset),
            Self::Pissa(pissa) => pissa.lora.place(offset),
            Self::Whole(whole) => whole.offset = offset,
            Self::TokenRows(rows) => rows.offset = offset,
            Self::Prefix(prefix) => prefix.offset = offset,
            Self::PrefixEncoder(encoder) => encoder.offset = offset,
            Self::Projected(part) => part.offset = offset,
            Self::Bottleneck(bottleneck) => bottleneck.offset = offset,
        }
    }

    /// Writes its initial values to the store's `values`, which are zeros. `weight` is that of its module, if it is known.
    pub(super) fn initialise(
        &mut self,
        seed: u64,
        values: &mut [f32],
        weight: Option<&Linear>,
    ) -> Result<()> {
        match self {
            Self::Lora(lora) => {
                lora.initialise(seed, values);
                Ok(())
            }
            Self::Dora(dora) => dora.initialise(seed, values, weight),
            Self::Pissa(pissa) => pissa.initialise(seed, values, weight),
            Self::Whole(whole) => whole.initialise(values, weight),
            Self::TokenRows(rows) => rows.initialise(values, weight),
            Self::Prefix(prefix) => {
                prefix.initialise(seed, values);
                Ok(())
            }
            Self::PrefixEncoder(encoder) => {
                encoder.initialise(seed, values);
                Ok(())
            }
            Self::Projected(part) => {
                part.initialise(seed, values);
                Ok(())
            }
            Self::Bottleneck(bottleneck) => {
                bottleneck.initialise(seed, values);
                Ok(())
            }
        }
    }

    /// Returns what merging adds to the module's weight, multiplied by `weight`. `base` reads that weight, where the change
    /// depends on it.
    ///
    /// # Errors
    /// The errors of `base`, if it is not the module's weight, or if the adapter does not add to a weight.
    pub fn delta<'a>(
        &self,
        values: &'a [f32],
        weight: f64,
        base: impl FnOnce() -> Result<Linear>,
    ) -> Result<Delta<'a>> {
        match self {
            Self::Lora(lora) => Ok(lora.delta(values, weight)),
            Self::Dora(dora) => dora.delta(values, weight, &base()?),
            Self::Pissa(pissa) => Err(Error::Adapter(format!(
                "{} is a PiSSA in training; merge the adapter that the run wrote",
                pissa.lora.module
            ))),
            Self::Whole(_)
            | Self::TokenRows(_)
            | Self::Prefix(_)
            | Self::PrefixEncoder(_)
            | Self::Projected(_)
            | Self::Bottleneck(_) => Err(Error::Adapter(format!(
                "{} has {}, which is not a change of a linear module's weight and cannot be merged; keep the adapter beside \
                     its base",
                self.module(),
                self.kind()
            ))),
        }
    }
}
