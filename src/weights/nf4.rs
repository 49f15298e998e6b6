//! NF4 with double quantisation, as bitsandbytes makes it (Dettmers et al. 2023, arXiv 2305.14314, section 3; its
//! `quantize_4bit` with `compress_statistics`): 64 numbers share the largest magnitude among them, and these magnitudes
//! are themselves 8-bit numbers. A block stores the dequantised magnitude in f32, and 64 codes of 4 bits.

use rayon::prelude::*;

use super::blocks::NF4_CODES;
use super::{BlockKind, FrozenWeight};
use crate::error::{Error, Result};

/// Thresholds: a number above one has the next code (bitsandbytes' `dQuantizeNF4`).
const BORDERS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_3,
    -0.339_679_43,
    -0.234_607_41,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// Numbers of a block, and magnitudes that share a scale.
const BLOCK: usize = 64;
const MAGNITUDES: usize = 256;

/// The error of quantisation: sums of squares of the differences and of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Σ (q − x)².
    pub differences: f64,
    /// Σ x².
    pub numbers: f64,
}

impl Loss {
    /// The root mean square error, relative to that of the numbers.
    pub fn share(self) -> f64 {
        (self.differences / self.numbers.max(f64::MIN_POSITIVE)).sqrt()
    }

    /// The sum of both.
    pub fn and(self, other: Self) -> Self {
        Self { differences: self.differences + other.differences, numbers: self.numbers + other.numbers }
    }
}

/// What became of matrices that should have been quantised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How many are quantised.
    pub quantised: usize,
    /// How many are not, because their rows are not whole blocks.
    pub kept: usize,
    /// The first of those: its name, and the length of its rows.
    pub first_kept: Option<(String, usize)>,
    /// The error of all that are quantised.
    pub loss: Loss,
}

impl Outcome {
    /// Counts a matrix, whose rows have `inputs` numbers.
    pub fn add(&mut self, name: &str, inputs: usize, loss: Option<Loss>) {
        match loss {
            Some(loss) => {
                self.quantised += 1;
                self.loss = self.loss.and(loss);
            }
            None => {
                self.kept += 1;
                self.first_kept.get_or_insert_with(|| (name.to_string(), inputs));
            }
        }
    }

    /// What is said of it.
    ///
    /// # Errors
    /// If nothing is quantised.
    pub fn described(&self) -> Result<String> {
        let why = self.first_kept.as_ref().map(|(name, inputs)| {
            format!("a block of NF4 is {BLOCK} numbers of a row, and {name} has {inputs} inputs, not a multiple of that")
        });
        let all = self.quantised + self.kept;
        match why {
            Some(why) if self.quantised == 0 => Err(Error::Config(format!(
                "load_in_4bit is nf4, and none of the {all} projections can be quantised: {why}; leave it out"
            ))),
            why => {
                let kept = why.map_or_else(String::new, |why| {
                    format!("; {} of {all} projections are not: {why}", self.kept)
                });
                Ok(format!(
                    "projections are quantised to NF4: their root mean square error is {:.1} % of their size{kept}",
                    100.0 * self.loss.share()
                ))
            }
        }
    }
}

/// The matrix in NF4, and its error; `None` if its rows are not whole blocks, or if it is quantised already.
///
/// # Errors
/// None for a matrix that was checked.
pub fn nf4(weight: &FrozenWeight) -> Result<Option<(FrozenWeight, Loss)>> {
    let elements = weight.elements();
    let whole = weight.shape().last().is_some_and(|columns| columns.is_multiple_of(BLOCK));
    if !whole || weight.block_kind().is_some() {
        return Ok(None);
    }
    let count = elements.len() / BLOCK;
    let read = |block: usize, out: &mut [f32; BLOCK]| {
        elements.slice(block * BLOCK..(block + 1) * BLOCK).widen_into(out);
    };
    let magnitudes: Vec<f32> = (0..count)
        .into_par_iter()
        .map(|block| {
            let mut x = [0.0; BLOCK];
            read(block, &mut x);
            x.iter().fold(0.0f32, |most, x| most.max(x.abs()))
        })
        .collect();
    let rounded = rounded(&magnitudes);
    let size = BlockKind::Nf4.block().1;
    let mut bytes = vec![0u8; count * size];
    let parts: Vec<Loss> = bytes
        .par_chunks_exact_mut(size)
        .enumerate()
        .map(|(block, out)| {
            let mut x = [0.0; BLOCK];
            read(block, &mut x);
            encode(&x, magnitudes[block], rounded[block], out)
        })
        .collect();
    // In order, so that the result does not depend on the threads.
    let loss = parts.into_iter().fold(Loss::default(), Loss::and);
    weight.release();
    Ok(Some((FrozenWeight::from_blocks(bytes.into(), BlockKind::Nf4, weight.shape())?, loss)))
}

fn encode(x: &[f32; BLOCK], magnitude: f32, rounded: f32, out: &mut [u8]) -> Loss {
    out[..4].copy_from_slice(&rounded.to_le_bytes());
    let factor = if magnitude == 0.0 { 0.0 } else { 1.0 / magnitude };
    let code = |x: f32| BORDERS.iter().filter(|border| x * factor > **border).count();
    let mut loss = Loss::default();
    for (pair, byte) in x.chunks_exact(2).zip(&mut out[4..]) {
        let codes = [code(pair[0]), code(pair[1])];
        *byte = (codes[0] << 4 | codes[1]) as u8;
        for (x, code) in pair.iter().zip(codes) {
            let difference = f64::from(NF4_CODES[code] * rounded - x);
            loss.differences += difference * difference;
            loss.numbers += f64::from(*x) * f64::from(*x);
        }
    }
    loss
}

