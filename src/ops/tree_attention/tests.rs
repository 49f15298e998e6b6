use super::plain::reference;
use super::*;
use crate::ops::gemm::Precision;
use crate::ops::oracle;
use crate::ops::testing::{assert_finite_differences, assert_same, noise};

fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: &Heads,
    precision: Precision,
    trees: &[TreeSpans],
) -> crate::error::Result<Saved> {
    super::forward(&Attended { q, k, v, heads, precision, trees })
}

/// Builds trees from the lengths of (prompt, completions), packed one after the other.
fn pack(trees: &[(usize, &[usize])]) -> (usize, Vec<TreeSpans>) {
    let mut at = 0;
    let trees = trees
        .iter()
        .map(|(prompt, completions)| {
            let start = at;
            let prompt = at..at + prompt;
            at = prompt.end;
            let mut spans = vec![Span { queries: prompt.clone(), prefix: start..start, own: prompt.clone() }];
            for length in *completions {
                let own = at..at + length;
                at = own.end;
                spans.push(Span { queries: own.clone(), prefix: prompt.clone(), own });
            }
            TreeSpans { rows: start..at, spans }
        })
        .collect();
    (at, trees)
}

/// Each tree lists the tokens of the prompt and of each completion.
type Shape = Vec<(usize, &'static [usize])>;

fn cases() -> Vec<(Heads, Shape)> {
    let plain = Heads { n_head: 4, n_kv_head: 2, head_dim: 10, scale: 0.3, softcap: None, window: None };
    let small: Shape = vec![(5, &[3, 7]), (0, &[4, 2]), (6, &[]), (1, &[0, 1])];
    vec![
        (plain, small.clone()),
        (plain, vec![(60, &[50, 101])]),
        (Heads { softcap: Some(1.5), scale: 2.0, ..plain }, small.clone()),
        (Heads { window: Some(4), ..plain }, small),
        (Heads { window: Some(37), n_kv_head: 4, ..plain }, vec![(60, &[50, 101]), (100, &[3, 55])]),
    ]
}

#[test]
fn forward_and_backward_match_the_plain_form() {
    for (heads, shape) in cases() {
        let (t, trees) = pack(&shape);
        let width = |n| n * heads.head_dim;
        let q = noise(&[t, width(heads.n_head)], 1);
        let (k, v) = (noise(&[t, width(heads.n_kv_head)], 2), noise(&[t, width(heads.n_kv_head)], 3));
        let d_output = noise(&[t, width(heads.n_head)], 4);
        let plain = |x: &[oracle::Plain]| reference(&x[0], &x[1], &x[2], &heads, &trees);
        let attended = |precision| Attended { q: &q, k: &k, v: &v, heads: &heads, precision, trees: &trees };
        let saved = forward(&q, &k, &v, &heads, Precision::F32, &trees).unwrap();
        let what = format!("{heads:?} {shape:?}");
        assert_same(&saved.output, &oracle::value(&[&q, &k, &v], plain), 3e-6, &what);
        let (dq, dk, dv) = backward(&d_output, &attended(Precision::F32), &saved).unwrap();
        let want = oracle::gradients(&[&q, &k, &v], &d_output, plain).unwrap();
        for (got, want, name) in [(&dq, &want[0], "dq"), (&dk, &want[1], "dk"), (&dv, &want[2], "dv")] {
            assert_same(got, want, 1e-5, &format!("{name} {what}"));
        }
        // bf16 products stay close: their operands are rounded to 2⁻⁹, their sums are not.
        let rough = forward(&q, &k, &v, &heads, Precision::Bf16, &trees).unwrap();
        assert_same(&rough.output, &saved.output, 2e-2, &format!("bf16 {what}"));
        let (rough_dq, rough_dk, rough_dv) = backward(&d_output, &attended(Precision::Bf16), &rough).unwrap();
        for (got, want, name) in [(&rough_dq, &dq, "dq"), (&rough_dk, &dk, "dk"), (&rough_dv, &dv, "dv")] {
            assert_same(got, want, 4e-2, &format!("bf16 {name} {what}"));
        }
        let run =
            |q: &Tensor, k: &Tensor, v: &Tensor| Ok(forward(q, k, v, &heads, Precision::F32, &trees)?.output);
        assert_finite_differences(&q, &d_output, &dq, |x| run(x, &k, &v));
        assert_finite_differences(&k, &d_output, &dk, |x| run(&q, x, &v));
        assert_finite_differences(&v, &d_output, &dv, |x| run(&q, &k, x));
    }
}

/// Heads and trees that fill tiles of 32 in different ways: whole ones, halves, remainders, windows, and prefixes that end
/// within a tile.
fn tiled_cases() -> Vec<(Heads, Shape)> {
    let heads = Heads { n_head: 6, n_kv_head: 2, head_dim: 64, scale: 0.125, softcap: None, window: None };
    vec![
        (heads, vec![(130, &[48, 20]), (64, &[32, 64, 16]), (1, &[2])]),
        (Heads { head_dim: 80, n_head: 2, ..heads }, vec![(250, &[47]), (0, &[33])]),
        (Heads { window: Some(40), ..heads }, vec![(100, &[70, 9])]),
        (Heads { window: Some(3), head_dim: 16, ..heads }, vec![(31, &[1, 65])]),
        (Heads { n_head: 14, head_dim: 32, ..heads }, vec![(200, &[31])]),
    ]
}

#[test]
fn tiles_agree_with_the_products_of_rounded_operands() {
    for (heads, shape) in cases().into_iter().chain(tiled_cases()) {
        let (t, trees) = pack(&shape);
        let width = |n| n * heads.head_dim;
        let q = noise(&[t, width(heads.n_head)], 1);
        let (k, v) = (noise(&[t, width(heads.n_kv_head)], 2), noise(&[t, width(heads.n_kv_head)], 3));
        let d_output = noise(&[t, width(heads.n_head)], 4);
        let attended = |precision| Attended { q: &q, k: &k, v: &v, heads: &heads, precision, trees: &trees };
        let what = format!("{heads:?} {shape:?}");
        let got = super::forward(&attended(Precision::Bf16)).unwrap();
        // With keys of its own for each tree, the pass uses general products.
        let seen = vec![Seen { k: k.numbers(), v: v.numbers() }; trees.len()];
        let want = forward_after(&attended(Precision::Bf16), &seen).unwrap();
        assert_same(&got.output, &want.output, 4e-3, &what);
        assert!(got.lse.iter().zip(&want.lse).all(|(a, b)| (a - b).abs() < 1e-4), "{what}");
        // The gradients of products that are not rounded.
        let exact = super::forward(&attended(Precision::F32)).unwrap();
        let found = backward(&d_output, &attended(Precision::Bf16), &got).unwrap();
        let plain = backward(&d_output, &attended(Precision::F32), &exact).unwrap();
        for (found, plain) in [(found.0, plain.0), (found.1, plain.1), (found.2, plain.2)] {
            assert_same(&found, &plain, 2e-2, &what);
        }
    }
}

#[test]
fn a_trees_bits_do_not_depend_on_the_batch_or_the_threads() {
    let pools: Vec<_> =
        [1, 3].iter().map(|&t| rayon::ThreadPoolBuilder::new().num_threads(t).build().unwrap()).collect();
    for ((heads, _), precision) in cases()
        .into_iter()
        .chain(tiled_cases())
        .flat_map(|case| [Precision::F32, Precision::Bf16].map(|precision| (case.clone(), precision)))
    {
        let (t, trees) = pack(&[(70, &[9, 51]), (130, &[60, 8])]);
        let inputs = [heads.n_head, heads.n_kv_head, heads.n_kv_head, heads.n_head]
            .map(|n| noise(&[t, n * heads.head_dim], n as u64));
        let all = |[q, k, v, d]: &[Tensor; 4], trees: &[TreeSpans]| {
            let attended = Attended { q, k, v, heads: &heads, precision, trees };
            let saved = super::forward(&attended).unwrap();
            let (dq, dk, dv) = backward(d, &attended, &saved).unwrap();
            [saved.output, dq, dk, dv]
        };
        let whole = pools[0].install(|| all(&inputs, &trees));
        let (alone, lone) = pack(&[(130, &[60, 8])]);
        let last = |x: &Tensor| {
            let columns = x.shape().1;
            Tensor::new(x.numbers()[(t - alone) * columns..].to_vec(), (alone, columns)).unwrap()
        };
        let cut = inputs.each_ref().map(last);
        let part = pools[1].install(|| all(&cut, &lone));
        let bits = |x: &Tensor| x.numbers().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (part, whole) in part.iter().zip(&whole) {
            assert_eq!(bits(part), bits(&last(whole)), "{heads:?} {precision:?}");
        }
    }
}

#[test]
fn a_cached_step_equals_the_whole_sequence() {
    for window in [None, Some(5)] {
        let heads = Heads { n_head: 2, n_kv_head: 1, head_dim: 8, scale: 0.4, softcap: None, window };
        let (q, k, v) = (noise(&[12, 16], 1), noise(&[12, 8], 2), noise(&[12, 8], 3));
        let (_, trees) = pack(&[(12, &[])]);
        let whole = forward(&q, &k, &v, &heads, Precision::F32, &trees).unwrap().output;
        for (past, new) in [(0, 3), (3, 1), (4, 8)] {
            let keys = past + new;
            let span = Span { queries: 0..new, prefix: 0..past, own: past..keys };
            let step = [TreeSpans { rows: 0..new, spans: vec![span] }];
            let part = |x: &Tensor, from: usize, n: usize| {
                let columns = x.shape().1;
                Tensor::new(x.numbers()[from * columns..(from + n) * columns].to_vec(), (n, columns)).unwrap()
            };
            let got = forward(
                &part(&q, past, new),
                &part(&k, 0, keys),
                &part(&v, 0, keys),
                &heads,
                Precision::F32,
                &step,
            )
            .unwrap();
            let want = &whole.numbers()[past * 16..keys * 16];
            assert!(
                got.output.numbers().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
                "{window:?} {past}"
            );
        }
    }
}
