//! Element-wise combinations (`peft/utils/merge_utils.py`).

/// How TIES chooses an element's sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign that most adapters have.
    Frequency,
}

/// Which elements of a tensor are kept.
pub(super) enum Pruning {
    /// All.
    None,
    /// The largest ones, this share of them.
    Magnitude(f64),
    /// Those in the mask, divided by the density, so that the expectation stays the same.
    Random(f64, Box<dyn Fn(usize) -> bool>),
}

/// The tensor with the pruned elements set to 0.
pub(super) fn prune(mut tensor: Vec<f32>, pruning: &Pruning) -> Vec<f32> {
    match pruning {
        Pruning::None => {}
        Pruning::Magnitude(density) => {
            // `torch.topk` of int(density·n). Of equal elements the first is kept here; topk does not define which.
            let keep = (density * tensor.len() as f64) as usize;
            let mut order: Vec<usize> = (0..tensor.len()).collect();
            if keep < order.len() {
                order.select_nth_unstable_by(keep, |i, j| {
                    tensor[*j].abs().total_cmp(&tensor[*i].abs()).then(i.cmp(j))
                });
                order[keep..].iter().for_each(|index| tensor[*index] = 0.0);
            }
        }
        Pruning::Random(density, keeps) => {
            for (index, x) in tensor.iter_mut().enumerate() {
                *x = if keeps(index) { (f64::from(*x) / density) as f32 } else { 0.0 };
            }
        }
    }
    tensor
}

/// `Σ weight·tensor`: PEFT's `task_arithmetic`.
pub(super) fn summed(tensors: &[Vec<f32>], weights: &[f64]) -> Vec<f32> {
    let each =
        |index: usize| tensors.iter().zip(weights).map(move |(t, w)| f64::from(t[index]) * w).sum::<f64>();
    (0..tensors.first().map_or(0, Vec::len)).map(|index| each(index) as f32).collect()
}

/// TIES: the sign of each element is chosen from the unweighted tensors, and the elements of that sign are averaged, weighted.
pub(super) fn elected(tensors: &[Vec<f32>], weights: &[f64], method: MajoritySign) -> Vec<f32> {
    let sign = |x: f32| if x == 0.0 { 0.0 } else { f64::from(x.signum()) };
    let element = |index: usize| {
        let column = || tensors.iter().map(|tensor| tensor[index]);
        let votes: f64 = match method {
            MajoritySign::Total => column().map(f64::from).sum(),
            MajoritySign::Frequency => column().map(sign).sum(),
        };
        let majority = if votes >= 0.0 { 1.0 } else { -1.0 };
        let agree = || column().zip(weights).filter(|(x, _)| sign(*x) == majority);
        let sum: f64 = agree().map(|(x, weight)| f64::from(x) * weight).sum();
        (sum / agree().count().max(1) as f64) as f32
    };
    (0..tensors.first().map_or(0, Vec::len)).map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_keeps_the_largest_or_the_named() {
        let tensor = vec![0.5, -3.0, 2.0, -0.1, 2.0];
        assert_eq!(prune(tensor.clone(), &Pruning::Magnitude(0.4)), [0.0, -3.0, 2.0, 0.0, 0.0]);
        assert_eq!(prune(tensor.clone(), &Pruning::Magnitude(0.1)), [0.0; 5], "int(0.1·5) is 0");
        assert_eq!(prune(tensor.clone(), &Pruning::Magnitude(1.0)), tensor);
        let even = Pruning::Random(0.5, Box::new(|index| index % 2 == 0));
        assert_eq!(prune(tensor, &even), [1.0, 0.0, 4.0, 0.0, 4.0]);
    }

    #[test]
    fn the_majority_wins_and_zero_has_no_vote() {
        let tensors = [vec![1.0, -1.0, 0.0, 2.0], vec![2.0, -3.0, 0.0, -1.0], vec![-9.0, 2.0, 4.0, -1.0]];
        let of = |method| elected(&tensors, &[1.0, 2.0, 4.0], method);
        // Sums −6, −2, 4, 0 (taken for positive): (−36)/1, (−1−6)/2, 16/1, 2/1.
        assert_eq!(of(MajoritySign::Total), [-36.0, -3.5, 16.0, 2.0]);
        // Votes +, −, +, −: (1+4)/2, (−1−6)/2, 16/1, (−2−4)/2.
        assert_eq!(of(MajoritySign::Frequency), [2.5, -3.5, 16.0, -3.0]);
    }
}
