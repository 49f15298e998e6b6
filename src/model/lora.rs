//! The trained low-rank matrices: one flat buffer of f32, in the order of their PEFT names.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};

use super::spec::LinearSpec;
use crate::error::{Error, Result};
use crate::ops::lora_linear::{LowRank, LowRankGradients};
use crate::random::Stream;

/// One adapted module.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Module path as adapters name it, without `base_model.model.`.
    pub module: String,
    /// Rank r.
    pub rank: usize,
    /// `lora_alpha` of this module.
    pub alpha: f64,
    /// Factor of `B·A`: alpha/r, or alpha/√r.
    pub scale: f64,
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
    /// Where `A [r, in]` begins in the flat buffer; `B [out, r]` follows it.
    offset: usize,
}

impl Slot {
    /// The module of `linear` with this rank and scale.
    pub fn new(linear: &LinearSpec, rank: usize, alpha: f64, scale: f64) -> Self {
        let LinearSpec { module, inputs, outputs, .. } = linear;
        Self { module: module.clone(), rank, alpha, scale, inputs: *inputs, outputs: *outputs, offset: 0 }
    }

    fn size(&self) -> usize {
        self.rank * (self.inputs + self.outputs)
    }

    /// Where `A [r, in]` stands in the flat buffer.
    pub fn a(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.rank * self.inputs
    }

    /// Where `B [out, r]` stands in the flat buffer.
    pub fn b(&self) -> std::ops::Range<usize> {
        self.offset + self.rank * self.inputs..self.offset + self.size()
    }
}

/// A set of low-rank matrices, with the buffer that the optimizer steps.
#[derive(Debug)]
pub struct Lora {
    slots: Vec<Slot>,
    values: Vec<f32>,
    /// `A` and `B` of each slot on the device; always equal to `values`.
    tensors: Vec<(Tensor, Tensor)>,
    device: Device,
    /// Of all sets' numbers there ever were, which these are.
    version: u64,
}

/// The number of the next version of any set.
static VERSIONS: AtomicU64 = AtomicU64::new(0);

impl Lora {
    /// All zero. Slots are sorted by module name.
    ///
    /// # Errors
    /// If a module comes twice, or the device has no room.
    pub fn zeros(mut slots: Vec<Slot>, device: &Device) -> Result<Self> {
        slots.sort_by(|a, b| a.module.cmp(&b.module));
        if let Some(twice) = slots.windows(2).find(|pair| pair[0].module == pair[1].module) {
            return Err(Error::Adapter(format!("module {} is adapted twice", twice[0].module)));
        }
        let mut size = 0;
        for slot in &mut slots {
            slot.offset = size;
            size += slot.size();
        }
        let mut lora =
            Self { slots, values: vec![0.0; size], tensors: Vec::new(), device: device.clone(), version: 0 };
        lora.refresh()?;
        Ok(lora)
    }

    /// PEFT's initialisation: `A` Kaiming-uniform with a = √5, which is uniform in ±1/√in; `B` zero.
    ///
    /// # Errors
    /// As [`Lora::zeros`].
    pub fn initialised(slots: Vec<Slot>, seed: u64, device: &Device) -> Result<Self> {
        let mut lora = Self::zeros(slots, device)?;
        let mut values = std::mem::take(&mut lora.values);
        for slot in &lora.slots {
            let stream = Stream::new(seed, &format!("lora_A {}", slot.module));
            let bound = 1.0 / (slot.inputs as f32).sqrt();
            for (i, value) in values[slot.a()].iter_mut().enumerate() {
                *value = (2.0 * stream.uniform(i as u64) - 1.0) * bound;
            }
        }
        lora.values = values;
        lora.refresh()?;
        Ok(lora)
    }

    /// The adapted modules, sorted by name.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Index of a module's slot.
    pub fn find(&self, module: &str) -> Option<usize> {
        self.slots.binary_search_by(|slot| slot.module.as_str().cmp(module)).ok()
    }

