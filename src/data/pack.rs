//! Packs a batch as prefix trees into one row of tokens: each prompt once, followed by its completions, without
//! padding.

use std::ops::Range;

use super::example::{Example, Kind, Origin};
use super::truncate::Truncation;
use crate::error::{Error, Result};
use crate::objective::{Needs, Role, Scored};

/// One prefix tree in a packed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The rows of the prompt.
    pub prompt: Range<usize>,
    /// The rows of each completion; empty if the completion is a single token, which is only a target.
    pub completions: Vec<Range<usize>>,
}

/// A batch: the tokens of all trees in one row `[T]`, without padding.
///
/// The last token of a completion is only a target and has no input row. The first token is predicted from the prompt's
/// last row, which siblings therefore share. After an empty prompt the first token is not scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackedBatch {
    /// The input tokens, `[T]`.
    pub tokens: Vec<u32>,
    /// The positions, `[T]`; a completion continues from the end of its prompt.
    pub positions: Vec<u32>,
    /// The trees, in the order of the examples.
    pub trees: Vec<Tree>,
    /// The rows whose hidden states predict the targets, `[S]`.
    pub scored_rows: Vec<u32>,
    /// The predicted tokens, `[S]`.
    pub scored_targets: Vec<u32>,
    /// For each completion (all trees in order): its range in `scored_rows` and `scored_targets`.
    pub scored: Vec<Range<usize>>,
    /// The kind of the record, per tree.
    pub kinds: Vec<Kind>,
    /// The origin, per tree.
    pub origins: Vec<Origin>,
    /// [`Example::id`] per tree; a different id if the prompt is scored as well.
    pub ids: Vec<[u8; 32]>,
    /// Whether each tree's prompt is also scored, from its second token on. Its entry follows the tree's completions,
    /// like one more completion without rows.
    pub prompts_scored: bool,
    /// Whether the tokens of pairs beyond the shared length are scored apart. Their entries, one for each completion, follow
    /// the tree's completions, like two more completions without rows.
    pub tails_scored: bool,
    /// Whether a completion is scored by the reward at its last token, which then has a row, and not by its log-prob. Its
    /// entry has that row, and a target without meaning.
    pub rewarded: bool,
    /// The prompts followed by completions of other records, used to estimate a divergence.
    pub mismatched: Option<Box<PackedBatch>>,
}

impl PackedBatch {
    /// Packs `examples` in the given order.
    pub fn new(examples: &[&Example]) -> Self {
        let mut batch = Self::default();
        for example in examples {
            let prompt = batch.push_rows(&example.prompt, 0);
            let completions =
                example.completions.iter().map(|tokens| batch.push_completion(&prompt, tokens)).collect();
            batch.trees.push(Tree { prompt, completions });
            batch.kinds.push(example.kind);
            batch.origins.push(example.origin.clone());
            batch.ids.push(example.id());
        }
        batch
    }

    /// Packs `examples` as an objective needs them: with scored prompts, or with additional mismatched completions, which
    /// are cut to `limit` as the records are.
    pub fn for_objective(examples: &[&Example], needs: Needs, limit: Truncation) -> Self {
        let mut batch = match (needs.prompt, needs.tails) {
            _ if needs.rewards => Self::rewarded(examples),
            (true, _) => Self::with_prompts(examples),
            (false, true) => Self::with_tails(examples),
            (false, false) => Self::new(examples),
        };
        if needs.mismatched {
            let mismatched = mismatched(examples, limit);
            batch.mismatched = Some(Box::new(Self::new(&mismatched.iter().collect::<Vec<_>>())));
        }
        batch
    }

    /// Packs `examples` for a reward model: all tokens have rows, and the last one of each completion is scored; of an empty
    /// completion, that of its prompt.
    pub fn rewarded(examples: &[&Example]) -> Self {
        let mut batch = Self { rewarded: true, ..Self::default() };
        for example in examples {
            let prompt = batch.push_rows(&example.prompt, 0);
            let mut completions = Vec::with_capacity(example.completions.len());
            for tokens in &example.completions {
                let rows = batch.push_rows(tokens, prompt.len());
                let last = if rows.is_empty() { prompt.end } else { rows.end }.saturating_sub(1);
                batch.scored.push(batch.scored_rows.len()..batch.scored_rows.len() + 1);
                batch.scored_rows.push(last as u32);
                batch.scored_targets.push(0);
                completions.push(rows);
            }
            batch.trees.push(Tree { prompt, completions });
            batch.kinds.push(example.kind);
            batch.origins.push(example.origin.clone());
            batch.ids.push(example.id());
        }
        batch
    }

