//! Names of weights in a checkpoint, and of what is none.

use crate::error::nearest;
use crate::model::spec::DecoderSpec;
use crate::weights::WeightSource;

/// The tensor of a module's weight, in the layout of its checkpoint.
pub(super) fn weight_of(module: &str, source: &dyn WeightSource, spec: &DecoderSpec) -> String {
    spec.stored_name(&format!("{module}.weight"), |name| source.shape(name).is_some())
}

/// Misfits of one file that are told, at most: a hostile one may hold a hundred thousand.
pub(super) const MOST_TOLD: usize = 16;

/// A name of a file, shortened where it would fill the screen.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.into(),
    }
}

/// `; is it x?` where a known module is near. The distance takes time by both lengths: none for a name as long as a book.
pub(super) fn hint<'a>(module: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = (module.len() <= 160).then(|| nearest(module, known)).flatten();
    near.map_or(String::new(), |near| format!("; is it {near}?"))
}
