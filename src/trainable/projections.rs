//! Operations specific to sets that are a projected prefix: its shared part, and the plain prefix that it gives.

use super::projected::{ENCODER, PrefixEncoder};
use super::{Adapter, Adapters, Prefix};
use crate::error::{Error, Result};

impl Adapters {
    /// Returns the shared part of a projected prefix, if this is one.
    pub fn prefix_encoder(&self) -> Option<&PrefixEncoder> {
        match self.find(ENCODER) {
            Some(Adapter::PrefixEncoder(encoder)) => Some(encoder),
            _ => None,
        }
    }

    /// Sets the last linear maps of a projected prefix to zero, so that all keys and values are.
    pub fn clear_projections(&mut self) {
        let ranges: Vec<_> =
            self.iter().filter_map(Adapter::as_projected).map(|part| part.ranges()).collect();
        self.update(|values| {
            for [weight, bias] in ranges {
                values[weight.start..bias.end].fill(0.0);
            }
        });
    }

    /// Returns the keys and values of a projected prefix as a plain one; `None` if this is none.
    ///
    /// # Errors
    /// If there is anything else beside it.
    pub(super) fn unprojected(&self) -> Result<Option<Self>> {
        let Some(encoder) = self.prefix_encoder() else { return Ok(None) };
        let a = encoder.activation(self.values())?;
        let (mut plain, mut rows) = (Vec::new(), Vec::new());
        for adapter in self.iter() {
            match adapter {
                Adapter::PrefixEncoder(_) => {}
                Adapter::Projected(part) => {
                    plain.push(Prefix::new(part.module.clone(), part.tokens, part.width));
                    rows.extend(part.rows(self.values(), &a).concat());
                }
                other => {
                    return Err(Error::Adapter(format!(
                        "{} has {} beside a projected prefix",
                        other.module(),
                        other.kind()
                    )));
                }
            }
        }
        // Both sets are sorted by module, and the keys of a layer stand before its values.
        let mut set = Self::zeros(plain)?;
        set.update(|values| values.copy_from_slice(&rows));
        Ok(Some(set))
    }
}
