//! Mappings, and what their values are found by.

use std::collections::HashMap;

use super::problem::{Counted, Res, room};
use super::value::{Value, deeper};

/// What a value is found by: equal values have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(String),
    Tuple(Vec<Key>),
}

/// A mapping in the order of its entries.
#[derive(Debug)]
pub(super) struct Dict {
    entries: Counted<Vec<(Value, Value)>>,
    /// Only for large ones.
    index: Option<HashMap<Key, usize>>,
    depth: usize,
}

impl Dict {
    /// From entries whose keys may repeat: the last value counts, at the first's place.
    pub fn new(given: Vec<(Value, Value)>) -> Res<Self> {
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(given.len());
        let mut index: HashMap<Key, usize> = HashMap::new();
        let mut depth = 0;
        for (key, value) in given {
            depth = depth.max(value.depth());
            match index.entry(key.key()?) {
                std::collections::hash_map::Entry::Occupied(place) => entries[*place.get()].1 = value,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, value));
                }
            }
        }
        Self::with(entries, Some(index), depth)
    }

    pub fn with(entries: Vec<(Value, Value)>, index: Option<HashMap<Key, usize>>, depth: usize) -> Res<Self> {
        let bytes = entries.len() * 2 * size_of::<Value>();
        room(bytes)?;
        let index = index.filter(|index| index.len() > 12);
        Ok(Self { entries: Counted::new(entries, bytes), index, depth: deeper(depth)? })
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn entries(&self) -> &[(Value, Value)] {
        &self.entries.inner
    }

    pub fn get(&self, key: &Key) -> Option<&Value> {
        match &self.index {
            Some(index) => index.get(key).map(|place| &self.entries()[*place].1),
            None => {
                let found = self.entries().iter().find(|(own, _)| match (own, key) {
                    (Value::Str(own), Key::Str(key)) => own.inner == *key,
                    (Value::Str(_), _) => false,
                    (own, key) => own.key().is_ok_and(|own| own == *key),
                });
                found.map(|(_, value)| value)
            }
        }
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        match &self.index {
            Some(_) => self.get(&Key::Str(key.to_owned())),
            None => {
                let same = |own: &Value| matches!(own, Value::Str(own) if own.inner == key);
                self.entries().iter().find(|(own, _)| same(own)).map(|(_, value)| value)
            }
        }
    }
}