    /// All numbers.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// A number that no other numbers of any set have or had.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes the numbers.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn update(&mut self, change: impl FnOnce(&mut [f32])) -> Result<()> {
        change(&mut self.values);
        self.refresh()
    }

    /// The low-rank path of a slot.
    pub fn path(&self, slot: usize) -> LowRank<'_> {
        let (a, b) = &self.tensors[slot];
        LowRank { a, b, scale: self.slots[slot].scale as f32 }
    }

    /// Adds a slot's gradients to the flat buffer `gradients`.
    pub fn add_gradients(&self, slot: usize, from: &LowRankGradients, gradients: &mut [f32]) {
        let slot = &self.slots[slot];
        for (part, range) in [(&from.a, slot.a()), (&from.b, slot.b())] {
            gradients[range].iter_mut().zip(part).for_each(|(sum, g)| *sum += g);
        }
    }

    /// One set that does what all of `parts` do together: their ranks side by side, each scale folded into its `B`.
    ///
    /// # Errors
    /// If a module has other sizes in another part.
    pub fn stacked(parts: &[Self], device: &Device) -> Result<Self> {
        let mut slots: Vec<Slot> = Vec::new();
        for slot in parts.iter().flat_map(|part| &part.slots) {
            match slots.iter_mut().find(|s| s.module == slot.module) {
                None => slots.push(Slot { alpha: slot.rank as f64, scale: 1.0, ..slot.clone() }),
                Some(sum) if (sum.inputs, sum.outputs) == (slot.inputs, slot.outputs) => {
                    sum.rank += slot.rank;
                    sum.alpha = sum.rank as f64;
                }
                Some(_) => return Err(Error::Adapter(format!("{} has two shapes", slot.module))),
            }
        }
        let mut lora = Self::zeros(slots, device)?;
        let mut values = std::mem::take(&mut lora.values);
        for slot in &lora.slots {
            let mut first = 0;
            for (part, from) in parts.iter().filter_map(|p| p.find(&slot.module).map(|i| (p, &p.slots[i]))) {
                let (a, b) = (&part.values[from.a()], &part.values[from.b()]);
                values[slot.a()][first * slot.inputs..][..a.len()].copy_from_slice(a);
                for (to, b) in values[slot.b()].chunks_exact_mut(slot.rank).zip(b.chunks_exact(from.rank)) {
                    let scaled = b.iter().map(|b| b * from.scale as f32);
                    to[first..].iter_mut().zip(scaled).for_each(|(to, b)| *to = b);
                }
                first += from.rank;
            }
        }
        lora.values = values;
        lora.refresh()?;
        Ok(lora)
    }

    /// A copy whose product is `factor` times this one's.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn scaled(&self, factor: f64) -> Result<Self> {
        let mut copy = self.copy()?;
        copy.slots.iter_mut().for_each(|slot| slot.scale *= factor);
        Ok(copy)
    }

    /// An independent copy of the same numbers.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn copy(&self) -> Result<Self> {
        let mut copy = Self::zeros(self.slots.clone(), &self.device)?;
        copy.update(|values| values.copy_from_slice(&self.values))?;
        Ok(copy)
    }

    fn refresh(&mut self) -> Result<()> {
        self.version = VERSIONS.fetch_add(1, Ordering::Relaxed);
        let tensor = |range: std::ops::Range<usize>, shape| {
            Tensor::from_slice(&self.values[range], shape, &self.device)
        };
        self.tensors = self
            .slots
            .iter()
            .map(|s| Ok((tensor(s.a(), (s.rank, s.inputs))?, tensor(s.b(), (s.outputs, s.rank))?)))
            .collect::<Result<_>>()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(module: &str, inputs: usize) -> Slot {
        Slot::new(&LinearSpec::new(module.into(), inputs, 5), 2, 6.0, 3.0)
    }

    #[test]
    fn slots_are_sorted_and_partition_the_buffer() {
        let lora = Lora::zeros(vec![slot("b", 4), slot("a", 3)], &Device::Cpu).unwrap();
        assert_eq!(lora.slots().iter().map(|s| s.module.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let ranges: Vec<_> = lora.slots().iter().flat_map(|s| [s.a(), s.b()]).collect();
        assert_eq!(ranges, [0..6, 6..16, 16..24, 24..34]);
        assert_eq!((lora.values().len(), lora.find("b"), lora.find("c")), (34, Some(1), None));
        assert!(Lora::zeros(vec![slot("a", 3), slot("a", 3)], &Device::Cpu).is_err());
    }

    #[test]
    fn initialisation_is_pefts_and_the_seeds() {
        let draw =
            |seed| Lora::initialised(vec![slot("a", 400), slot("b", 400)], seed, &Device::Cpu).unwrap();
        let lora = draw(1);
        let (a, b) = (&lora.values()[lora.slots()[0].a()], &lora.values()[lora.slots()[0].b()]);
        // Uniform in ±1/√400: standard deviation 0.05/√3 ≈ 0.0289, over 800 draws.
        let deviation = (a.iter().map(|x| x * x).sum::<f32>() / 800.0).sqrt();
        assert!(a.iter().all(|x| x.abs() <= 0.05) && (deviation - 0.0289).abs() < 0.002, "{deviation}");
        assert!(b.iter().all(|x| *x == 0.0));
        assert_eq!(lora.values(), draw(1).values());
        assert_ne!(lora.values(), draw(2).values());
        assert_ne!(a, &lora.values()[lora.slots()[1].a()]);
    }
}
