//! Whether two bases hold the same weights in different types: a quantised base and the model it was made from.
//!
//! A sketch of a base is some of its numbers, from the embedding and from the last projection of three layers. Rounding to 4
//! bits moves them by about a tenth, while the numbers of two different models are unrelated. A fine-tuned copy moves them
//! less than rounding does, so that it cannot be told from a twin where one of the two is quantised.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::names::weight_of;
use crate::error::{Error, Result};
use crate::model::spec::DecoderSpec;
use crate::weights::WeightSource;

/// Metadata key of the sketch of the base that an adapter was trained on.
pub const SKETCH_KEY: &str = "dpo_lora.base_sketch";

/// Numbers of a row.
const WIDTH: usize = 64;
/// Rows of the embedding, and layers.
const ROWS: usize = 4;
const LAYERS: usize = 3;

/// Share of their norm by which rounding moves numbers at most, by the beginning of the type's name: a half more than a step
/// of so many bits over the range of a block gives (`Q8_0`: 0.5 % on the llama fixture).
const ROUNDING: &[(&str, f64)] = &[
    ("F", 0.005),
    ("BF", 0.005),
    ("Q8", 0.015),
    ("Q6", 0.04),
    ("Q5", 0.08),
    ("Q4", 0.16),
    ("IQ4", 0.16),
    ("Q3", 0.25),
];

/// That of types with fewer bits.
const COARSEST: f64 = 0.4;

/// Some of a base's numbers, and how they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    /// The types of the tensors that they come from, such as `Q6_K/Q4_K`.
    storage: String,
    numbers: Vec<f32>,
}

/// How a base differs from its twin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding(f64);

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", 100.0 * self.0)
    }
}

impl Sketch {
    /// The sketch of a base, without the tensors that fail to be read.
    pub fn of(source: &dyn WeightSource, spec: &DecoderSpec) -> Self {
        let mut sketch = Self { storage: String::new(), numbers: Vec::new() };
        sketch.add(source, &weight_of(&spec.embedding, source, spec), ROWS);
        let last = spec.layers.len().saturating_sub(1);
        let mut layers: Vec<usize> = (0..LAYERS).map(|i| i * last / (LAYERS - 1)).collect();
        layers.dedup();
        for layer in layers.into_iter().filter_map(|i| spec.layers.get(i)) {
            if let Some(linear) = layer.linears().last() {
                sketch.add(source, &weight_of(&linear.module, source, spec), 1);
            }
        }
        sketch
    }

    /// The beginnings of some rows of a tensor.
    fn add(&mut self, source: &dyn WeightSource, name: &str, rows: usize) {
        let Ok(weight) = source.get(name) else { return };
        let [height, width] = *weight.shape() else { return };
        // The file's name of the type: block formats share the type that they compute in.
        let storage = source.stored(name).map_or_else(|_| weight.storage().into(), |stored| stored.dtype);
        if !self.storage.split('/').any(|known| known == storage) {
            self.storage += &format!("{}{storage}", if self.storage.is_empty() { "" } else { "/" });
        }
        let elements = weight.elements();
        for i in 0..rows.min(height) {
            let start = i * height / rows.min(height).max(1) * width;
            // A whole row, since blocks begin with rows.
            self.numbers.extend(elements.slice(start..start + width).to_f32().iter().take(WIDTH));
        }
    }

    /// The share of their norm by which the coarsest of its types rounds numbers at most.
    pub fn rounding(&self) -> f64 {
        let of = |storage: &str| {
            let known = ROUNDING.iter().find(|(prefix, _)| storage.starts_with(prefix));
            known.map_or(COARSEST, |(_, share)| *share)
        };
        self.storage.split('/').map(of).fold(0.0, f64::max)
    }

    /// As text, for an adapter's metadata.
    pub fn to_text(&self) -> String {
        format!("1 {} {}", self.storage, STANDARD.encode(bytemuck::cast_slice(&self.numbers)))
    }

    /// Reads what [`Sketch::to_text`] wrote.
    ///
    /// # Errors
    /// [`Error::Adapter`] if it is damaged, or of a later version.
    pub fn from_text(text: &str) -> Result<Self> {
        let damaged =
            || Error::Adapter(format!("the metadata {SKETCH_KEY} is damaged, or of a later version"));
        let ["1", storage, numbers] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err(damaged());
        };
        let bytes = STANDARD.decode(numbers).map_err(|_| damaged())?;
        let (numbers, rest) = bytes.as_chunks();
        let numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if !rest.is_empty() {
            return Err(damaged());
        }
        Ok(Self { storage: storage.into(), numbers })
    }

    /// How the numbers are stored.
    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// The numbers, in the order of the tensors that they come from.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// The difference to the same weights in another type; `None` if `other` holds other weights, or the same type (then
    /// every difference matters).
    pub fn twin(&self, other: &Self) -> Option<Rounding> {
        if self.storage == other.storage || self.numbers.len() != other.numbers.len() {
            return None;
        }
        let square = |x: f64| x * x;
        let pairs = self.numbers.iter().zip(&other.numbers).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let (apart, size) = pairs.fold((0.0, 0.0), |(apart, size), (a, b)| {
            (apart + square(a - b), size + f64::max(square(a), square(b)))
        });
        let share = (apart / size).sqrt();
        let most = self.rounding() + other.rounding();
        // Not a number where there are no numbers.
        (share <= most).then_some(Rounding(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(storage: &str, numbers: &[f32]) -> Sketch {
        Sketch { storage: storage.into(), numbers: numbers.to_vec() }
    }

    #[test]
    fn twins_are_the_same_numbers_in_another_type() {
        let whole: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 64.0).collect();
        let four_bits: Vec<f32> = whole.iter().map(|x| (x * 14.0).round() / 14.0).collect();
        let other: Vec<f32> = whole.iter().rev().copied().collect();
        let base = sketch("BF16", &whole);
        assert!(base.twin(&sketch("Q4_0", &four_bits)).is_some());
        assert_eq!(base.twin(&sketch("Q4_0", &other)), None);
        // Eight bits and floats round less, and within one type there is no rounding.
        assert_eq!(base.twin(&sketch("Q8_0", &four_bits)), None);
        assert_eq!(base.twin(&sketch("F32", &four_bits)), None);
        assert!(base.twin(&sketch("F32", &whole)).is_some());
        assert_eq!(base.twin(&sketch("BF16", &four_bits)), None);
        assert_eq!(sketch("F32", &[]).twin(&sketch("BF16", &[])), None);
    }

    #[test]
    fn a_sketch_is_read_back_and_damage_is_told() {
        let whole = sketch("Q6_K/Q4_K", &[1.5, -2.25]);
        assert_eq!(Sketch::from_text(&whole.to_text()).unwrap(), whole);
        for text in ["", "2 F32 AAAA", "1 F32 AAA=", "1 F32 !", "1 F32"] {
            assert!(Sketch::from_text(text).unwrap_err().to_string().contains(SKETCH_KEY), "{text}");
        }
    }
}
