//! The parameters trained beside the frozen base: named tensors in one flat [`Store`], and the kinds of adapters that
//! use them, one kind per file.
//!
//! A tensor in the store belongs to the adapter of one module, by the module's path. Most modules are linear ones of the
//! blocks; [`Whole`] and [`TokenRows`] replace tensors of any other module, such as the embedding or a head, and whoever
//! computes with that module looks them up with [`Policy::applied`].
//!
//! Each kind is a variant of [`Adapter`] and has its own file, which contains everything specific to it: its tensors
//! and their names in a PEFT file, their initialisation, its contribution to a module's product and to the backward
//! pass, and its change to a weight when merged. The decoder sees adapters only as [`Applied`] ones: of linear modules in
//! `model::projection`.

mod adapter;
mod applied;
pub mod bottleneck;
pub mod dora;
mod dropout;
mod heads;
mod kind;
pub mod lora;
mod low_rank;
pub mod pissa;
mod policy;
pub mod prefix;
pub mod projected;
mod projections;
mod score;
pub mod store;
mod tables;
pub mod token_rows;
pub mod whole;

use serde_json::Value;

pub use adapter::Adapter;
pub use applied::Applied;
pub use bottleneck::Bottleneck;
pub use dora::Dora;
pub use dropout::Dropout;
pub use heads::{SCORE, TASK, take_heads};
pub use kind::{Delta, Kept, Module, Numbers, PeftCommon};
pub use lora::Lora;
pub use pissa::Pissa;
pub use policy::{Frozen, Policy};
pub use prefix::Prefix;
pub use projected::{PrefixEncoder, ProjectedPrefix};
pub use store::Store;
pub use token_rows::TokenRows;
pub use whole::Whole;

use self::store::Entry;
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;

/// Adapters of several modules, sorted by module, with the store of their values. An empty set adapts nothing.
#[derive(Debug, Default)]
pub struct Adapters {
    all: Vec<Adapter>,
    store: Store,
}

impl Adapters {
    /// Creates a set with all values zero.
    ///
    /// # Errors
    /// If a module occurs twice.
    pub fn zeros(adapters: impl IntoIterator<Item: Into<Adapter>>) -> Result<Self> {
        let mut all: Vec<Adapter> = adapters.into_iter().map(Into::into).collect();
        all.sort_by(|a, b| a.module().cmp(b.module()));
        if let Some(twice) = all.windows(2).find(|pair| pair[0].module() == pair[1].module()) {
            return Err(Error::Adapter(format!(
                "module {} is adapted twice, by {} and by {}; keep one of the two",
                twice[0].module(),
                twice[0].kind(),
                twice[1].kind()
            )));
        }
        Ok(Self::of_sorted(all))
    }

    /// Creates a set with the values at the start of a run, each kind initialised as in PEFT.
    ///
    /// # Errors
    /// As [`Adapters::zeros`]; or if a kind starts from the weight of its module (see [`Adapters::initialised_on`]).
    pub fn initialised(adapters: impl IntoIterator<Item: Into<Adapter>>, seed: u64) -> Result<Self> {
        Self::initialised_on(adapters, seed, |_| None)
    }

