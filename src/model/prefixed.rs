//! Keys and values that adapters put before those of every sequence (prefix tuning). Every tree of a batch gets rows of its
//! own for them, so that a prompt and its completions see them as rows of one prefix.

use std::ops::Range;

use super::pass::{Context, Pass};
use super::spec::DecoderSpec;
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::simd::add_scaled;
use crate::ops::tree_attention::{Span, TreeSpans};
use crate::trainable::projected::ENCODER;
use crate::trainable::{Adapter, Applied, Policy, Prefix, PrefixEncoder, ProjectedPrefix};

/// The keys and values of one layer before those of the tokens.
#[derive(Debug)]
pub(super) struct Prefixed {
    keys: Tensor,
    values: Tensor,
    /// The rows of the trained prefix, and it, if one is trained.
    trained: Option<(Range<usize>, Trained)>,
}

/// A prefix that is trained.
#[derive(Debug)]
enum Trained {
    /// Keys and values themselves.
    Plain(Prefix),
    /// What a network makes of embeddings.
    Projected(ProjectedPrefix, PrefixEncoder),
}

/// Refuses a model before whose sequences virtual tokens would not be those of PEFT.
///
/// # Errors
/// If the model counts the length of a sequence in a way that virtual tokens would change, or if its keys are narrower than
/// PEFT's prefixes for it.
pub fn check(spec: &DecoderSpec) -> Result<()> {
    let why = if spec.rotations.iter().any(|rotation| rotation.by_length.is_some()) {
        "rotates keys by the length of the sequence, which is not supported with prefix tuning"
    } else if spec.layers.iter().any(|layer| layer.attention.cached_wide) {
        "shares keys among heads (num_kv_heads, new_decoder_architecture), but transformers caches a key for every head, so \
         that PEFT's prefixes do not fit its keys: it is not supported with prefix tuning"
    } else {
        return Ok(());
    };
    Err(Error::Model(format!("{} {why}; use LoRA", spec.model_type)))
}

/// Returns the number of virtual tokens of a pass.
///
/// # Errors
/// As [`check`], if there are any.
pub(super) fn length(spec: &DecoderSpec, policy: &Policy, pass: Pass) -> Result<usize> {
    let Some(layer) = spec.layers.first() else { return Ok(0) };
    let applied = policy.applied(layer.attention.module(), pass == Pass::Policy);
    let length: usize = applied.iter().map(|applied| applied.adapter().virtual_tokens()).sum();
    if length > 0 {
        check(spec)?;
    }
    Ok(length)
}

/// The spans of trees of queries over keys that begin, in each tree, with `length` rows of a prefix.
pub(super) fn spans(trees: Vec<TreeSpans>, length: usize) -> Vec<TreeSpans> {
    if length == 0 {
        return trees;
    }
    let moved = |(index, tree): (usize, TreeSpans)| {
        let (start, by) = (tree.rows.start + index * length, (index + 1) * length);
        let of = |Span { queries, prefix, own }: Span| Span {
            queries,
            prefix: start..start + length + prefix.len(),
            own: own.start + by..own.end + by,
        };
        TreeSpans { rows: tree.rows, spans: tree.spans.into_iter().map(of).collect() }
    };
    trees.into_iter().enumerate().map(moved).collect()
}

/// The shared part of the projected prefix that `applied` belongs to.
fn encoder<'a>(context: &Context<'a>, applied: &Applied) -> Result<&'a PrefixEncoder> {
    let version = applied.numbers().version;
    let same = |shared: &Applied<'a>| match shared.adapter() {
        Adapter::PrefixEncoder(encoder) if shared.numbers().version == version => Some(encoder),
        _ => None,
    };
    context.applied(ENCODER).iter().find_map(same).ok_or_else(|| {
        Error::Model(format!("the projected prefix of {} lacks its {ENCODER}", applied.adapter().module()))
    })
}

impl Prefixed {
    /// The prefix of an attention module in a pass, of `width` features; `None` if it has none.
    ///
    /// # Errors
    /// If its length is not `length`, that of the pass, or its width not `width`.
    pub(super) fn of(context: &Context, module: &str, length: usize, width: usize) -> Result<Option<Self>> {
        if length == 0 {
            return Ok(None);
        }
        let (mut keys, mut values, mut trained, mut rows) = (Vec::new(), Vec::new(), None, 0);
        for applied in context.applied(module) {
            let all = applied.numbers().values;
            let (own, [k, v], found) = match applied.adapter() {
                Adapter::Prefix(prefix) => {
                    let rows = [prefix.keys(), prefix.values()].map(|range| all[range].to_vec());
                    (prefix.width, rows, Trained::Plain(prefix.clone()))
                }
                Adapter::Projected(part) => {
                    let encoder = encoder(context, &applied)?;
                    let rows = part.rows(all, &encoder.activation(all)?);
                    (part.width, rows, Trained::Projected(part.clone(), encoder.clone()))
                }
                _ => continue,
            };
            if own != width {
                return Err(Error::Model(format!(
                    "the prefix of {module} has {own} features, and its keys have {width}"
                )));
            }
            keys.extend(k);
            values.extend(v);
            let tokens = applied.adapter().virtual_tokens();
            if applied.trained {
                trained = Some((rows..rows + tokens, found));
            }
            rows += tokens;
        }
        if rows != length {
            return Err(Error::Model(format!(
                "the prefix of {module} has {rows} virtual tokens, that of the first layer {length}"
            )));
        }
        Ok(Some(Self {
            keys: Tensor::new(keys, (rows, width))?,
            values: Tensor::new(values, (rows, width))?,
            trained,
        }))
    }

    /// The keys and values `[V, width]` themselves, for a cache.
    pub(super) fn rows(&self) -> (&Tensor, &Tensor) {
        (&self.keys, &self.values)
    }

