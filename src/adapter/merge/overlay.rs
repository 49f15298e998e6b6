//! A base with the tensors that adapters have whole or in rows (`modules_to_save`, `trainable_token_indices`) in place of its
//! own: what remains to be merged are changes of linear modules.

use std::collections::BTreeMap;

use super::super::{head, names};
use super::request::Base;
use crate::error::{Error, Problems, Result};
use crate::files::FileStamp;
use crate::model::spec::DecoderSpec;
use crate::trainable::{Adapter, Adapters};
use crate::weights::{DType, FrozenWeight, Stored, WeightSource};

/// Base and adapters, divided.
pub(super) struct Overlay<'a> {
    source: Replaced<'a>,
    spec: DecoderSpec,
    parts: Vec<(Adapters, f64)>,
}

impl<'a> Overlay<'a> {
    /// Divides adapters into tensors that replace the base's, and those that change linear modules. `None` if nothing is
    /// replaced.
    ///
    /// # Errors
    /// If a tensor does not fit, is replaced twice or in part (a weight other than 1), or an adapter cannot be merged; all
    /// problems are named.
    pub(super) fn new(base: &Base<'a>, adapters: &[(&Adapters, f64)]) -> Result<Option<Self>> {
        check_kinds(adapters)?;
        if adapters.iter().flat_map(|(set, _)| set.iter()).all(|adapter| !adapter.replaces_table()) {
            return Ok(None);
        }
        let mut source = Replaced { source: base.source, tensors: BTreeMap::new() };
        let mut spec = base.spec.clone();
        let mut problems = Problems::default();
        let mut replaced: BTreeMap<&str, usize> = BTreeMap::new();
        for (place, (set, weight)) in adapters.iter().enumerate() {
            for adapter in set.iter().filter(|adapter| adapter.replaces_table()) {
                problems.require(*weight == 1.0, || {
                    format!(
                        "{} has {}, which replaces the base's and cannot be weighted by {weight} or removed again",
                        adapter.module(),
                        adapter.kind()
                    )
                });
                match replaced.insert(adapter.module(), place) {
                    Some(other) => problems.add(format!(
                        "{} is replaced by adapter {} and by adapter {}, and a merged model has it once; merge one of the two",
                        adapter.module(),
                        other + 1,
                        place + 1
                    )),
                    None => problems.absorb(source.put(adapter, set, base, &mut spec)),
                }
            }
        }
        problems.finish().map_err(|error| Error::Adapter(error.to_string()))?;
        let rest = adapters
            .iter()
            .map(|(set, weight)| (set.of_adapters(|adapter| !adapter.replaces_table()), *weight));
        let parts = rest.filter(|(set, _)| !set.is_empty()).collect();
        Ok(Some(Self { source, spec, parts }))
    }

    /// The base and the adapters to merge into it; those given if nothing is replaced.
    pub(super) fn resolved<'o>(
        overlay: Option<&'o Self>,
        base: &Base<'o>,
        adapters: &[(&'o Adapters, f64)],
    ) -> (Base<'o>, Vec<(&'o Adapters, f64)>) {
        match overlay {
            None => (*base, adapters.to_vec()),
            Some(Self { source, spec, parts }) => (
                Base { directory: base.directory, source, spec },
                parts.iter().map(|(set, weight)| (set, *weight)).collect(),
            ),
        }
    }
}

/// Refuses adapters that no weight of the base can hold.
fn check_kinds(adapters: &[(&Adapters, f64)]) -> Result<()> {
    let all = adapters.iter().flat_map(|(set, _)| set.iter());
    match all.into_iter().find(|adapter| adapter.is_beside()) {
        None => Ok(()),
        Some(adapter) => Err(Error::Adapter(format!(
            "{} has {}, which is not linear in the module's input, so no weight of the base can hold it; use the adapter \
             beside its base",
            adapter.module(),
            adapter.kind()
        ))),
    }
}

