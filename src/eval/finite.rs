//! Log-probs that are not finite, of which no figure can be computed: the error, and what to do about it.

use crate::data::Example;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::objective::Scored;

/// What to do about log-probs that are not finite. `setting` is how one computes in f32.
pub fn remedy(decoder: &Decoder, setting: &str) -> String {
    match decoder.storage() {
        "f32" => "an activation overflowed: the base or the adapter is damaged".into(),
        _ => format!("an activation overflowed: {setting}, or the base or the adapter is damaged"),
    }
}

/// The end of an error of a command that reads an adapter.
pub(super) fn advice(decoder: &Decoder) -> String {
    format!("; {}", remedy(decoder, "compute with --dtype f32"))
}

/// Refuses log-probs that are not finite, in the name of their record. A mismatched completion is reported under the record
/// whose prompt it follows. The error ends in `advice`.
///
/// # Errors
/// [`Error::Record`] if one is not.
pub(super) fn check_finite(examples: &[Example], scored: &[Scored], advice: &str) -> Result<()> {
    match scored.iter().find(|completion| !completion.is_finite()) {
        None => Ok(()),
        Some(broken) => {
            Err(not_finite(&examples[broken.group % examples.len()], (scored, broken.group), advice))
        }
    }
}

/// Creates the error for log-probs that are not finite, since no figure can be computed from them.
fn not_finite(example: &Example, (scored, group): (&[Scored], usize), advice: &str) -> Error {
    let logps: Vec<String> = scored
        .iter()
        .filter(|completion| completion.group == group)
        .enumerate()
        .map(|(index, completion)| {
            let reference =
                completion.ref_logp.map_or_else(String::new, |logp| format!(", reference {logp}"));
            format!("{} {}{reference}", example.kind.field(index), completion.logp)
        })
        .collect();
    example.origin.error(format!("has log-probs that are not finite ({}){advice}", logps.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, Origin};
    use crate::objective::Role;

    #[test]
    fn a_mismatched_completion_is_named_by_the_record_of_its_prompt() {
        let example = |line| Example {
            prompt: vec![1],
            completions: vec![vec![2]],
            kind: Kind::Judged { desirable: true },
            origin: Origin::new("t", line),
        };
        let scored = |group, role, logp| Scored {
            group,
            role,
            label: 1.0,
            margin: 0.0,
            logp,
            ref_logp: Some(-2.0),
            tokens: 1,
        };
        let (good, bad) = (-1.0, f64::NEG_INFINITY);
        let all = |last| {
            let own = [0, 1].map(|group| scored(group, Role::Desirable, good));
            let others = [scored(2, Role::Mismatched, good), scored(3, Role::Mismatched, last)];
            [own, others].concat()
        };
        let examples = [example(7), example(8)];
        check_finite(&examples, &all(good), "").unwrap();
        let error = check_finite(&examples, &all(bad), "; do this").unwrap_err().to_string();
        assert_eq!(error, "t:8: has log-probs that are not finite (completion -inf, reference -2); do this");
    }
}
