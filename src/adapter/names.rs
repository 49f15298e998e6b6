//! Names of tensors in a checkpoint, and messages about names that do not exist.

use crate::error::nearest;
use crate::model::spec::DecoderSpec;
use crate::weights::WeightSource;

/// The tensor of a module's weight, in the layout of its checkpoint.
pub(super) fn weight_of(module: &str, source: &dyn WeightSource, spec: &DecoderSpec) -> String {
    spec.stored_name(&format!("{module}.weight"), |name| source.shape(name).is_some())
}

/// Limit of problems of one file that are printed: a hostile one may have a hundred thousand.
pub(super) const MOST_TOLD: usize = 16;

/// A name from a file, shortened if it would fill the screen.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.into(),
    }
}

/// `; is it x?` if a known module has a similar name. The comparison takes time by both lengths, so very long names get none.
pub(super) fn hint<'a>(module: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = (module.len() <= 160).then(|| nearest(module, known)).flatten();
    near.map_or(String::new(), |near| format!("; is it {near}?"))
}
