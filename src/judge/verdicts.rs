//! Verdicts on pairs, and how much the judge prefers a place.

use serde::{Deserialize, Serialize};

/// The verdict on a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// How far the first answer is preferred, in [0, 1], as the mean of both orders.
    pub first: f64,
    /// The same for each order in which the pair was shown.
    pub orders: Vec<f64>,
}

/// What a judge prefers whatever the answers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Pairs that were judged in both orders.
    pub pairs: usize,
    /// How often the answer that is shown first wins; ties count half. Without a bias this is 0.5.
    pub first_shown_wins: f64,
    /// Share of pairs with the same verdict in both orders.
    pub consistent: f64,
    /// Share of pairs in which the place that is shown first wins in both orders.
    pub always_first: f64,
    /// Share of pairs in which the place that is shown second wins in both orders.
    pub always_second: f64,
}

/// The verdicts on all comparisons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// In the order of the comparisons; `None` where no answer of the judge could be read.
    pub verdicts: Vec<Option<Verdict>>,
    /// What the judge prefers whatever the answers are.
    pub position: Position,
    /// Comparisons without a verdict.
    pub unreadable: usize,
    /// Verdicts that an earlier run left in the transcript.
    pub from_transcript: usize,
    /// Requests in the transcript.
    pub requests: u64,
    /// What they cost.
    pub cost: f64,
}

impl Judged {
    /// Puts the verdicts of the orders together. Each says how far the answer that was shown first is preferred; in the second
    /// order that is the second answer.
    pub(super) fn of(shown: Vec<Vec<Option<f64>>>, from_transcript: usize, requests: u64, cost: f64) -> Self {
        let verdict = |orders: &Vec<Option<f64>>| -> Option<Verdict> {
            let turned =
                orders.iter().enumerate().map(|(i, shown)| shown.map(|p| if i == 0 { p } else { 1.0 - p }));
            let orders = turned.collect::<Option<Vec<f64>>>()?;
            Some(Verdict { first: orders.iter().sum::<f64>() / orders.len() as f64, orders })
        };
        let verdicts: Vec<Option<Verdict>> = shown.iter().map(verdict).collect();
        let unreadable = verdicts.iter().filter(|verdict| verdict.is_none()).count();
        let position = Position::of(&verdicts);
        Self { verdicts, position, unreadable, from_transcript, requests, cost }
    }
}

impl Position {
    fn of(verdicts: &[Option<Verdict>]) -> Self {
        let both: Vec<[f64; 2]> =
            verdicts.iter().flatten().filter_map(|verdict| verdict.orders[..].try_into().ok()).collect();
        if both.is_empty() {
            return Self::default();
        }
        let share = |counts: fn(&[f64; 2]) -> f64| both.iter().map(counts).sum::<f64>() / both.len() as f64;
        Self {
            pairs: both.len(),
            // In the second order the second answer is shown first.
            first_shown_wins: share(|[one, other]| (one + 1.0 - other) / 2.0),
            consistent: share(|[one, other]| f64::from(u8::from(one == other))),
            always_first: share(|orders| f64::from(u8::from(*orders == [1.0, 0.0]))),
            always_second: share(|orders| f64::from(u8::from(*orders == [0.0, 1.0]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_averaged_and_a_preferred_place_is_seen() {
        // Shown first wins twice: no verdict on the answers, and a preferred place.
        let judged = Judged::of(
            vec![
                vec![Some(1.0), Some(1.0)],
                vec![Some(1.0), Some(0.0)],
                vec![Some(0.5), Some(1.0)],
                vec![None, Some(1.0)],
            ],
            0,
            8,
            0.0,
        );
        let first: Vec<_> = judged.verdicts.iter().map(|v| v.as_ref().map(|v| v.first)).collect();
        assert_eq!(first, [Some(0.5), Some(1.0), Some(0.25), None]);
        assert_eq!(judged.unreadable, 1);
        let position = judged.position;
        assert_eq!(position.pairs, 3);
        // Shown first: 1, 1; 1, 0; ½, 1, so 4.5 of 6.
        assert!((position.first_shown_wins - 0.75).abs() < 1e-12);
        assert!(
            (position.consistent - 1.0 / 3.0).abs() < 1e-12
                && (position.always_first - 1.0 / 3.0).abs() < 1e-12
        );
        assert_eq!(position.always_second, 0.0);
    }

    #[test]
    fn one_order_says_nothing_about_places() {
        let judged = Judged::of(vec![vec![Some(1.0)], vec![Some(0.0)]], 2, 2, 0.0);
        assert_eq!(judged.position, Position::default());
        assert_eq!(judged.verdicts[1].as_ref().unwrap().first, 0.0);
    }
}
