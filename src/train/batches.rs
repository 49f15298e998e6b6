//! Cuts a step into batches, and checks that the batch settings suit the objective.

use super::config::TrainConfig;
use crate::data::Example;
use crate::error::{Problems, Result};
use crate::objective::Needs;

/// Rejects settings that would not give the objective the batches it needs.
///
/// # Errors
/// [`crate::error::Error::Config`], which lists each setting and its remedy.
pub fn check(config: &TrainConfig, needs: Needs) -> Result<()> {
    let mut problems = Problems::default();
    if let (true, Some(most)) = (needs.whole_batch, config.max_tokens_per_batch) {
        problems.add(format!(
            "train.max_tokens_per_batch is {most}, and objective.loss_type is computed over a whole batch, which must not be cut; \
             set it to null and lower train.per_device_train_batch_size instead"
        ));
    }
    problems.require(needs.reference || !config.sync_ref_model, || {
        "train.sync_ref_model is true, and objective.loss_type has no reference; set it to false".into()
    });
    // A size that is not set is that of training, of which is told already.
    let sizes = [
        ("per_device_train_batch_size", Some(config.per_device_train_batch_size)),
        ("per_device_eval_batch_size", config.per_device_eval_batch_size),
    ];
    for (key, size) in
        sizes.into_iter().filter_map(|(key, size)| Some((key, size?))).filter(|_| needs.mismatched)
    {
        problems.require(size > 1, || {
            format!(
                "train.{key} is {size}, and objective.loss_type pairs each prompt with another record of its batch; set it \
                 to 2 or more"
            )
        });
    }
    problems.finish()
}

/// Splits a batch wherever the next pair would take it over `most` packed tokens. The gradient is still that of the
/// whole batch, since each pair's contribution is divided by the number of pairs in the step; only the memory needed at
/// once is smaller. A pair that exceeds the limit on its own gets its own batch.
pub fn by_tokens<'a, 'b>(examples: &'a [&'b Example], most: Option<usize>) -> Vec<&'a [&'b Example]> {
    let Some(most) = most else { return vec![examples] };
    let (mut parts, mut first, mut tokens) = (Vec::new(), 0, 0);
    for (i, example) in examples.iter().enumerate() {
        let size = example.packed();
        if i > first && tokens + size > most {
            parts.push(&examples[first..i]);
            (first, tokens) = (i, 0);
        }
        tokens += size;
    }
    parts.push(&examples[first..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_are_cut_or_too_small_are_refused() {
        let config = |size, most| TrainConfig {
            per_device_train_batch_size: size,
            max_tokens_per_batch: most,
            ..TrainConfig::default()
        };
        check(&config(1, Some(512)), Needs::PAIRS).unwrap();
        let needs = Needs { whole_batch: true, mismatched: true, ..Needs::PAIRS };
        check(&config(2, None), needs).unwrap();
        let message = check(&config(1, Some(512)), needs).unwrap_err().to_string();
        for part in ["max_tokens_per_batch is 512", "train_batch_size is 1"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("eval_batch_size"), "it is not set: {message}");
        let set = TrainConfig { per_device_eval_batch_size: Some(1), ..config(2, None) };
        let message = check(&set, needs).unwrap_err().to_string();
        assert!(message.contains("per_device_eval_batch_size is 1"), "{message}");
    }
}
