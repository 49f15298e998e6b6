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
    /// Pairs with a verdict: in both orders, or in the one that was drawn.
    pub pairs: usize,
    /// How often the answer that is shown first wins; ties count half. Without a bias this is 0.5, in one order only about
    /// that.
    pub first_shown_wins: f64,
    /// Share of pairs with the same verdict in both orders; `None` if there is one order.
    pub consistent: Option<f64>,
    /// Share of pairs in which the place that is shown first wins in both orders; `None` if there is one order.
    pub always_first: Option<f64>,
    /// Share of pairs in which the place that is shown second wins in both orders; `None` if there is one order.
    pub always_second: Option<f64>,
}

/// A verdict on a pair in the order in which it was shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    /// Whether the second answer of the comparison was shown first.
    pub turned: bool,
    /// How far the answer that was shown first is preferred; `None` if no answer could be read.
    pub verdict: Option<f64>,
}

impl Shown {
    /// How far the first answer of the comparison is preferred.
    fn of_first(self) -> Option<f64> {
        self.verdict.map(|shown| if self.turned { 1.0 - shown } else { shown })
    }
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
    /// Verdicts that an earlier run left in the transcript, one for each question, and none that this judge has told of before.
    pub from_transcript: usize,
    /// Requests in the transcript.
    pub requests: u64,
    /// What they cost.
    pub cost: f64,
}

impl Judged {
    /// Puts the verdicts of each pair together: those of the orders in which it was shown.
    pub(super) fn of(shown: &[Vec<Shown>], from_transcript: usize, requests: u64, cost: f64) -> Self {
        let verdict = |orders: &Vec<Shown>| -> Option<Verdict> {
            let orders = orders.iter().map(|shown| shown.of_first()).collect::<Option<Vec<f64>>>()?;
            Some(Verdict { first: orders.iter().sum::<f64>() / orders.len() as f64, orders })
        };
        let verdicts: Vec<Option<Verdict>> = shown.iter().map(verdict).collect();
        let unreadable = verdicts.iter().filter(|verdict| verdict.is_none()).count();
        let position = Position::of(shown);
        Self { verdicts, position, unreadable, from_transcript, requests, cost }
    }
}

impl Position {
    fn of(shown: &[Vec<Shown>]) -> Self {
        // How far the place that is shown first is preferred, in each order.
        let places =
            |orders: &Vec<Shown>| -> Option<Vec<f64>> { orders.iter().map(|shown| shown.verdict).collect() };
        let pairs: Vec<Vec<f64>> = shown.iter().filter_map(places).collect();
        if pairs.is_empty() {
            return Self::default();
        }
        let both: Vec<[f64; 2]> = pairs.iter().filter_map(|orders| orders[..].try_into().ok()).collect();
        let share = |holds: fn(&[f64; 2]) -> bool| {
            let count = both.iter().filter(|orders| holds(orders)).count();
            (!both.is_empty()).then(|| count as f64 / both.len() as f64)
        };
        let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self {
            pairs: pairs.len(),
            first_shown_wins: pairs.iter().map(mean).sum::<f64>() / pairs.len() as f64,
            // The answer that is shown first in one order is shown second in the other.
            consistent: share(|[one, other]| *one == 1.0 - other),
            always_first: share(|orders| *orders == [1.0, 1.0]),
            always_second: share(|orders| *orders == [0.0, 0.0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_averaged_and_a_preferred_place_is_seen() {
        // Shown first wins twice: no verdict on the answers, and a preferred place.
        let both =
            |one, other| vec![Shown { turned: false, verdict: one }, Shown { turned: true, verdict: other }];
        let shown = [
            both(Some(1.0), Some(1.0)),
            both(Some(1.0), Some(0.0)),
            both(Some(0.5), Some(1.0)),
            both(None, Some(1.0)),
        ];
        let judged = Judged::of(&shown, 0, 8, 0.0);
        let first: Vec<_> = judged.verdicts.iter().map(|v| v.as_ref().map(|v| v.first)).collect();
        assert_eq!(first, [Some(0.5), Some(1.0), Some(0.25), None]);
        assert_eq!(judged.unreadable, 1);
        let position = judged.position;
        assert_eq!(position.pairs, 3);
        // Shown first: 1, 1; 1, 0; ½, 1, so 4.5 of 6.
        assert!((position.first_shown_wins - 0.75).abs() < 1e-12);
        let (consistent, always_first) = (position.consistent.unwrap(), position.always_first.unwrap());
        assert!((consistent - 1.0 / 3.0).abs() < 1e-12 && (always_first - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(position.always_second, Some(0.0));
    }

    #[test]
    fn one_order_is_turned_back_and_says_which_place_wins() {
        let one = |turned, verdict| vec![Shown { turned, verdict }];
        let shown = [
            one(false, Some(1.0)),
            one(true, Some(1.0)),
            one(true, Some(0.0)),
            one(false, Some(1.0)),
            one(true, None),
        ];
        let judged = Judged::of(&shown, 2, 5, 0.0);
        let first: Vec<_> = judged.verdicts.iter().map(|v| v.as_ref().map(|v| v.first)).collect();
        assert_eq!(first, [Some(1.0), Some(0.0), Some(1.0), Some(1.0), None]);
        let expected = Position { pairs: 4, first_shown_wins: 0.75, ..Position::default() };
        assert_eq!((judged.position, judged.unreadable), (expected, 1));
        assert_eq!(Judged::of(&[], 0, 0, 0.0).position, Position::default());
    }
}