/// The magnitudes as restored from 8-bit numbers: without their mean, each 256 relative to the largest among them.
fn rounded(magnitudes: &[f32]) -> Vec<f32> {
    let sum: f64 = magnitudes.iter().map(|m| f64::from(*m)).sum();
    let mean = (sum / magnitudes.len().max(1) as f64) as f32;
    let map = dynamic_map();
    let borders: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    magnitudes
        .par_chunks(MAGNITUDES)
        .flat_map_iter(|part| {
            let scale = part.iter().fold(0.0f32, |most, m| most.max((m - mean).abs()));
            let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let (map, borders) = (&map, &borders);
            part.iter().map(move |m| {
                let place = borders.partition_point(|border| *border < (m - mean) * factor);
                map[place] * scale + mean
            })
        })
        .collect()
}

/// The 256 numbers of bitsandbytes' dynamic 8-bit type (Dettmers 2015, arXiv 1511.04561), ascending.
fn dynamic_map() -> Vec<f32> {
    let mut map = vec![0.0, 1.0];
    for exponent in 0..7 {
        let count = 1 << exponent;
        for i in 0..count {
            // The middle of a part of [0.1, 1].
            let middle = 0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(count);
            let number = (10f64.powi(exponent - 6) * middle) as f32;
            map.extend([number, -number]);
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// All numbers; for tests.
#[cfg(test)]
fn wide(weight: &FrozenWeight) -> Vec<f32> {
    weight.elements().to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Elements;

    fn normal(count: usize) -> Vec<f32> {
        let stream = crate::random::Stream::new(8, "nf4");
        (0..count as u64)
            .map(|i| (0..12).map(|k| stream.uniform(12 * i + k)).sum::<f32>() - 6.0)
            .map(|x| 0.02 * x)
            .collect()
    }

    #[test]
    fn the_map_has_256_numbers() {
        let map = dynamic_map();
        assert_eq!(map.len(), 256);
        assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((map[255], map[0] > -1.0), (1.0, true));
    }

    #[test]
    fn blocks_are_those_of_bitsandbytes() {
        let cases = std::fs::read_to_string("tests/fixtures/nf4.json").unwrap();
        let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
        for case in cases.as_array().unwrap() {
            let shape: Vec<usize> =
                case["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            let weight: Vec<f32> = decoded(case["weight"].as_str().unwrap())
                .chunks_exact(2)
                .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect();
            let (quantised, _) = nf4(&FrozenWeight::from_f32(weight, &shape).unwrap()).unwrap().unwrap();
            let (mut codes, mut magnitudes) = (Vec::new(), Vec::new());
            for block in quantised.bytes().chunks_exact(36) {
                magnitudes.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
                codes.extend_from_slice(&block[4..]);
            }
            let hash = ring::digest::digest(&ring::digest::SHA256, &codes);
            let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, case["codes_sha256"].as_str().unwrap());
            for (found, want) in magnitudes.iter().zip(case["magnitudes"].as_array().unwrap()) {
                let want = want.as_f64().unwrap() as f32;
                // The mean is summed in another order.
                assert!((found - want).abs() <= 4e-7 * want.abs(), "{found} {want}");
            }
        }
    }

    /// Base64 without padding rules: the alphabet's digits, 6 bits each.
    fn decoded(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |c: u8| ALPHABET.iter().position(|a| *a == c).map(|d| d as u32);
        let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
        for digit in text.bytes().filter_map(digit) {
            bits = bits << 6 | digit;
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        bytes
    }

    #[test]
    fn normal_numbers_lose_about_nine_percent() {
        let weight = FrozenWeight::from_f32(normal(64 * 512), &[32, 1024]).unwrap();
        let (quantised, loss) = nf4(&weight).unwrap().unwrap();
        assert_eq!(quantised.storage(), "NF4");
        assert!((0.07..0.11).contains(&loss.share()), "{}", loss.share());
        let back = wide(&quantised);
        let lost: f64 = normal(64 * 512).iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!((lost - loss.differences).abs() < 1e-9 * lost.max(1.0));
    }

    #[test]
    fn what_is_not_quantised_is_said() {
        let mut outcome = Outcome::default();
        outcome.add("a.up", 96, None);
        let error = outcome.described().unwrap_err().to_string();
        assert!(
            error.contains("none of the 1 projections") && error.contains("a.up has 96 inputs"),
            "{error}"
        );
        outcome.add("a.down", 128, Some(Loss { differences: 1.0, numbers: 100.0 }));
        let text = outcome.described().unwrap();
        assert!(text.contains("10.0 %") && text.contains("1 of 2 projections are not"), "{text}");
        let all = Outcome { quantised: 2, ..Outcome::default() };
        assert!(all.described().unwrap().ends_with("of their size"));
    }

    #[test]
    fn rows_that_are_no_whole_blocks_stay_as_they_are() {
        let weight = FrozenWeight::from_f32(normal(96), &[1, 96]).unwrap();
        assert!(nf4(&weight).unwrap().is_none());
        let zeros = FrozenWeight::from_f32(vec![0.0; 128], &[1, 128]).unwrap();
        let (quantised, loss) = nf4(&zeros).unwrap().unwrap();
        assert_eq!((wide(&quantised), loss.share()), (vec![0.0; 128], 0.0));
        assert!(matches!(quantised.elements(), Elements::Blocks(_)));
    }
}
