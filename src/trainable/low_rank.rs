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
        let all = |is: fn(&Lora) -> bool| self.iter().filter_map(Adapter::low_rank).all(is);
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

    /// Returns the adapters for the original base in the form that PEFT shares: a PiSSA becomes a LoRA of twice the rank, a
    /// projected prefix the keys and values that it gives. `None` if all are in that form already.
    ///
    /// # Errors
    /// As [`Adapters::zeros`].
    pub fn shared(&self) -> Result<Option<Self>> {
        if let Some(plain) = self.unprojected()? {
            return Ok(Some(plain));
        }
        if !self.all.iter().any(|adapter| matches!(adapter, Adapter::Pissa(_))) {
            return Ok(None);
        }
        let are_plain = self.all.iter().filter_map(Adapter::low_rank).all(Lora::is_plain);
        let shared = self.all.iter().map(|adapter| match adapter {
            Adapter::Pissa(pissa) => Adapter::Lora(pissa.shared(are_plain)),
            other => other.clone(),
        });
        let mut set = Self::zeros(shared)?;
        let mut values = set.values().to_vec();
        for (own, to) in self.all.iter().zip(&set.all) {
            match (own, to) {
                (Adapter::Pissa(pissa), Adapter::Lora(lora)) => pissa.share(self.values(), lora, &mut values),
                (other, to) => values[to.range()].copy_from_slice(&self.values()[other.range()]),
            }
        }
        set.update(|all| all.copy_from_slice(&values));
        Ok(Some(set))
    }

    /// Takes the values of a set that was written in the form of [`Adapters::shared`]. Returns whether it has the same
    /// modules, kinds, ranks and scales; if not, nothing changes. A projected prefix cannot be had from what it gives.
    ///
    /// # Errors
    /// As [`Adapters::zeros`].
    pub fn restore(&mut self, found: &Self) -> Result<bool> {
        if self.prefix_encoder().is_some() {
            return Ok(false);
        }
        let Some(shared) = self.shared()? else {
            let fits = self.iter().eq(found.iter());
            if fits {
                self.update(|values| values.copy_from_slice(found.values()));
            }
            return Ok(fits);
        };
        let alike = |(a, b): (&Adapter, &Adapter)| {
            let (Some(x), Some(y)) = (a.low_rank(), b.low_rank()) else { return a == b };
            // √2 · alpha / √(2r) is not always alpha / √r to the last bit.
            let close = (x.scale - y.scale).abs() <= 1e-9 * x.scale.abs();
            a.kind() == b.kind() && x.module == y.module && x.rank == y.rank && close
        };
        let sizes = shared.values().len() == found.values().len() && shared.len() == found.len();
        if !(sizes && shared.iter().zip(found.iter()).all(alike)) {
            return Ok(false);
        }
        let Self { all, store } = self;
        store.update(|values| {
            for (own, from) in all.iter_mut().zip(&found.all) {
                match (own, from) {
                    (Adapter::Pissa(pissa), Adapter::Lora(lora)) => {
                        pissa.restore(values, lora, found.values());
                    }
                    (other, from) => values[other.range()].copy_from_slice(&found.values()[from.range()]),
                }
            }
        });
        Ok(true)
    }

    /// Returns a copy whose product is multiplied by `factor`. Adapters that are no change of a product stay as
    /// they are.
    pub fn scaled(&self, factor: f64) -> Self {
        let mut copy = self.copy();
        for adapter in &mut copy.all {
            match adapter {
                Adapter::Lora(lora) => lora.scale *= factor,
                Adapter::Dora(dora) => dora.weight *= factor,
                Adapter::Pissa(pissa) => pissa.lora.scale *= factor,
                Adapter::Whole(_)
                | Adapter::TokenRows(_)
                | Adapter::Prefix(_)
                | Adapter::PrefixEncoder(_)
                | Adapter::Projected(_)
                | Adapter::Bottleneck(_) => {}
            }
        }
        copy
    }
}
