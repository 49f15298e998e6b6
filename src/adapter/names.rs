//! Names of weights in a checkpoint.

use crate::model::spec::DecoderSpec;
use crate::weights::WeightSource;

/// The tensor of a module's weight; checkpoints may lack a prefix of its path.
pub(super) fn weight_of(module: &str, source: &dyn WeightSource, spec: &DecoderSpec) -> String {
    let name = format!("{module}.weight");
    let short = module.strip_prefix(spec.absent_prefix).unwrap_or(module);
    if source.shape(&name).is_some() { name } else { format!("{short}.weight") }
}
