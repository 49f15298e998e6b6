//! What is left of a model when adapters are taken off it: whether it is the base that they were trained on.
//!
//! The sum with an adapter is undone by subtracting the same product. What is left must then be the base, up to the rounding
//! of what was stored: of an adapter that was never merged, or is taken off twice, the product itself is left over. The
//! sketch of its base that an adapter notes has numbers to compare with.

use std::path::Path;

use super::Base;
use crate::adapter::read;
use crate::adapter::twin::{SKETCH_KEY, Sketch};
use crate::error::{Error, Result};
use crate::trainable::{Adapter, Adapters};

/// Units by which the product of another program may be off, relative to its largest number: it may round both matrices.
const PRODUCT: f64 = 8.0;

/// A difference that is none, whatever the numbers: the spacing of the smallest in f16.
const FLOOR: f64 = 1e-7;

/// How what is left agrees with a sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// Number by number, to within the rounding of a float.
    Exact,
    /// To within the rounding of blocks, which hides small changes.
    Coarse,
    /// It is another model.
    None,
}

impl Base {
    /// Checks that `left`, which is this model without the adapters, is the base that they were trained on, as far as they
    /// note what that is. Warns where they do not, or where the check cannot tell.
    ///
    /// # Errors
    /// If it is another model, or an adapter cannot be read.
    pub fn check_left(&self, left: &Self, adapters: &[impl AsRef<Path>]) -> Result<()> {
        let (before, after) = (self.sketch(), left.sketch());
        for path in adapters {
            let (path, name) = (path.as_ref(), &self.name);
            let shown = path.display();
            let Some(base) = noted(path)? else {
                log::warn!(
                    "{shown} does not note the weights of its base, so that it cannot be checked whether {name} without it is that \
                     base"
                );
                continue;
            };
            match agreement(&base, &before, &after) {
                Agreement::None => {
                    return Err(Error::Adapter(format!(
                        "{name} without the adapters is not the base that {shown} was trained on: its numbers are further from \
                         those that the adapter notes of its base than rounding explains; name the model that it was merged into \
                         once, with all adapters that were merged and their --weights; to keep some of them in it, insist with \
                         --force"
                    )));
                }
                Agreement::Exact if before.numbers() == after.numbers() => log::warn!(
                    "{shown} changes none of the numbers that it notes of its base, so that it cannot be checked whether it was \
                     merged into {name}"
                ),
                Agreement::Exact => {}
                Agreement::Coarse => log::warn!(
                    "{name} ({}) without the adapters agrees with the base that {shown} was trained on ({}) as well as such types \
                     allow, which hides a small change: make sure that it was merged into {name} once",
                    before.storage(),
                    base.storage()
                ),
            }
        }
        Ok(())
    }
}

/// Refuses an adapter whose merge cannot be undone.
pub(super) fn check_removable(path: &Path, adapters: &Adapters) -> Result<()> {
    let Some(adapter) = adapters.iter().find(|adapter| adapter.as_lora().is_none()) else { return Ok(()) };
    let why = match adapter {
        Adapter::Dora(_) => {
            "the merge divides by the norms of W + ΔW, which cannot be had from the merged weights, so that a part of the change \
             would stay"
        }
        adapter if adapter.replaces_table() => {
            "the merge puts it in place of the base's numbers, which the merged model no longer has"
        }
        _ => "no weight holds it, so that it was not merged",
    };
    Err(Error::Adapter(format!(
        "{}: {} has {}, which cannot be taken off again: {why}; use the base that the adapter was merged into",
        path.display(),
        adapter.module(),
        adapter.kind()
    )))
}

/// The sketch of its base that an adapter notes.
fn noted(adapter: &Path) -> Result<Option<Sketch>> {
    // A damaged one helps nobody, as where an adapter is read.
    Ok(read::noted(adapter)?.1.get(SKETCH_KEY).and_then(|text| Sketch::from_text(text).ok()))
}

/// Compares the sketch of a base with those of the merged model and of what is left of it.
fn agreement(base: &Sketch, merged: &Sketch, left: &Sketch) -> Agreement {
    let [w, m, r] = [base, merged, left].map(Sketch::numbers);
    if w.is_empty() || w.len() != m.len() || w.len() != r.len() {
        return Agreement::None;
    }
    let wide = |x: &f32| f64::from(*x);
    if let (Some(of_merged), Some(of_left)) = (unit(merged.storage()), unit(left.storage())) {
        let relative = of_merged.max(of_left);
        let change = m.iter().zip(r).map(|(m, r)| (wide(m) - wide(r)).abs()).fold(0.0, f64::max);
        let is_near = |((w, m), r): ((&f32, &f32), &f32)| {
            let allowed = relative * (wide(m).abs() + wide(r).abs() + PRODUCT * change) + FLOOR;
            (wide(w) - wide(r)).abs() <= allowed
        };
        if w.iter().zip(m).zip(r).all(is_near) {
            return Agreement::Exact;
        }
        // A base of floats is not rounded further.
        if unit(base.storage()).is_some() {
            return Agreement::None;
        }
    }
    let (apart, size) = w.iter().zip(r).fold((0.0, 0.0), |(apart, size), (w, r)| {
        (apart + (wide(w) - wide(r)).powi(2), size + wide(w).powi(2).max(wide(r).powi(2)))
    });
    let most = base.rounding() + merged.rounding() + left.rounding();
    // Not a number where there are no numbers.
    if (apart / size).sqrt() <= most { Agreement::Coarse } else { Agreement::None }
}