    /// Returns the number of tokens of a completion that have no row: its last one, unless a reward is read there.
    pub fn unread(&self) -> usize {
        usize::from(!self.rewarded)
    }

    fn with_prompts(examples: &[&Example]) -> Self {
        let mut batch = Self { prompts_scored: true, ..Self::default() };
        for example in examples {
            batch.append(&Self::new(&[example]));
            let end = batch.tokens.len()..batch.tokens.len();
            let Some(tree) = batch.trees.last_mut() else { continue };
            tree.completions.push(end);
            let start = batch.scored_rows.len();
            for (row, target) in tree.prompt.clone().zip(example.prompt.iter().skip(1)) {
                batch.scored_rows.push(row as u32);
                batch.scored_targets.push(*target);
            }
            batch.scored.push(start..batch.scored_rows.len());
            batch.rename_last("dpo-lora prompt scored v1");
        }
        batch
    }

    /// Packs pairs with their tails apart; other records as they are.
    fn with_tails(examples: &[&Example]) -> Self {
        let mut batch = Self { tails_scored: true, ..Self::default() };
        for example in examples {
            let mut alone = Self::new(&[example]);
            if let (Kind::Pair { .. }, [chosen, rejected]) = (example.kind, &alone.scored[..]) {
                let shared = chosen.len().min(rejected.len());
                let split = |range: &Range<usize>| {
                    [range.start..range.start + shared, range.start + shared..range.end]
                };
                let ([a, a_tail], [b, b_tail]) = (split(chosen), split(rejected));
                let (rows, targets) = (alone.scored_rows.clone(), alone.scored_targets.clone());
                let (mut at, all) = (0, [a, b, a_tail, b_tail]);
                alone.scored_rows = all.iter().flat_map(|part| &rows[part.clone()]).copied().collect();
                alone.scored_targets = all.iter().flat_map(|part| &targets[part.clone()]).copied().collect();
                alone.scored = Vec::new();
                for part in &all {
                    alone.scored.push(at..at + part.len());
                    at += part.len();
                }
                let end = alone.tokens.len()..alone.tokens.len();
                alone.trees[0].completions.extend([end.clone(), end]);
                alone.rename_last("dpo-lora tails scored v1");
            }
            batch.append(&alone);
        }
        batch
    }

    /// Puts another batch behind this one.
    fn append(&mut self, other: &Self) {
        let (first, scored) = (self.tokens.len(), self.scored_targets.len());
        let moved = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
        self.tokens.extend(&other.tokens);
        self.positions.extend(&other.positions);
        self.scored_rows.extend(other.scored_rows.iter().map(|row| row + first as u32));
        self.scored_targets.extend(&other.scored_targets);
        self.scored.extend(other.scored.iter().map(|range| moved(range, scored)));
        self.trees.extend(other.trees.iter().map(|tree| Tree {
            prompt: moved(&tree.prompt, first),
            completions: tree.completions.iter().map(|rows| moved(rows, first)).collect(),
        }));
        self.kinds.extend(&other.kinds);
        self.origins.extend(other.origins.iter().cloned());
        self.ids.extend(&other.ids);
    }

    /// Gives the last tree another id, because it has other entries.
    fn rename_last(&mut self, context: &str) {
        if let Some(id) = self.ids.last_mut() {
            *id = blake3::derive_key(context, id.as_slice());
        }
    }

    /// Whether an entry of a tree is that of a tail, and of which completion.
    fn tail(&self, group: usize, index: usize) -> Option<usize> {
        let is_pair = matches!(self.kinds.get(group), Some(Kind::Pair { .. }));
        (self.tails_scored && is_pair).then(|| index.checked_sub(2)).flatten()
    }

