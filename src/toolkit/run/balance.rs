//! How many desirable and undesirable answers a loss of judged answers gets, and whether their weights make up for it.

use crate::data::{Dataset, Kind};
use crate::objective::{ApoZeroUnpaired, Kto, Loss, Objective};

/// The share of desirable to undesirable answers, times their weights, that is recommended (Ethayarajh et al. 2024, arXiv
/// 2402.01306, section 4.3; TRL's `KTOTrainer` warns outside of it as well).
const BALANCED: std::ops::RangeInclusive<f64> = 1.0..=4.0 / 3.0;

/// A share so far from it that one of the two kinds hardly counts.
const LOPSIDED: f64 = 4.0;

/// Returns a warning if there are answers of one kind only, or if their weighted numbers are far from balanced.
pub(super) fn note(examples: &Dataset, objective: &Objective) -> Option<String> {
    let [desirable, undesirable] = objective.losses().iter().find_map(|(loss, _)| weights(loss))?;
    let count = |wanted: bool| {
        examples.entries().filter(|entry| entry.kind() == Kind::Judged { desirable: wanted }).count()
    };
    let (good, bad) = (count(true), count(false));
    if good + bad == 0 {
        return None;
    }
    if good == 0 || bad == 0 {
        let kind = if good == 0 { "undesirable" } else { "desirable" };
        return Some(format!(
            "warning: every answer is {kind}: the loss compares nothing, and its rewards move all one way; add answers of the \
             other kind, or imitate good answers with objective.loss_type: sft"
        ));
    }
    let share = desirable * good as f64 / (undesirable * bad as f64);
    if ((BALANCED.start() / LOPSIDED)..=(BALANCED.end() * LOPSIDED)).contains(&share) {
        return None;
    }
    let (low, high) = (BALANCED.start() / share * desirable, BALANCED.end() / share * desirable);
    Some(format!(
        "warning: {good} answers are desirable and {bad} undesirable; set objective.desirable_weight between {low:.3} and \
         {high:.3}, or objective.undesirable_weight between {:.3} and {:.3}, so that both kinds count",
        share / BALANCED.end() * undesirable,
        share / BALANCED.start() * undesirable,
    ))
}

/// The weights of both kinds, if the loss has them.
fn weights(loss: &Loss) -> Option<[f64; 2]> {
    match loss {
        Loss::Kto(Kto { desirable_weight, undesirable_weight, .. })
        | Loss::ApoZeroUnpaired(ApoZeroUnpaired { desirable_weight, undesirable_weight, .. }) => {
            Some([*desirable_weight, *undesirable_weight])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Origin};

    fn said(good: usize, bad: usize, loss: impl Into<Loss>) -> Option<String> {
        let example = |desirable| Example {
            prompt: vec![1],
            completions: vec![vec![2]],
            kind: Kind::Judged { desirable },
            origin: Origin::new("t", 1),
        };
        let examples: Vec<Example> = (0..good + bad).map(|i| example(i < good)).collect();
        note(&examples.into(), &Objective::new(loss))
    }

    #[test]
    fn one_kind_alone_and_unbalanced_weights_are_told_of() {
        assert!(said(9, 0, Kto::default()).unwrap().contains("every answer is desirable"));
        assert!(said(0, 9, ApoZeroUnpaired::default()).unwrap().contains("every answer is undesirable"));
        assert_eq!(said(9, 9, Kto::default()), None);
        let text = said(40, 4, Kto::default()).unwrap();
        assert!(text.contains("desirable_weight between 0.100 and 0.133"), "{text}");
        assert!(text.contains("undesirable_weight between 7.500 and 10.000"), "{text}");
        assert_eq!(said(40, 4, Kto { desirable_weight: 0.1, ..Kto::default() }), None);
        assert_eq!(said(40, 4, crate::objective::Sigmoid::default()), None);
    }
}