/// The largest relative error of a number in the coarsest of these types; `None` if one is of blocks. That of f32 is what
/// sums in another order differ by.
fn unit(storage: &str) -> Option<f64> {
    let units = storage.split('/').map(|storage| match storage {
        "F32" => Some(1e-6),
        "F16" => Some(2f64.powi(-11)),
        "BF16" => Some(2f64.powi(-8)),
        _ => None,
    });
    units.collect::<Option<Vec<_>>>().map(|units| units.into_iter().fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::trainable::{Dora, Lora, Module, Prefix, Whole};
    use crate::weights::{DType, FrozenWeight};

    const MERGES: [(&str, DType); 3] = [("F32", DType::F32), ("F16", DType::F16), ("BF16", DType::Bf16)];

    fn sketch(storage: &str, numbers: &[f32]) -> Sketch {
        Sketch::from_text(&format!("1 {storage} {}", STANDARD.encode(bytemuck::cast_slice(numbers)))).unwrap()
    }

    fn stored(numbers: &[f32], dtype: DType) -> Vec<f32> {
        let weight = FrozenWeight::from_f32(numbers.to_vec(), &[numbers.len()]).unwrap();
        weight.to_dtype(dtype).elements().to_f32()
    }

    fn sum(a: &[f32], b: &[f32], factor: f32) -> Vec<f32> {
        a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
    }

    fn wave(frequency: f32, size: f32) -> Vec<f32> {
        (0..256).map(|i| size * (i as f32 * frequency).sin()).collect()
    }

    #[test]
    fn what_is_left_is_the_base_to_within_rounding_and_nothing_else_is() {
        // A change of 2 % of the weights.
        let (wide, change) = (wave(0.7, 0.05), wave(1.3, 0.001));
        for (name, dtype) in MERGES {
            let base = stored(&wide, dtype);
            let merged = stored(&sum(&base, &change, 1.0), dtype);
            let left = stored(&sum(&merged, &change, -1.0), dtype);
            let twice = stored(&sum(&left, &change, -1.0), dtype);
            let of = |merged: &[f32], left: &[f32]| {
                agreement(&sketch(name, &base), &sketch(name, merged), &sketch(name, left))
            };
            assert_eq!(of(&merged, &left), Agreement::Exact, "{name}");
            assert_eq!(of(&left, &twice), Agreement::None, "{name}: taken off twice");
            let other = stored(&sum(&merged, &wave(2.1, 0.002), 1.0), dtype);
            let left = stored(&sum(&other, &change, -1.0), dtype);
            assert_eq!(of(&other, &left), Agreement::None, "{name}: another model");
            assert_eq!(of(&merged[1..], &left[1..]), Agreement::None, "{name}: of another size");
            // A base in another type, stored as it is in a wider one.
            let narrow = stored(&wide, DType::Bf16);
            let merged = sum(&narrow, &change, 1.0);
            let left = sum(&merged, &change, -1.0);
            let [base, merged, left] = [("BF16", narrow), ("F32", merged), ("F32", left)]
                .map(|(storage, numbers)| sketch(storage, &numbers));
            assert_eq!(agreement(&base, &merged, &left), Agreement::Exact);
        }
        let blocks = agreement(&sketch("F32", &wide), &sketch("Q8_0", &wide), &sketch("Q8_0", &wide));
        assert_eq!(blocks, Agreement::Coarse);
        let none = sketch("F32", &[]);
        assert_eq!(agreement(&none, &none, &none), Agreement::None);
    }

    #[test]
    fn only_a_sum_can_be_undone() {
        let lora = || Lora::new(Module { name: "m".into(), inputs: 3, outputs: 4 }, 2, 4.0, 2.0);
        let said = |adapter: Adapter| {
            let set = Adapters::zeros([adapter]).unwrap();
            check_removable(Path::new("a"), &set).err().map(|error| error.to_string())
        };
        assert_eq!(said(lora().into()), None);
        for (adapter, word) in [
            (
                Adapter::from(Dora::new(lora())),
                "m has DoRA, which cannot be taken off again: the merge divides",
            ),
            (Whole::new("h".into(), (4, 3), false).into(), "no longer has"),
            (Prefix::new("p".into(), 2, 3).into(), "was not merged"),
        ] {
            let error = said(adapter).unwrap();
            assert!(error.contains(word) && error.contains("use the base"), "{error}");
        }
    }
}
