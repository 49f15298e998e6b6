//! The token embedding and the language-model head of a pass: the base's, or what an adapter has of them.
//!
//! A replaced table is stored in the type of the base's, so that a policy that has not moved computes the reference's
//! numbers to the bit. Its values are kept in f32 beside it, and those are trained.

use std::sync::Arc;

use super::Decoder;
use crate::error::{Error, Result};
use crate::model::pass::Context;
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::host;
use crate::ops::simd::add_scaled;
use crate::ops::token_logps::{self, LogitShape, Scored};
use crate::trainable::{Adapter, Applied};
use crate::weights::FrozenWeight;

/// Whether an adapter replaces a table or rows of it.
fn replaces(applied: &Applied) -> bool {
    applied.adapter().replaces_table()
}

impl Decoder {
    /// What replaces the embedding, in order.
    fn of_embedding<'a>(&self, context: &Context<'a>) -> Vec<Applied<'a>> {
        context.applied(&self.spec.embedding).into_iter().filter(replaces).collect()
    }

    /// What replaces the head, in order. Trained rows of an embedding are also those of a head that is tied to it; a copy
    /// of the whole embedding is not, as in PEFT.
    fn of_head<'a>(&self, context: &Context<'a>) -> Vec<Applied<'a>> {
        let mut all = Vec::new();
        if self.spec.head.is_none() {
            let rows = |applied: &Applied| matches!(applied.adapter(), Adapter::TokenRows(_));
            all.extend(self.of_embedding(context).into_iter().filter(rows));
        }
        all.extend(context.applied(&self.spec.head_linear().module).into_iter().filter(replaces));
        all
    }

    /// The head of a pass.
    ///
    /// # Errors
    /// If an adapter has another shape, or the base's is quantised.
    pub(super) fn head_of(&self, context: &Context) -> Result<Arc<Linear>> {
        self.replaced(&self.spec.head_linear().module, &self.head, &self.of_head(context))
    }

    /// The embedding of a pass, as a map whose outputs are the tokens.
    fn table_of(&self, context: &Context) -> Result<Arc<Linear>> {
        self.replaced(&self.spec.embedding, &self.table, &self.of_embedding(context))
    }

    fn replaced(&self, module: &str, base: &Arc<Linear>, applied: &[Applied]) -> Result<Arc<Linear>> {
        if applied.is_empty() {
            return Ok(base.clone());
        }
        let versions = applied.iter().map(|applied| applied.numbers().version).collect();
        self.replaced.of(module, versions, || replacement(module, base, applied))
    }

    /// The scaled embedding of the tokens: `[T, hidden]`.
    pub(super) fn embed(&self, tokens: &[u32], positions: &[u32], context: &Context) -> Result<Tensor> {
        self.check_tokens(tokens, positions)?;
        let (hidden, table) = (self.spec.hidden, self.table_of(context)?);
        let row_of = |weight: &FrozenWeight, index: u32, out: &mut [f32]| {
            weight.elements().slice(index as usize * hidden..(index as usize + 1) * hidden).widen_into(out);
        };
        let offset = self.spec.positions.as_ref().map_or(0, |learned| learned.offset as u32);
        let x = host::build_rows(tokens.len(), hidden, |row, out| {
            row_of(table.weight(), tokens[row], out);
            out.iter_mut().for_each(|x| *x *= self.spec.embedding_scale);
            if let Some(learned) = &self.positions {
                let mut position = vec![0.0; hidden];
                row_of(learned, positions[row] + offset, &mut position);
                out.iter_mut().zip(&position).for_each(|(x, p)| *x += p);
            }
        });
        Tensor::new(x, (tokens.len(), hidden))
    }

    /// Adds the gradients of what is trained of the head. `scored` are the hidden states before the final norm
    /// `[S, hidden]`, the logs of the sums of exponentials `[S]` and how logits follow from the head; `factors [S]` those of the rows' log-probs.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(super) fn head_gradient(
        &self,
        (scored, normalizers, shape): (&Tensor, &[f32], LogitShape),
        targets: &[u32],
        factors: &[f32],
        context: &Context,
        gradients: &mut [f32],
    ) -> Result<()> {
        let all = self.of_head(context);
        let Some(at) = all.iter().rposition(|applied| applied.trained) else { return Ok(()) };
        // A frozen copy of the head hides rows of the embedding that it is tied to.
        if all[at + 1..].iter().any(|later| matches!(later.adapter(), Adapter::Whole(_))) {
            return Ok(());
        }
        let applied = &all[at];
        let (head, normed) = (self.head_of(context)?, self.final_norm.forward(scored)?);
        let hidden = &normed;
        match applied.adapter() {
            Adapter::Whole(whole) => {
                let targets: Vec<_> = targets.iter().map(|target| Some(*target as usize)).collect();
                let (start, end) = (whole.weight_range().start, whole.bias_range().end);
                let (weight, bias) = gradients[start..end].split_at_mut(whole.weight_range().len());
                let scored = Scored { hidden, targets: &targets, normalizers, factors };
                token_logps::weight_gradient(scored, &head, shape, weight, whole.bias.then_some(bias))
            }
            Adapter::TokenRows(rows) => {
                let targets: Vec<_> = targets
                    .iter()
                    .map(|target| rows.tokens.iter().position(|token| token == target))
                    .collect();
                let mut part = vec![0.0; rows.tokens.len() * self.spec.hidden];
                for (token, row) in rows.tokens.iter().zip(part.chunks_exact_mut(self.spec.hidden.max(1))) {
                    head.output_row(*token as usize, row);
                }
                let part = FrozenWeight::from_f32(part, &[rows.tokens.len(), self.spec.hidden])?;
                let part = stored_as(part, &head, &self.spec.embedding)?;
                let scored = Scored { hidden, targets: &targets, normalizers, factors };
                let part = Linear::new(part, false, None);
                token_logps::weight_gradient(scored, &part, shape, &mut gradients[rows.range()], None)
            }
            _ => Ok(()),
        }
    }

    /// Adds the gradients of what is trained of the embedding, from those of its output `[T, hidden]`, in row order.
    pub(super) fn embedding_gradient(
        &self,
        dx: &Tensor,
        tokens: &[u32],
        context: &Context,
        gradients: &mut [f32],
    ) {
        let Some(applied) = self.of_embedding(context).into_iter().rfind(|applied| applied.trained) else {
            return;
        };
        for (row, token) in tokens.iter().enumerate() {
            let to = match applied.adapter() {
                Adapter::Whole(whole) => {
                    let start = whole.weight_range().start + *token as usize * whole.columns;
                    Some(start..start + whole.columns)
                }
                Adapter::TokenRows(rows) => {
                    rows.tokens.iter().position(|known| known == token).map(|at| rows.row(at))
                }
                _ => None,
            };
            if let Some(to) = to {
                add_scaled(&mut gradients[to], dx.row(row), self.spec.embedding_scale);
            }
        }
    }
}