    /// Returns the completions in the form an objective takes. `logps` and, if the objective needs it, `reference` are
    /// the log-probs under the policy and the reference, each `[completions]` in batch order.
    ///
    /// # Errors
    /// Fails if the number of log-probs differs from the number of completions.
    pub fn scored_completions(&self, logps: &[f64], reference: Option<&[f64]>) -> Result<Vec<Scored>> {
        let all = self.scored.len();
        if logps.len() != all || reference.is_some_and(|reference| reference.len() != all) {
            return Err(Error::Train(format!("{} log-probs for {all} completions", logps.len())));
        }
        let places = self
            .trees
            .iter()
            .enumerate()
            .flat_map(|(group, tree)| (0..tree.completions.len()).map(move |index| (group, index)));
        let is_prompt = |group: usize, index: usize| {
            self.prompts_scored && index + 1 == self.trees[group].completions.len()
        };
        let scored = places.enumerate().map(|(at, (group, index))| Scored {
            group,
            role: match self.tail(group, index) {
                Some(of) => Role::Tail(of),
                None if is_prompt(group, index) => Role::Prompt,
                None => self.kinds[group].role(index),
            },
            label: f64::from(self.kinds[group].label()),
            margin: f64::from(self.kinds[group].margin()),
            logp: logps[at],
            ref_logp: reference.map(|reference| reference[at]),
            tokens: self.scored[at].len(),
        });
        Ok(scored.collect())
    }

    /// Returns the number of tokens that a layout without padding and without sharing would compute: prompt +
    /// completion for every completion. Compare with [`PackedBatch::tokens`] to see how much sharing saves.
    pub fn unpacked_tokens(&self) -> usize {
        let tree = |tree: &Tree| tree.completions.iter().map(|c| tree.prompt.len() + c.len()).sum::<usize>();
        self.trees.iter().map(tree).sum()
    }

    /// Returns the same batch with a separate copy of the prompt for each completion of the trees for which `divide`
    /// returns true. Completions keep their order.
    pub fn divided(&self, divide: impl Fn(&Tree) -> bool) -> Self {
        let mut batch = Self {
            kinds: self.kinds.clone(),
            origins: self.origins.clone(),
            ids: self.ids.clone(),
            prompts_scored: self.prompts_scored,
            tails_scored: self.tails_scored,
            rewarded: self.rewarded,
            mismatched: self.mismatched.clone(),
            ..Self::default()
        };
        let mut scored = self.scored.iter();
        for (group, tree) in self.trees.iter().enumerate() {
            let prompt_tokens = &self.tokens[tree.prompt.clone()];
            let alone = tree.completions.len() > 1 && divide(tree);
            let mut prompt = batch.push_rows(prompt_tokens, 0);
            let mut completions = Vec::new();
            // Where the rows of completions are now; those of a tail are its completion's.
            let mut places: Vec<(Range<usize>, usize)> = Vec::new();
            for (i, old) in tree.completions.iter().enumerate() {
                if alone && i > 0 && self.tail(group, i).is_none() {
                    batch.trees.push(Tree { prompt, completions: std::mem::take(&mut completions) });
                    prompt = batch.push_rows(prompt_tokens, 0);
                }
                let rows = batch.push_rows(&self.tokens[old.clone()], prompt.len());
                places.push((old.clone(), rows.start));
                let start = batch.scored_rows.len();
                for at in scored.next().cloned().unwrap_or_default() {
                    let row = self.scored_rows[at] as usize;
                    let moved = match places.iter().find(|(old, _)| old.contains(&row)) {
                        Some((old, new)) => new + (row - old.start),
                        None => prompt.start + (row - tree.prompt.start),
                    };
                    batch.scored_rows.push(moved as u32);
                    batch.scored_targets.push(self.scored_targets[at]);
                }
                batch.scored.push(start..batch.scored_rows.len());
                completions.push(rows);
            }
            batch.trees.push(Tree { prompt, completions });
        }
        batch
    }

    fn push_completion(&mut self, prompt: &Range<usize>, tokens: &[u32]) -> Range<usize> {
        let inputs = tokens.split_last().map_or(&[][..], |(_, inputs)| inputs);
        let rows = self.push_rows(inputs, prompt.len());
        let start = self.scored_rows.len();
        let predictors = prompt.clone().next_back().into_iter().chain(rows.clone());
        let targets = if prompt.is_empty() { tokens.get(1..).unwrap_or_default() } else { tokens };
        for (row, target) in predictors.zip(targets) {
            self.scored_rows.push(row as u32);
            self.scored_targets.push(*target);
        }
        self.scored.push(start..self.scored_rows.len());
        rows
    }

