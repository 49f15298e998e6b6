//! What trains beside the frozen base: named numbers in one flat [`Store`], and the kinds of adapters that give them a
//! meaning, one kind a file.
//!
//! A kind is a variant of [`Adapter`] and a file of its own, which knows all there is to know of it: its tensors and their
//! names in a PEFT file, how they start, what it adds to a module's product and to the way back, and what it makes of a
//! weight when it is merged. The decoder meets adapters only as [`Applied`] ones, in `model::projection`.

mod applied;
mod dropout;
mod kind;
pub mod lora;
mod low_rank;
mod policy;
pub mod store;

use serde_json::Value;

pub use applied::Applied;
pub use dropout::Dropout;
pub use kind::{Delta, Kept, Module, PeftCommon};
pub use lora::Lora;
pub use policy::{Frozen, Policy};
pub use store::Store;

use self::store::{Entry, Shape};
use crate::error::{Error, Result};

/// What adapts one module. A new kind is a file and a variant; the compiler then names every place that has to know it.
#[derive(Clone, Debug, PartialEq)]
pub enum Adapter {
    /// Two low-rank matrices.
    Lora(Lora),
}

impl From<Lora> for Adapter {
    fn from(lora: Lora) -> Self {
        Self::Lora(lora)
    }
}

impl Adapter {
    /// The module's path.
    pub fn module(&self) -> &str {
        match self {
            Self::Lora(lora) => &lora.module,
        }
    }

    /// `[out, in]` of the module.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Lora(lora) => (lora.outputs, lora.inputs),
        }
    }

    /// What people call the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lora(_) => "LoRA",
        }
    }

    /// The low-rank matrices, if that is what it is.
    pub fn as_lora(&self) -> Option<&Lora> {
        match self {
            Self::Lora(lora) => Some(lora),
        }
    }

    /// All that its numbers do not say of what it computes, in a line that ends with a semicolon.
    pub fn identity(&self) -> String {
        match self {
            Self::Lora(lora) => lora.identity(),
        }
    }

    /// Its tensors in the order in which they stand in the store, by what PEFT adds to the module's path.
    fn tensors(&self) -> Vec<(&'static str, Shape)> {
        match self {
            Self::Lora(lora) => lora.tensors(),
        }
    }

    /// Takes its place in the flat buffer.
    fn place(&mut self, offset: usize) {
        match self {
            Self::Lora(lora) => lora.place(offset),
        }
    }

    /// Writes its numbers at the start of training to the store's `values`, which are zeros.
    fn initialise(&self, seed: u64, values: &mut [f32]) {
        match self {
            Self::Lora(lora) => lora.initialise(seed, values),
        }
    }

    /// What merging adds to the module's weight, times `weight`.
    pub fn delta<'a>(&self, values: &'a [f32], weight: f64) -> Delta<'a> {
        match self {
            Self::Lora(lora) => lora.delta(values, weight),
        }
    }
}

/// Adapters of several modules, sorted by module, with the store of their numbers. An empty set adapts nothing.
#[derive(Debug, Default)]
pub struct Adapters {
    all: Vec<Adapter>,
    store: Store,
}

impl Adapters {
    /// All numbers zero.
    ///
    /// # Errors
    /// If a module comes twice.
    pub fn zeros(adapters: impl IntoIterator<Item: Into<Adapter>>) -> Result<Self> {
        let mut all: Vec<Adapter> = adapters.into_iter().map(Into::into).collect();
        all.sort_by(|a, b| a.module().cmp(b.module()));
        if let Some(twice) = all.windows(2).find(|pair| pair[0].module() == pair[1].module()) {
            return Err(Error::Adapter(format!("module {} is adapted twice", twice[0].module())));
        }
        Ok(Self::of_sorted(all))
    }

    /// As a run starts, each kind in PEFT's way.
    ///
    /// # Errors
    /// As [`Adapters::zeros`].
    pub fn initialised(adapters: impl IntoIterator<Item: Into<Adapter>>, seed: u64) -> Result<Self> {
        let mut set = Self::zeros(adapters)?;
        let Self { all, store } = &mut set;
        store.update(|values| all.iter().for_each(|adapter| adapter.initialise(seed, values)));
        Ok(set)
    }

    /// Whether nothing is adapted.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adapted modules.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// One adapter a module, sorted by module.
    pub fn iter(&self) -> std::slice::Iter<'_, Adapter> {
        self.all.iter()
    }

    /// All tensors: their module, what PEFT adds to the module's path, and where they stand in the store.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &'static str, &Entry)> {
        let of = |adapter: &'_ Adapter| adapter.tensors().into_iter().map(|(suffix, _)| suffix);
        let named = self.all.iter().flat_map(move |a| of(a).map(move |suffix| (a.module(), suffix)));
        named.zip(self.store.entries()).map(|((module, suffix), entry)| (module, suffix, entry))
    }

    /// A module's adapter.
    pub fn find(&self, module: &str) -> Option<&Adapter> {
        self.all.binary_search_by(|adapter| adapter.module().cmp(module)).ok().map(|i| &self.all[i])
    }

    /// Their numbers, gradients and moments.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The same, to change them.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// All numbers.
    pub fn values(&self) -> &[f32] {
        self.store.values()
    }

    /// A number that no other numbers of any set have or had.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    /// Changes the numbers.
    pub fn update(&mut self, change: impl FnOnce(&mut [f32])) {
        self.store.update(change);
    }

    /// The first module with a number that is not finite, and that number.
    pub fn not_finite(&self) -> Option<(&str, f32)> {
        let at = self.values().iter().position(|x| !x.is_finite())?;
        let (module, ..) = self.tensors().find(|(_, _, entry)| entry.range.contains(&at))?;
        Some((module, self.values()[at]))
    }

    /// An independent copy of the modules that `keep` names, with their numbers.
    pub fn of_modules(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = self.all.iter().filter(|adapter| keep(adapter.module()));
        let mut set = Self::of_sorted(kept.cloned().collect());
        let tensors = self.tensors().filter(|(module, ..)| keep(module));
        let numbers = tensors.flat_map(|(_, _, entry)| &self.values()[entry.range.clone()]);
        set.update(|values| values.iter_mut().zip(numbers).for_each(|(to, from)| *to = *from));
        set
    }

    /// Zeros; the adapters are sorted by module.
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

    /// The `adapter_config.json` of a PEFT directory with these modules; `named` names them as the file does.
    ///
    /// # Errors
    /// If they are of several kinds, which no PEFT directory holds.
    pub fn peft_config(&self, common: PeftCommon, named: &dyn Fn(&str) -> String) -> Result<Value> {
        Ok(lora::peft_config(&self.loras("PEFT's type LORA")?, common, named))
    }

    /// An independent copy of the same numbers, without gradient and moments.
    pub fn copy(&self) -> Self {
        Self { all: self.all.clone(), store: self.store.copy() }
    }
}