    /// As [`Adapters::initialised`], also for kinds that start from the weights of their modules.
    ///
    /// # Errors
    /// As [`Adapters::zeros`]; [`Error::Config`] if embedding or head are trained in two ways; or if a kind needs a weight and
    /// cannot start from that of its module.
    pub fn initialised_on<'a>(
        adapters: impl IntoIterator<Item: Into<Adapter>>,
        seed: u64,
        weight: impl Fn(&str) -> Option<&'a Linear>,
    ) -> Result<Self> {
        let adapters: Vec<Adapter> = adapters.into_iter().map(Into::into).collect();
        tables::check(&adapters, &weight)?;
        let mut set = Self::zeros(adapters)?;
        let Self { all, store } = &mut set;
        let mut begun = Ok(());
        store.update(|values| {
            begun = all.iter_mut().try_for_each(|adapter| {
                let weight = weight(adapter.module());
                adapter.initialise(seed, values, weight)
            });
        });
        begun.map(|()| set)
    }

    /// Returns whether there are no adapters.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The number of adapted modules.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Iterates over the adapters, one per module, sorted by module.
    pub fn iter(&self) -> std::slice::Iter<'_, Adapter> {
        self.all.iter()
    }

    /// Iterates over all tensors: the module, the suffix that PEFT appends to its path, and the entry in the store.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &'static str, &Entry)> {
        let of = |adapter: &'_ Adapter| adapter.tensors().into_iter().map(|(suffix, _)| suffix);
        let named = self.all.iter().flat_map(move |a| of(a).map(move |suffix| (a.module(), suffix)));
        named.zip(self.store.entries()).map(|((module, suffix), entry)| (module, suffix, entry))
    }

    /// Returns the adapter of a module.
    pub fn find(&self, module: &str) -> Option<&Adapter> {
        self.all.binary_search_by(|adapter| adapter.module().cmp(module)).ok().map(|i| &self.all[i])
    }

    /// The store of values, gradients and moments.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The store, mutably.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// All values.
    pub fn values(&self) -> &[f32] {
        self.store.values()
    }

    /// A version number that is unique among all values of all sets, past and present.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    /// Changes the values.
    pub fn update(&mut self, change: impl FnOnce(&mut [f32])) {
        self.store.update(change);
    }

    /// Returns the first module with a non-finite value, and that value.
    pub fn not_finite(&self) -> Option<(&str, f32)> {
        let at = self.values().iter().position(|x| !x.is_finite())?;
        let (module, ..) = self.tensors().find(|(_, _, entry)| entry.range.contains(&at))?;
        Some((module, self.values()[at]))
    }

    /// Returns an independent copy of the modules selected by `keep`, with their values.
    pub fn of_modules(&self, keep: impl Fn(&str) -> bool) -> Self {
        self.of_adapters(|adapter| keep(adapter.module()))
    }

    /// Returns an independent copy of the adapters selected by `keep`, with their values.
    pub fn of_adapters(&self, keep: impl Fn(&Adapter) -> bool) -> Self {
        let kept = || self.all.iter().filter(|adapter| keep(adapter));
        let mut set = Self::of_sorted(kept().cloned().collect());
        let numbers = kept().flat_map(|adapter| &self.values()[adapter.range()]);
        set.update(|values| values.iter_mut().zip(numbers).for_each(|(to, from)| *to = *from));
        set
    }

    /// Creates a set of zeros from adapters sorted by module.
    fn of_sorted(mut all: Vec<Adapter>) -> Self {
        let mut store = Store::default();
        for adapter in &mut all {
            adapter.place(store.values().len());
            for (suffix, shape) in adapter.tensors() {
                store.add(format!("{}.{suffix}", adapter.module()), shape);
            }
        }
        Self { all, store }
    }

    /// Returns the `adapter_config.json` of a PEFT directory with these modules; `named` maps each module to its name
    /// in the file.
    ///
    /// # Errors
    /// If they are of several kinds, which a PEFT directory cannot hold.
    pub fn peft_config(&self, common: PeftCommon, named: &dyn Fn(&str) -> String) -> Result<Value> {
        let loras: Vec<&Lora> = self.iter().filter_map(Adapter::low_rank).collect();
        let doras = self.iter().filter(|adapter| matches!(adapter, Adapter::Dora(_))).count();
        if doras > 0 && doras < loras.len() {
            return Err(Error::Adapter(format!(
                "{doras} of {} modules are adapted by DoRA and the others by LoRA; one PEFT directory holds one kind",
                loras.len()
            )));
        }
        let mut config = lora::peft_config(&loras, doras > 0, common, named);
        let leaf = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
        let (mut whole, mut rows) = (Vec::new(), serde_json::Map::new());
        for adapter in &self.all {
            match adapter {
                Adapter::Whole(it) => whole.push(Value::from(leaf(&named(&it.module)))),
                Adapter::TokenRows(it) => {
                    rows.insert(leaf(&named(&it.module)), it.tokens.clone().into());
                }
                Adapter::Lora(_) | Adapter::Dora(_) | Adapter::Pissa(_) => {}
                Adapter::Prefix(_)
                | Adapter::PrefixEncoder(_)
                | Adapter::Projected(_)
                | Adapter::Bottleneck(_) => {
                    return Err(Error::Adapter(format!(
                        "{} has {}, and other modules have LoRA; one PEFT directory holds one kind",
                        adapter.module(),
                        adapter.kind()
                    )));
                }
            }
        }
        heads::save(&mut config, whole);
        if !rows.is_empty() {
            config["trainable_token_indices"] = rows.into();
        }
        Ok(config)
    }

    /// Returns an independent copy of the values, without gradient and moments.
    pub fn copy(&self) -> Self {
        Self { all: self.all.clone(), store: self.store.copy() }
    }
}