/// Converts to the type of the base's.
fn stored_as(weight: FrozenWeight, base: &Linear, module: &str) -> Result<FrozenWeight> {
    let dtype = base.weight().dtype().ok_or_else(|| {
        Error::Model(format!(
            "{module} is stored in {}, and a trained copy of it needs one in f32, bf16 or f16; name a base that is not \
             quantised, or leave it out of modules_to_save and trainable_token_indices",
            base.weight().storage()
        ))
    })?;
    Ok(weight.to_dtype(dtype))
}

/// The table with what the adapters have of it, the later ones over the earlier.
fn replacement(module: &str, base: &Linear, applied: &[Applied]) -> Result<Linear> {
    let (rows, columns) = (base.outputs(), base.inputs());
    let misfit =
        |what: String| Error::Model(format!("{module} is [{rows}, {columns}], and its adapter has {what}"));
    let mut bias = base.bias().map(<[f32]>::to_vec);
    let mut table = match applied.iter().any(|applied| matches!(applied.adapter(), Adapter::Whole(_))) {
        true => Vec::new(),
        false => host::build_rows(rows, columns, |row, out| base.output_row(row, out)),
    };
    for applied in applied {
        let values = applied.numbers().values;
        match applied.adapter() {
            Adapter::Whole(whole) => {
                if (whole.rows, whole.columns, whole.bias) != (rows, columns, bias.is_some()) {
                    return Err(misfit(format!("[{}, {}]", whole.rows, whole.columns)));
                }
                table = whole.weight(values).to_vec();
                bias = whole.bias(values).map(<[f32]>::to_vec);
            }
            Adapter::TokenRows(part) => {
                if table.is_empty() {
                    table = host::build_rows(rows, columns, |row, out| base.output_row(row, out));
                }
                if part.hidden != columns {
                    return Err(misfit(format!("rows of {}", part.hidden)));
                }
                for (index, token) in part.tokens.iter().enumerate() {
                    let start = *token as usize * columns;
                    let to = table.get_mut(start..start + columns);
                    let to = to.ok_or_else(|| misfit(format!("a row of token {token}")))?;
                    to.copy_from_slice(&values[part.row(index)]);
                }
            }
            _ => {}
        }
    }
    let weight = FrozenWeight::from_f32(table, &[rows, columns])?;
    Ok(Linear::new(stored_as(weight, base, module)?, false, bias))
}