/// A source with some tensors replaced.
struct Replaced<'a> {
    source: &'a dyn WeightSource,
    tensors: BTreeMap<String, FrozenWeight>,
}

impl Replaced<'_> {
    fn put(&mut self, adapter: &Adapter, set: &Adapters, base: &Base, spec: &mut DecoderSpec) -> Result<()> {
        let module = adapter.module();
        let head = head::linear(base.spec);
        let (is_head, tied) = (module == head.module, base.spec.head.is_none());
        if !is_head && module != base.spec.embedding {
            return Err(Error::Adapter(format!(
                "{module} is neither the embedding nor the head of this base"
            )));
        }
        let table = names::weight_of(&base.spec.embedding, base.source, base.spec);
        let from =
            if is_head && !tied { names::weight_of(module, base.source, base.spec) } else { table.clone() };
        let to = if is_head && tied { format!("{module}.weight") } else { from.clone() };
        let own = base.source.get(&from)?;
        let values = set.values();
        let weight = match adapter {
            Adapter::Whole(whole) => whole.weight(values).to_vec(),
            Adapter::TokenRows(rows) => {
                let mut all = own.elements().to_f32();
                for (index, token) in rows.tokens.iter().enumerate() {
                    let start = *token as usize * rows.hidden;
                    if let Some(to) = all.get_mut(start..start + rows.hidden) {
                        to.copy_from_slice(&values[rows.row(index)]);
                    }
                }
                all
            }
            _ => return Ok(()),
        };
        if tied && matches!(adapter, Adapter::Whole(_)) {
            // Only one of the two was trained, or each by itself: they are tied no longer.
            spec.head = Some(head.clone());
            let name = format!("{}.weight", head.module);
            if !is_head && !self.tensors.contains_key(&name) {
                self.tensors.insert(name, own.clone());
            }
        }
        self.insert(to, weight, &own)?;
        if let Adapter::Whole(whole) = adapter
            && let Some(bias) = whole.bias(values)
        {
            let name = from.strip_suffix("weight").map(|path| format!("{path}bias")).unwrap_or_default();
            let own = base.source.get(&name)?;
            self.insert(name, bias.to_vec(), &own)?;
        }
        Ok(())
    }

    /// Puts numbers in place of a tensor, in its type.
    fn insert(&mut self, name: String, numbers: Vec<f32>, own: &FrozenWeight) -> Result<()> {
        if numbers.len() != own.elements().len() {
            return Err(Error::Adapter(format!(
                "{name} has {:?} in the base, and the adapter has {} numbers for it; was it trained on another base?",
                own.shape(),
                numbers.len()
            )));
        }
        let dtype = own.dtype().ok_or_else(|| {
            Error::Adapter(format!(
                "{name} is stored in {}, and the adapter replaces it; merge into a base that is not quantised",
                own.storage()
            ))
        })?;
        self.tensors.insert(name, FrozenWeight::from_f32(numbers, own.shape())?.to_dtype(dtype));
        Ok(())
    }
}

impl WeightSource for Replaced<'_> {
    fn names(&self) -> Vec<String> {
        let mut names = self.source.names();
        names.extend(self.tensors.keys().cloned());
        names.sort_unstable();
        names.dedup();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let own = self.tensors.get(name).map(|weight| weight.shape().to_vec());
        own.or_else(|| self.source.shape(name))
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        self.tensors.get(name).cloned().map_or_else(|| self.source.get(name), Ok)
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let Some(weight) = self.tensors.get(name) else { return self.source.stored(name) };
        let dtype = match weight.dtype() {
            Some(DType::Bf16) => "BF16",
            Some(DType::F16) => "F16",
            Some(DType::F32) | None => "F32",
        };
        Ok(Stored { dtype: dtype.into(), shape: weight.shape().to_vec(), bytes: weight.bytes() })
    }

    fn files(&self) -> Vec<FileStamp> {
        self.source.files()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }
}
