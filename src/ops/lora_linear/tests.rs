use super::*;
use crate::ops::gradient::Gradient;
use crate::ops::oracle::{self, Plain};
use crate::ops::testing::{assert_finite_differences, assert_same, noise, noise_of};
use crate::weights::{BlockKind, DType, FrozenWeight};

fn linear(outputs: usize, inputs: usize, seed: u64, bias: bool) -> Linear {
    let weight = FrozenWeight::from_f32(noise_of(outputs * inputs, seed), &[outputs, inputs]).unwrap();
    Linear::new(weight, false, bias.then(|| noise_of(outputs, seed + 1)))
}

/// A low-rank path with its matrices as tensors.
#[derive(Clone, Copy)]
struct Path<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    scale: f32,
}

/// The plain form of one path, added to `y`.
fn reference(y: &Plain, x: &Plain, (a, b): (&Plain, &Plain), scale: f64) -> Result<Plain> {
    let z = x.matmul(&a.t()?)?;
    Ok((y + (z.matmul(&b.t()?)? * scale)?)?)
}

fn over(linear: &Linear, input: &Input, path: Path, masked: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let (a, b) = (path.a.numbers(), path.b.numbers());
    let low_rank = LowRank { a, b, rank: path.a.shape().0, scale: path.scale };
    let mut product = Forward::new(linear, input);
    let z = product.low_rank(low_rank, masked)?;
    Ok((product.finish()?, z))
}

fn apply(linear: &Linear, x: &Tensor, path: Path) -> Result<(Tensor, Tensor)> {
    over(linear, &Input::new(x.clone()), path, None)
}

/// What the backward pass needs of a path in addition to the path itself.
#[derive(Clone, Copy)]
struct Kept<'a> {
    x: &'a Tensor,
    z: &'a Tensor,
    mask: Option<&'a Tensor>,
}

/// A map, the gradient of its output, and its path.
type Branch<'a> = (&'a Linear, &'a Tensor, Path<'a>, Kept<'a>);

fn backward(branches: &[Branch], onto: Option<Gradient>) -> (Tensor, Vec<LowRankGradients>) {
    let matrices = branches.iter().map(|(_, _, path, _)| (path.a.numbers(), path.b.numbers()));
    let (mut maps, mut gradients) = (Vec::new(), Vec::new());
    for ((linear, dy, path, kept), (a, b)) in branches.iter().zip(matrices) {
        let path = LowRank { a, b, rank: path.a.shape().0, scale: path.scale };
        let mut back = Backward::new(linear, dy).unwrap();
        let dz = back.low_rank(path, kept.mask).unwrap();
        gradients.push(back.gradients(path, (kept.x, kept.z), &dz).unwrap());
        maps.push(back);
    }
    (input_gradient(maps, onto).unwrap().finish().unwrap(), gradients)
}

fn tensor(data: &[f32], like: &Tensor) -> Tensor {
    Tensor::new(data.to_vec(), like.shape()).unwrap()
}

#[test]
fn forward_and_every_gradient_match_the_plain_form() {
    let (x, dy) = (noise(&[11, 9], 1), noise(&[11, 20], 2));
    let (a, b) = (noise(&[3, 9], 3), noise(&[20, 3], 4));
    let linear = linear(20, 9, 5, true);
    let path = Path { a: &a, b: &b, scale: 1.7 };
    let plain = |v: &[Plain]| reference(&oracle::linear(&linear, &v[0])?, &v[0], (&v[1], &v[2]), 1.7);

    let (y, z) = apply(&linear, &x, path).unwrap();
    assert_same(&y, &oracle::value(&[&x, &a, &b], plain), 1e-6, "forward");
    let want = oracle::gradients(&[&x, &a, &b], &dy, plain).unwrap();
    let (dx, got) = backward(&[(&linear, &dy, path, Kept { x: &x, z: &z, mask: None })], None);
    let got = &got[0];
    let (da, db) = (tensor(&got.a, &a), tensor(&got.b, &b));
    for (got, want, what) in [(&dx, &want[0], "dx"), (&da, &want[1], "dA"), (&db, &want[2], "dB")] {
        assert_same(got, want, 2e-6, what);
    }
    let run = |x: &Tensor, a: &Tensor, b: &Tensor| Ok(apply(&linear, x, Path { a, b, scale: 1.7 })?.0);
    assert_finite_differences(&x, &dy, &dx, |x| run(x, &a, &b));
    assert_finite_differences(&a, &dy, &da, |a| run(&x, a, &b));
    assert_finite_differences(&b, &dy, &db, |b| run(&x, &a, b));
}

#[test]
fn branches_of_one_input_add_up() {
    let x = noise(&[11, 9], 1);
    let maps = [linear(20, 9, 5, false), linear(7, 9, 8, true)];
    let thin: Vec<(Tensor, Tensor)> =
        [20, 7].iter().map(|o| (noise(&[3, 9], 3 + *o as u64), noise(&[*o, 3], 4))).collect();
    let path = |i: usize| Path { a: &thin[i].0, b: &thin[i].1, scale: 0.6 };
    let dys = [noise(&[11, 20], 2), noise(&[11, 7], 6)];
    let input = Input::new(x.clone());
    let zs: Vec<Tensor> = (0..2).map(|i| over(&maps[i], &input, path(i), None).unwrap().1).collect();
    let branches: Vec<Branch> =
        (0..2).map(|i| (&maps[i], &dys[i], path(i), Kept { x: &x, z: &zs[i], mask: None })).collect();
    let start = noise(&[11, 9], 9);
    let (dx, _) = backward(&branches, Some(Gradient::of(&start)));
    let mut want = start;
    for i in 0..2 {
        let path = (oracle::candle(&thin[i].0), oracle::candle(&thin[i].1));
        let plain =
            |v: &[Plain]| reference(&oracle::linear(&maps[i], &v[0])?, &v[0], (&path.0, &path.1), 0.6);
        want = want.plus(&oracle::gradients(&[&x], &dys[i], plain).unwrap()[0]).unwrap();
    }
    assert_same(&dx, &want, 2e-6, "dx");
}

