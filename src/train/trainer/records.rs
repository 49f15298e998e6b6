//! Checks that an objective accepts a record.

use crate::data::{Dataset, Kind};
use crate::error::{Error, Result};
use crate::objective::{Needs, Records};

/// Rejects a record of a kind that the objective does not accept, and a label that it does not know, among those to train on and
/// those that are held out. If completions are drawn, prompts are trained on.
///
/// # Errors
/// [`crate::error::Error::Record`], which names the record.
pub fn check((train, eval): (&Dataset, &Dataset), needs: Needs, are_drawn: bool) -> Result<()> {
    let of_train = if are_drawn { Records::Prompts } else { needs.records };
    check_each(train, Needs { records: of_train, ..needs })?;
    check_each(eval, needs)
}

/// Rejects a record that is no pair, for figures about pairs.
///
/// # Errors
/// As [`check`].
pub fn check_pairs(examples: &Dataset) -> Result<()> {
    check_pairs_for(examples, ("measured", "give it pairs, or an adapter that was trained on such records"))
}

/// The same for what is done with pairs, in one word, and a remedy of its own.
///
/// # Errors
/// As [`check`].
pub fn check_pairs_for(examples: &Dataset, (done, remedy): (&str, &str)) -> Result<()> {
    let found = examples.entries().find(|entry| !matches!(entry.kind(), Kind::Pair { .. }));
    found.map_or(Ok(()), |entry| {
        Err(examples.origin(entry).error(format!(
            "this record is {}, and what is {done} are pairs: `chosen` and `rejected`; {remedy}",
            described(entry.kind()).0
        )))
    })
}

/// Rejects records whose prompts and completions do not fit the positions of the model, where the objective has prompts before
/// completions of other records.
///
/// # Errors
/// [`Error::Data`] with the lengths and the remedy.
pub fn check_positions((train, eval): (&Dataset, &Dataset), needs: Needs, most: usize) -> Result<()> {
    if !needs.mismatched {
        return Ok(());
    }
    let longest = train.longest_for(needs).max(eval.longest_for(needs));
    if longest <= most {
        return Ok(());
    }
    Err(Error::Data(format!(
        "objective.loss_type also scores completions behind the prompts of other records: the longest of both have {longest} \
         tokens together, more than the {most} positions of the model; set data.max_length to {most} or less"
    )))
}

fn check_each(examples: &Dataset, needs: Needs) -> Result<()> {
    let mut entries = examples.entries();
    let found = entries
        .find_map(|entry| Some((examples.origin(entry), problem(entry.kind(), entry.completions(), needs)?)));
    found.map_or(Ok(()), |(origin, problem)| Err(origin.error(problem)))
}

fn problem(kind: Kind, completions: usize, needs: Needs) -> Option<String> {
    let is_pair = matches!(kind, Kind::Pair { .. });
    let (fits, wanted) = match needs.records {
        Records::Pairs => (is_pair && completions == 2, "pairs: `chosen` and `rejected`"),
        Records::Triples => (
            is_pair && completions == 3,
            "triples: `chosen`, `rejected` and `reference`, a gold answer to imitate (none with tpo_alpha: 0)",
        ),
        Records::Ranked => {
            (matches!(kind, Kind::Ranked), "ranked lists: `completions` from the best to the worst")
        }
        Records::Judged => (
            matches!(kind, Kind::Judged { .. }),
            "judged completions: `completion`, and `label` true or false",
        ),
        Records::Prompts => (matches!(kind, Kind::Prompt), "prompts, which the policy completes itself"),
        Records::Texts => (
            matches!(kind, Kind::Text | Kind::Pair { .. }),
            "texts to imitate: `prompt` and `completion`, `messages`, `text`, or the `chosen` of pairs",
        ),
    };
    if !fits {
        let (found, losses) = described(kind);
        return Some(format!(
            "objective.loss_type takes {wanted}, and this record is {found}; take another loss (objective.loss_type: {losses}), \
             or other data"
        ));
    }
    let label = kind.label();
    if label != 1.0 && !needs.soft_labels {
        return Some(format!(
            "label is {label}, and objective.loss_type has no meaning for labels other than 1; remove the label or take \
             another loss, such as sigmoid"
        ));
    }
    None
}

/// What a record is, and the losses that take it.
fn described(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Pair { .. } => ("a pair", "sigmoid, or any other of pairs"),
        Kind::Ranked => ("a ranked list", "plackett_luce"),
        Kind::Judged { .. } => ("a judged completion", "kto or apo_zero_unpaired"),
        Kind::Text => ("a text to imitate", "sft"),
        Kind::Prompt => ("a prompt", "one that draws completions, such as grpo"),
        Kind::Mismatched => ("a completion of another prompt", "kto"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Origin, Truncation};

    fn example(kind: Kind) -> Dataset {
        let example = Example {
            prompt: vec![1],
            completions: vec![vec![2], vec![3]],
            kind,
            origin: Origin::new("t", 7),
        };
        vec![example].into()
    }

    #[test]
    fn a_prompt_and_the_completion_of_another_record_must_fit_the_model() {
        let judged = |prompt: usize, completion: usize| Example {
            prompt: vec![1; prompt],
            completions: vec![vec![2; completion]],
            kind: Kind::Judged { desirable: true },
            origin: Origin::new("t", 1),
        };
        let (set, none): (Dataset, Dataset) = (vec![judged(6, 1), judged(1, 6)].into(), Dataset::default());
        let mismatched = Needs { mismatched: true, ..Needs::PAIRS };
        check_positions((&set, &none), Needs::PAIRS, 7).unwrap();
        check_positions((&set, &none), mismatched, 12).unwrap();
        for both in [(&set, &none), (&none, &set)] {
            let error = check_positions(both, mismatched, 11).unwrap_err().to_string();
            assert!(error.contains("12 tokens") && error.contains("data.max_length to 11"), "{error}");
        }
        let limit = Truncation { max_length: Some(11), ..Truncation::default() };
        check_positions((&set.cut_to(limit), &none), mismatched, 11).unwrap();
    }

    #[test]
    fn other_kinds_and_soft_labels_are_refused_by_place() {
        check_each(&example(Kind::pair(0.5)), Needs::PAIRS).unwrap();
        let error = |kind, needs| check_each(&example(kind), needs).unwrap_err().to_string();
        assert!(error(Kind::Text, Needs::PAIRS).starts_with("t:7: objective.loss_type takes pairs"));
        let judged = error(Kind::Judged { desirable: true }, Needs::PAIRS);
        assert!(judged.contains("is a judged completion") && judged.contains("loss_type: kto"), "{judged}");
        check_pairs(&example(Kind::pair(0.2))).unwrap();
        let error_of_pairs = check_pairs(&example(Kind::Ranked)).unwrap_err().to_string();
        assert!(error_of_pairs.starts_with("t:7: this record is a ranked list"), "{error_of_pairs}");
        let hard = Needs { soft_labels: false, ..Needs::PAIRS };
        assert!(error(Kind::pair(0.5), hard).starts_with("t:7: label is 0.5"));
        let texts = Needs { records: Records::Texts, ..hard };
        check_each(&example(Kind::PAIR), texts).unwrap();
        let (prompts, pairs) = (example(Kind::Prompt), example(Kind::PAIR));
        check((&prompts, &pairs), Needs::PAIRS, true).unwrap();
        assert!(check((&prompts, &pairs), Needs::PAIRS, false).is_err());
        assert!(check((&pairs, &prompts), Needs::PAIRS, false).is_err());
        assert!(error(Kind::Ranked, texts).contains("texts to imitate"));
    }
}
