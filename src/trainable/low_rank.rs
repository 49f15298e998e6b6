//! Operations specific to sets of low-rank matrices: stacking them and scaling their product.

use super::{Adapter, Adapters, Lora};
use crate::error::{Error, Result};

impl Adapters {
    /// Returns the modules as LoRA modules.
    ///
    /// # Errors
    /// If a module has an adapter of another kind; the message names `who`, a noun, as what supports LoRA only.
    pub fn loras(&self, who: &str) -> Result<Vec<&Lora>> {
        let refused = |adapter: &Adapter| {
            let (module, kind) = (adapter.module(), adapter.kind());
            Error::Adapter(format!(
                "{module} is adapted by {kind}, and {who} supports LoRA only; merge the adapter into its base (dpo-lora merge) and \
                 use the merged model"
            ))
        };
        self.iter().map(|adapter| adapter.as_lora().ok_or_else(|| refused(adapter))).collect()
    }

    /// Returns the LoRA matrices of a module, if it has any.
    pub fn find_lora(&self, module: &str) -> Option<&Lora> {
        self.find(module).and_then(Adapter::as_lora)
    }

    /// Returns whether PEFT's settings can express every module's scale: all are `alpha / r`, or all are `alpha / √r`.
    /// Other scales are folded into B (see [`Adapters::stacked`]) before they are written.
    ///
    pub fn has_peft_scales(&self) -> bool {
        let all = |is: fn(&Lora) -> bool| self.iter().all(|adapter| is(adapter.low_rank()));
        all(Lora::is_plain) || all(Lora::is_stabilised)
    }

    /// Combines `parts` into one set equivalent to all of them together: ranks are concatenated, and each scale is
    /// folded into its `B`. A single part of another kind than LoRA stays as it is.
    ///
    /// # Errors
    /// If a module has different sizes in two parts, or one of several parts is of another kind than LoRA.
    pub fn stacked<'a>(parts: &'a [Self]) -> Result<Self> {
        if let [one] = parts
            && one.iter().any(|adapter| adapter.as_lora().is_none())
        {
            return Ok(one.copy());
        }
        let who = "a stack of several adapters";
        let each = parts.iter().map(|part| part.loras(who)).collect::<Result<Vec<_>>>()?;
        let mut sums: Vec<Lora> = Vec::new();
        for lora in each.iter().flatten().copied() {
            match sums.iter_mut().find(|sum| sum.module == lora.module) {
                None => sums.push(Lora { alpha: lora.rank as f64, scale: 1.0, ..lora.clone() }),
                Some(sum) if (sum.inputs, sum.outputs) == (lora.inputs, lora.outputs) => {
                    sum.rank += lora.rank;
                    sum.alpha = sum.rank as f64;
                }
                Some(_) => return Err(Error::Adapter(format!("{} has two shapes", lora.module))),
            }
        }
        let mut set = Self::zeros(sums)?;
        let mut values = set.values().to_vec();
        for sum in set.loras(who)? {
            let mut first = 0;
            let of_module = |part: &'a Self| Some((part, part.find_lora(&sum.module)?));
            for (part, from) in parts.iter().filter_map(of_module) {
                let (a, b) = (&part.values()[from.a()], &part.values()[from.b()]);
                values[sum.a()][first * sum.inputs..][..a.len()].copy_from_slice(a);
                for (to, b) in values[sum.b()].chunks_exact_mut(sum.rank).zip(b.chunks_exact(from.rank)) {
                    let scaled = b.iter().map(|b| b * from.scale as f32);
                    to[first..].iter_mut().zip(scaled).for_each(|(to, b)| *to = b);
                }
                first += from.rank;
            }
        }
        set.update(|all| all.copy_from_slice(&values));
        Ok(set)
    }

    /// Returns a copy whose product is multiplied by `factor`.
    pub fn scaled(&self, factor: f64) -> Self {
        let mut copy = self.copy();
        for adapter in &mut copy.all {
            match adapter {
                Adapter::Lora(lora) => lora.scale *= factor,
                Adapter::Dora(dora) => dora.weight *= factor,
            }
        }
        copy
    }
}