#[test]
fn a_bf16_map_rounds_its_input_and_keeps_the_small_steps_of_its_path() {
    let (x, dy) = (noise(&[13, 70], 1), noise(&[13, 40], 2));
    let (a, b) = (noise(&[4, 70], 3), noise(&[40, 4], 4));
    let exact = linear(40, 70, 5, false);
    let narrow = Linear::new(exact.weight().to_dtype(DType::Bf16), false, None);
    let wide = Linear::new(narrow.weight().to_dtype(DType::F32), false, None);
    let rounded = |t: &Tensor| t.map(|x| half::bf16::from_f32(x).to_f32());
    // A path so small that a bf16 sum would lose it, and one that bf16 alone could not hold.
    let fine = a.map(|x| x * 1e-3 + 1.0);
    let path = Path { a: &fine, b: &b, scale: 2.0 };
    let (y, z) = apply(&narrow, &x, path).unwrap();
    let near = if Packed::new(&Operand::by_row(Elements::F32(&[1.0]), 1, 1), Precision::Bf16).rounded() {
        rounded(&x)
    } else {
        x.clone()
    };
    let (want, want_z) = apply(&wide, &near, path).unwrap();
    assert_same(&z, &want_z, 3e-5, "z");
    assert_same(&y, &want, 3e-5, "y");
    let kept = Kept { x: &x, z: &z, mask: None };
    let dx = |linear, dy| backward(&[(linear, dy, path, kept)], None).0;
    let near = if near == x { dy.clone() } else { rounded(&dy) };
    assert_same(&dx(&narrow, &dy), &dx(&wide, &near), 3e-5, "dx");
}

#[test]
fn a_quantised_map_is_near_its_numbers_and_keeps_the_small_steps_of_its_path() {
    let (x, dy) = (noise(&[13, 64], 1), noise(&[13, 40], 2));
    let (a, b) = (noise(&[4, 64], 3), noise(&[40, 4], 4));
    // Blocks with an f16 scale of 2⁻⁶ and 32 arbitrary integers.
    let integers = |block: usize| (0..32).map(move |i| (block * 37 + i * i * 11) as u8);
    let bytes: Vec<u8> = (0..80).flat_map(|block| [0x00, 0x24].into_iter().chain(integers(block))).collect();
    let weight = FrozenWeight::from_blocks(bytes.into(), BlockKind::Q8_0, &[40, 64]).unwrap();
    let wide = Linear::new(weight.to_dtype(DType::F32), false, None);
    let map = Linear::new(weight, false, None);
    let fine = a.map(|x| x * 1e-3 + 1.0);
    let path = Path { a: &fine, b: &b, scale: 2.0 };
    let (y, z) = apply(&map, &x, path).unwrap();
    let (want, want_z) = apply(&wide, &x, path).unwrap();
    assert_same(&z, &want_z, 2e-6, "z");
    // Rounding has a relative error of 1.9e-4 by the norm; no element here is off by more than four times that.
    assert_same(&y, &want, 5e-4, "y");
    let run = |linear| {
        let (dx, mut gradients) = backward(&[(linear, &dy, path, Kept { x: &x, z: &z, mask: None })], None);
        (dx, gradients.remove(0))
    };
    let ((dx, got), (want_dx, want)) = (run(&map), run(&wide));
    assert_same(&dx, &want_dx, 5e-4, "dx");
    assert_same(&tensor(&got.a, &a), &tensor(&want.a, &a), 2e-6, "dA");
    assert_same(&tensor(&got.b, &b), &tensor(&want.b, &b), 2e-6, "dB");
}

#[test]
fn a_mask_acts_on_the_path_alone() {
    let (x, dy, mask) = (noise(&[5, 4], 1), noise(&[5, 6], 2), noise(&[5, 4], 7));
    let (a, b) = (noise(&[2, 4], 3), noise(&[6, 2], 4));
    let linear = linear(6, 4, 5, false);
    let path = Path { a: &a, b: &b, scale: 0.5 };
    let masked = x.times(&mask).unwrap();
    let (y, z) = over(&linear, &Input::new(x.clone()), path, Some(&masked)).unwrap();
    let constants = [&a, &b, &mask].map(oracle::candle);
    let plain = |v: &[Plain]| {
        let [a, b, mask] = &constants;
        reference(&oracle::linear(&linear, &v[0])?, &(&v[0] * mask)?, (a, b), 0.5)
    };
    assert_same(&y, &oracle::value(&[&x], plain), 1e-6, "forward");
    let want = oracle::gradients(&[&x], &dy, plain).unwrap();
    let kept = Kept { x: &masked, z: &z, mask: Some(&mask) };
    let (dx, _) = backward(&[(&linear, &dy, path, kept)], None);
    assert_same(&dx, &want[0], 2e-6, "dx");
}
