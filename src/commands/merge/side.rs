//! One of the models that are compared.

use crate::model::decoder::Decoder;
use crate::trainable::Policy;

/// A decoder with its adapters.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub decoder: &'a Decoder,
    pub adapters: &'a Policy,
}
