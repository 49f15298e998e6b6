//! The keys and values of sequences in progress, wherever they are.

use crate::error::{Error, Result};
use crate::model::cache::Cache;
use crate::model::decoder::Decoder;
use crate::model::engine::{DeviceCache, Next};
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// A decoder and the side of the policy that it computes.
#[derive(Clone, Copy)]
pub(super) struct Model<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) policy: &'a Policy,
    pub(super) pass: Pass,
}

/// Sequences in numbered places. A place that is left is taken by the next sequence.
pub(super) enum Sequences {
    /// Each in a cache of its own: on the processor, and on a device for models whose keys depend on the final length.
    Apart(Vec<Option<Cache>>),
    /// All in one cache on a device.
    Device {
        cache: DeviceCache,
        /// The number of rows of the sequence in each place.
        seen: Vec<Option<usize>>,
    },
}

impl Sequences {
    pub(super) fn new(decoder: &Decoder) -> Self {
        if decoder.steps_together() {
            Self::Device { cache: DeviceCache::default(), seen: Vec::new() }
        } else {
            Self::Apart(Vec::new())
        }
    }

    /// Begins an empty sequence and returns its place.
    pub(super) fn open(&mut self, decoder: &Decoder) -> usize {
        match self {
            Self::Apart(places) => place(places, decoder.new_cache()),
            Self::Device { seen, .. } => place(seen, 0),
        }
    }

    /// Forgets the sequence in a place.
    pub(super) fn close(&mut self, at: usize) {
        match self {
            Self::Apart(places) => places[at] = None,
            Self::Device { seen, .. } => seen[at] = None,
        }
    }

    /// Copies the sequence in a place and returns the place of the copy.
    pub(super) fn fork(&mut self, at: usize, model: Model) -> Result<usize> {
        let Model { decoder, policy, pass } = model;
        match self {
            Self::Apart(places) => {
                let copy = places[at].as_ref().map(|cache| decoder.fork(cache, policy, pass)).transpose()?;
                copy.map(|copy| place(places, copy)).ok_or_else(|| empty(at))
            }
            Self::Device { cache, seen } => {
                let rows = seen[at].ok_or_else(|| empty(at))?;
                let copy = place(seen, rows);
                decoder.copy_sequence(cache, (at, copy), rows, policy)?;
                Ok(copy)
            }
        }
    }

    /// Appends tokens to sequences, and returns the logits `[next.len(), vocab]` after the last token of each.
    pub(super) fn step(&mut self, next: &[(usize, &[u32])], model: Model) -> Result<Vec<f32>> {
        let Model { decoder, policy, pass } = model;
        match self {
            Self::Apart(places) => {
                let mut caches = Vec::with_capacity(next.len());
                for (at, _) in next {
                    caches.push(places[*at].take().ok_or_else(|| empty(*at))?);
                }
                let tokens: Vec<&[u32]> = next.iter().map(|(_, tokens)| *tokens).collect();
                let mut borrowed: Vec<&mut Cache> = caches.iter_mut().collect();
                let logits = decoder.step_many(&mut borrowed, &tokens, policy, pass)?;
                for ((at, _), cache) in next.iter().zip(caches) {
                    places[*at] = Some(cache);
                }
                Ok(logits)
            }
            Self::Device { cache, seen } => {
                let next = next.iter().map(|(at, tokens)| {
                    seen[*at].map(|seen| Next { sequence: *at, seen, tokens }).ok_or_else(|| empty(*at))
                });
                let next = next.collect::<Result<Vec<_>>>()?;
                let logits = decoder.step_all(&next, cache, policy, pass)?;
                for Next { sequence, tokens, seen: before } in next {
                    seen[sequence] = Some(before + tokens.len());
                }
                Ok(logits)
            }
        }
    }
}

/// Puts a sequence into the first free place.
fn place<T>(places: &mut Vec<Option<T>>, sequence: T) -> usize {
    let free = places.iter().position(Option::is_none).unwrap_or(places.len());
    match places.get_mut(free) {
        Some(place) => *place = Some(sequence),
        None => places.push(Some(sequence)),
    }
    free
}

fn empty(at: usize) -> Error {
    Error::Model(format!("place {at} holds no sequence; this is a defect of the program: please report it"))
}