    /// Puts the rows before those of each tree: `[T, width] → [T + trees·V, width]`, for keys and for values.
    ///
    /// # Errors
    /// If the widths differ.
    pub(super) fn before(&self, k: &Tensor, v: &Tensor, trees: &[TreeSpans]) -> Result<(Tensor, Tensor)> {
        let width = self.keys.shape().1;
        let joined = |prefix: &Tensor, x: &Tensor| {
            let mut all = Vec::with_capacity(x.numbers().len() + trees.len() * prefix.numbers().len());
            for tree in trees {
                all.extend_from_slice(prefix.numbers());
                all.extend_from_slice(&x.numbers()[tree.rows.start * width..tree.rows.end * width]);
            }
            Tensor::new(all, (k.shape().0 + trees.len() * prefix.shape().0, width))
        };
        Ok((joined(&self.keys, k)?, joined(&self.values, v)?))
    }

    /// The backward pass of [`Prefixed::before`]: the gradients of `k` and `v` `[T, width]`. Those of a trained prefix are
    /// added to `gradients`, tree by tree; `all` are the values of the trained set.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(super) fn gradients(
        &self,
        dk: &Tensor,
        dv: &Tensor,
        trees: &[TreeSpans],
        (all, gradients): (&[f32], &mut [f32]),
    ) -> Result<(Tensor, Tensor)> {
        let (length, width) = self.keys.shape();
        if let Some((rows, trained)) = &self.trained {
            let ranges = trees.iter().enumerate().map(|(index, tree)| {
                let start = tree.rows.start + index * length + rows.start;
                start * width..(start + rows.len()) * width
            });
            match trained {
                Trained::Plain(prefix) => {
                    for range in ranges {
                        add_scaled(&mut gradients[prefix.keys()], &dk.numbers()[range.clone()], 1.0);
                        add_scaled(&mut gradients[prefix.values()], &dv.numbers()[range], 1.0);
                    }
                }
                Trained::Projected(part, encoder) => {
                    let mut sums = [vec![0.0; rows.len() * width], vec![0.0; rows.len() * width]];
                    for range in ranges {
                        add_scaled(&mut sums[0], &dk.numbers()[range.clone()], 1.0);
                        add_scaled(&mut sums[1], &dv.numbers()[range], 1.0);
                    }
                    part.backward(encoder, all, [&sums[0], &sums[1]], gradients)?;
                }
            }
        }
        let tokens = |d: &Tensor| {
            let mut all = Vec::with_capacity(d.numbers().len() - trees.len() * length * width);
            for (index, tree) in trees.iter().enumerate() {
                let by = (index + 1) * length;
                all.extend_from_slice(
                    &d.numbers()[(tree.rows.start + by) * width..(tree.rows.end + by) * width],
                );
            }
            Tensor::new(all, (d.shape().0 - trees.len() * length, width))
        };
        Ok((tokens(dk)?, tokens(dv)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::{self, ConfigJson};
    use super::*;

    #[test]
    fn models_whose_keys_are_not_those_of_a_prefix_are_refused() {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let checked = |name: &str| {
            check(&families::spec(&ConfigJson::open(&models.join(name)).unwrap()).unwrap())
                .map_err(|error| error.to_string())
        };
        assert!(checked("falcon-new").unwrap_err().contains("new_decoder_architecture"));
        assert!(checked("llama-dynamic").unwrap_err().contains("by the length of the sequence"));
        for name in ["falcon", "falcon-sequential", "llama", "gpt_neox"] {
            checked(name).unwrap();
        }
    }

    #[test]
    fn every_tree_sees_a_prefix_of_its_own() {
        let span =
            |queries: Range<usize>, prefix: Range<usize>| Span { own: queries.clone(), queries, prefix };
        let trees = vec![
            TreeSpans { rows: 0..5, spans: vec![span(0..2, 0..0), span(2..4, 0..2), span(4..5, 0..2)] },
            TreeSpans { rows: 5..8, spans: vec![span(5..6, 5..5), span(6..8, 5..6)] },
        ];
        let moved = spans(trees.clone(), 3);
        // Keys: 3 of the prefix, 5 of the first tree, 3 of the prefix, 3 of the second.
        let of = |tree: usize, at: usize| {
            let Span { queries, prefix, own } = moved[tree].spans[at].clone();
            (queries, prefix, own)
        };
        assert_eq!(of(0, 0), (0..2, 0..3, 3..5));
        assert_eq!(of(0, 2), (4..5, 0..5, 7..8));
        assert_eq!(of(1, 0), (5..6, 8..11, 11..12));
        assert_eq!(of(1, 1), (6..8, 8..12, 12..14));
        assert_eq!(spans(trees.clone(), 0), trees);
        let k = Tensor::new((0..8).map(|i| i as f32).collect(), (8, 1)).unwrap();
        let prefix = || Tensor::new(vec![-1.0, -2.0, -3.0], (3, 1)).unwrap();
        let prefixed = Prefixed {
            keys: prefix(),
            values: prefix(),
            trained: Some((0..3, Trained::Plain(Prefix::new("m".into(), 3, 1)))),
        };
        let (all, _) = prefixed.before(&k, &k, &trees).unwrap();
        assert_eq!(all.numbers(), [-1., -2., -3., 0., 1., 2., 3., 4., -1., -2., -3., 5., 6., 7.]);
        let mut gradients = vec![0.0; 6];
        let (dk, _) = prefixed.gradients(&all, &all, &trees, (&[], &mut gradients)).unwrap();
        assert_eq!(dk, k);
        assert_eq!(gradients, [-2., -4., -6., -2., -4., -6.]);
    }
}
