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

#[test]
fn a_trees_bits_do_not_depend_on_the_batch() {
    for (heads, _) in cases() {
        let (t, trees) = pack(&[(70, &[9, 51]), (30, &[60, 8])]);
        let inputs = [heads.n_head, heads.n_kv_head, heads.n_kv_head]
            .map(|n| noise(&[t, n * heads.head_dim], n as u64));
        let whole = forward(&inputs[0], &inputs[1], &inputs[2], &heads, Precision::F32, &trees).unwrap();
        let (alone, lone) = pack(&[(30, &[60, 8])]);
        let last = |x: &Tensor| {
            let columns = x.shape().1;
            Tensor::new(x.numbers()[(t - alone) * columns..].to_vec(), (alone, columns)).unwrap()
        };
        let cut = inputs.map(|x| last(&x));
        let part = forward(&cut[0], &cut[1], &cut[2], &heads, Precision::F32, &lone).unwrap();
        let bits = |x: &Tensor| x.numbers().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&part.output), bits(&last(&whole.output)), "{heads:?}");
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