    fn push_rows(&mut self, tokens: &[u32], first_position: usize) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((first_position..first_position + tokens.len()).map(|p| p as u32));
        start..self.tokens.len()
    }
}

/// Returns each prompt with the completion of the previous record, and the first prompt with the last completion: TRL's
/// pairing for KTO. Both together are cut to the limit as a record is. They have as many tokens in all as the examples, or
/// fewer, but one of them may be longer than any example.
fn mismatched(examples: &[&Example], limit: Truncation) -> Vec<Example> {
    // The prompts are shortened already.
    let limit = Truncation { max_prompt_length: None, ..limit };
    let before = examples.iter().cycle().skip(examples.len().saturating_sub(1));
    let pair = |(example, before): (&&Example, &&Example)| {
        let mut both = Example {
            prompt: example.prompt.clone(),
            completions: vec![before.completions.first().cloned().unwrap_or_default()],
            kind: Kind::Mismatched,
            origin: example.origin.clone(),
        };
        // Nothing is dropped: a completion without a token that is scored adds nothing to the estimate.
        limit.apply(&mut both, None);
        both
    };
    examples.iter().zip(before).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::truncate::TruncationMode;
    use super::*;

    fn example(prompt: &[u32], completions: &[&[u32]]) -> Example {
        Example {
            prompt: prompt.to_vec(),
            completions: completions.iter().map(|c| c.to_vec()).collect(),
            kind: Kind::pair(0.75),
            origin: Origin::new("t", 4),
        }
    }

    #[test]
    fn a_divided_tree_scores_the_same_completions_behind_prompts_of_their_own() {
        let examples = [
            example(&[1, 2, 3], &[&[4, 5, 6], &[7, 8]]),
            example(&[1], &[&[4], &[7, 8]]),
            example(&[], &[&[4, 5], &[7]]),
        ];
        let batch = PackedBatch::new(&examples.iter().collect::<Vec<_>>());
        assert_eq!(batch.divided(|_| false), batch);
        let divided = batch.divided(|tree| tree.prompt.len() == 3);
        assert_eq!(divided.tokens[..9], [1, 2, 3, 4, 5, 1, 2, 3, 7]);
        assert_eq!(divided.positions[..9], [0, 1, 2, 3, 4, 0, 1, 2, 3]);
        let completions = |rows| std::iter::once(rows).collect();
        assert_eq!(divided.trees[0], Tree { prompt: 0..3, completions: completions(3..5) });
        assert_eq!(divided.trees[1], Tree { prompt: 5..8, completions: completions(8..9) });
        assert_eq!(divided.scored_rows[..5], [2, 3, 4, 7, 8]);
        assert_eq!((divided.scored_targets, divided.scored), (batch.scored_targets, batch.scored));
    }

    #[test]
    fn completions_are_scored_in_order_with_their_roles() {
        let single = Example { kind: Kind::Judged { desirable: false }, ..example(&[1], &[&[4]]) };
        let batch = PackedBatch::new(&[&example(&[1, 2, 3], &[&[4, 5, 6], &[7, 8]]), &single]);
        let scored = batch.scored_completions(&[-1.0, -2.0, -3.0], Some(&[-4.0, -5.0, -6.0])).unwrap();
        let found: Vec<_> = scored.iter().map(|s| (s.group, s.role, s.label, s.tokens)).collect();
        let expected =
            [(0, Role::Chosen, 0.75, 3), (0, Role::Rejected, 0.75, 2), (1, Role::Undesirable, 1.0, 1)];
        assert_eq!(found, expected);
        assert_eq!((scored[2].logp, scored[2].ref_logp), (-3.0, Some(-6.0)));
        assert!(batch.scored_completions(&[-1.0, -2.0], None).is_err());
        assert!(batch.scored_completions(&[-1.0; 3], Some(&[-1.0; 4])).is_err());
    }

    #[test]
    fn a_scored_prompt_stands_behind_its_completions() {
        let pair = example(&[1, 2, 3], &[&[4, 5], &[7, 8]]);
        let needs = Needs { prompt: true, ..Needs::PAIRS };
        let batch =
            PackedBatch::for_objective(&[&pair, &example(&[9], &[&[4], &[5]])], needs, Truncation::default());
        let plain = PackedBatch::new(&[&pair, &example(&[9], &[&[4], &[5]])]);
        assert_eq!((&batch.tokens, &batch.positions), (&plain.tokens, &plain.positions));
        // Rows: prompt 0..3, inputs 4 and 7, prompt 5..6. The prompt's tokens 2 and 3 are predicted from rows 0 and 1.
        assert_eq!(batch.trees[0], Tree { prompt: 0..3, completions: vec![3..4, 4..5, 5..5] });
        assert_eq!(batch.scored, [0..2, 2..4, 4..6, 6..7, 7..8, 8..8]);
        assert_eq!(batch.scored_rows[4..6], [0, 1]);
        assert_eq!(batch.scored_targets[4..6], [2, 3]);
        let scored = batch.scored_completions(&[-1.0; 6], None).unwrap();
        let roles: Vec<Role> = scored.iter().map(|completion| completion.role).collect();
        assert_eq!(roles[..3], [Role::Chosen, Role::Rejected, Role::Prompt]);
        assert_eq!((scored[2].tokens, scored[5].tokens), (2, 0));
        assert_ne!(batch.ids[0], pair.id());
        assert_eq!(batch.divided(|_| true).scored_targets, batch.scored_targets);
    }

    #[test]
    fn tails_are_scored_behind_their_completions() {
        let pair = example(&[1, 2, 3], &[&[4, 5, 6], &[7]]);
        let needs = Needs { tails: true, ..Needs::PAIRS };
        let batch = PackedBatch::for_objective(&[&pair, &pair], needs, Truncation::default());
        let plain = PackedBatch::new(&[&pair, &pair]);
        assert_eq!((&batch.tokens, &batch.positions), (&plain.tokens, &plain.positions));
        // Rows: prompt 0..3, chosen inputs 3..5. One token is shared, and the chosen completion has two more.
        assert_eq!(batch.scored[..4], [0..1, 1..2, 2..4, 4..4]);
        assert_eq!(batch.scored_targets[..4], [4, 7, 5, 6]);
        assert_eq!(batch.scored_rows[..4], [2, 2, 3, 4]);
        let scored = batch.scored_completions(&[-1.0; 8], None).unwrap();
        let roles: Vec<_> = scored[..4].iter().map(|entry| (entry.role, entry.tokens)).collect();
        assert_eq!(roles, [(Role::Chosen, 1), (Role::Rejected, 1), (Role::Tail(0), 2), (Role::Tail(1), 0)]);
        assert_ne!(batch.ids[0], pair.id());
        let divided = batch.divided(|_| true);
        assert_eq!(divided.scored_targets, batch.scored_targets);
        // Rows: prompt 0..3, chosen 3..5, prompt again 5..8. The tail is still behind the chosen completion.
        assert_eq!(divided.scored_rows[..4], [2, 7, 3, 4]);
        assert_eq!(batch.divided(|_| false), batch);
    }

    #[test]
    fn mismatched_completions_are_those_of_the_record_before() {
        let judged = |prompt: &[u32], completion: &[u32]| Example {
            kind: Kind::Judged { desirable: true },
            ..example(prompt, &[completion])
        };
        let examples = [judged(&[1], &[11, 12]), judged(&[2, 3], &[13]), judged(&[4], &[14, 15, 16])];
        let needs = Needs { mismatched: true, ..Needs::PAIRS };
        let packed = |limit| PackedBatch::for_objective(&examples.iter().collect::<Vec<_>>(), needs, limit);
        let cut_to = |max, mode| {
            let limit = Truncation { max_length: Some(max), mode, ..Truncation::default() };
            *packed(limit).mismatched.unwrap()
        };
        let estimate = cut_to(3, TruncationMode::KeepStart);
        // [1] with 14 15 of the last record (cut to three tokens), [2 3] with 11, [4] with 13.
        assert_eq!(estimate.tokens, [1, 14, 2, 3, 4]);
        assert_eq!(estimate.scored_targets, [14, 15, 11, 13]);
        let roles = estimate.scored_completions(&[-1.0; 3], None).unwrap();
        assert!(roles.iter().all(|completion| completion.role == Role::Mismatched));
        // A prompt loses its beginning instead.
        let estimate = cut_to(3, TruncationMode::KeepEnd);
        assert_eq!(estimate.tokens, [14, 15, 3, 11, 4]);
        assert_eq!(estimate.scored_targets, [15, 16, 11, 12, 13]);
        // Without a limit nothing is cut, whatever the lengths of the records; rows and targets are as many as the records'.
        let batch = packed(Truncation::default());
        let estimate = batch.mismatched.as_deref().unwrap();
        assert_eq!(estimate.tokens, [1, 14, 15, 2, 3, 11, 4]);
        assert_eq!(estimate.scored_targets, [14, 15, 16, 11, 12, 13]);
        assert_eq!(
            (estimate.tokens.len(), estimate.scored_rows.len()),
            (batch.tokens.len(), batch.scored_rows.len())
        );
    }

    #[test]
    fn siblings_share_the_prompt_and_its_last_row() {
        let batch = PackedBatch::new(&[&example(&[1, 2, 3], &[&[4, 5, 6], &[7, 8]])]);
        // Rows: prompt 0..3, chosen inputs 4 5 (6 is only a target), rejected input 7.
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 7]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 3]);
        assert_eq!(batch.trees, [Tree { prompt: 0..3, completions: vec![3..5, 5..6] }]);
        assert_eq!(batch.scored_rows, [2, 3, 4, 2, 5]);
        assert_eq!(batch.scored_targets, [4, 5, 6, 7, 8]);
        assert_eq!(batch.scored, [0..3, 3..5]);
        assert_eq!(batch.unpacked_tokens(), (3 + 2) + (3 + 1));
        assert_eq!((batch.kinds[0].label(), batch.origins[0].line), (0.75, 4));
    }

    #[test]
    fn trees_of_different_shapes_stand_behind_each_other() {
        let (one, two) = (example(&[1], &[&[2], &[3, 4]]), example(&[5, 6], &[&[7, 8], &[9]]));
        let batch = PackedBatch::new(&[&one, &two]);
        assert_eq!(batch.tokens, [1, 3, 5, 6, 7]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2]);
        // A one-token completion has no row of its own, yet is scored from the prompt's last row.
        assert_eq!(batch.trees[0], Tree { prompt: 0..1, completions: vec![1..1, 1..2] });
        assert_eq!(batch.trees[1], Tree { prompt: 2..4, completions: vec![4..5, 5..5] });
        assert_eq!(batch.scored_rows, [0, 0, 1, 3, 4, 3]);
        assert_eq!(batch.scored_targets, [2, 3, 4, 7, 8, 9]);
        assert_eq!(batch.scored, [0..1, 1..3, 3..5, 5..6]);
        assert_eq!(batch.ids, [one.id(), two.id()]);
    }

    #[test]
    fn nothing_predicts_the_first_token_behind_an_empty_prompt() {
        let pair = example(&[], &[&[2, 3, 4], &[5, 6]]);
        let batch = PackedBatch::new(&[&pair]);
        assert_eq!(batch.tokens, [2, 3, 5]);
        assert_eq!(batch.positions, [0, 1, 0]);
        assert_eq!(batch.scored_rows, [0, 1, 2]);
        assert_eq!(batch.scored_targets, [3, 4, 6]);
        assert_eq!(batch.scored, [0..2, 2..3]);
        assert_eq!(batch.scored[0].len(), pair.scored(0));
    }

    #[test]
    fn unpaired_ranked_and_empty_are_trees_too() {
        let batch = PackedBatch::new(&[&example(&[1], &[&[2, 3]]), &example(&[1], &[&[2], &[3], &[4, 5]])]);
        assert_eq!(batch.scored.len(), 4);
        assert_eq!(batch.tokens, [1, 2, 1, 4]);
        let degenerate = PackedBatch::new(&[&example(&[], &[&[], &[1]])]);
        assert_eq!((degenerate.tokens.len(), degenerate.scored), (0, vec![0..0, 0..0]));
        assert_eq!(PackedBatch::new(&[]), PackedBatch::default());
    }
}
