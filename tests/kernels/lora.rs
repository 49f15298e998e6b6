//! Tests `lora.cu`: packing, sums of parts and dropout, with the same bits as on the processor.

use dpo_lora::device::Kind;
use dpo_lora::random::Stream;

use crate::args;
use crate::bench::{Bench, Buf, KINDS, encode, near, padded, picked, same, trimmed, wide};

/// A matrix of the table of `pack`.
struct Entry {
    from: usize,
    rows: usize,
    columns: usize,
    ld_from: usize,
    ld_to: usize,
    scale: f32,
    kind: Kind,
}

impl Entry {
    fn random(bench: &Bench, from: usize) -> Self {
        let (rows, four) = (1 + bench.below(40), bench.below(2) == 0);
        let columns = if four { 4 + 4 * bench.below(60) } else { 1 + bench.below(70) };
        let ld_from = columns + 4 * bench.below(3);
        let ld_to = columns + [0, 3, 8][bench.below(3)];
        let kind = KINDS[bench.below(2)];
        Self { from, rows, columns, ld_from, ld_to, scale: bench.normal(1, 1.0)[0], kind }
    }

    fn bytes(&self, to: &Buf) -> Vec<u8> {
        let Self { from, rows, columns, ld_from, ld_to, scale, kind } = self;
        let sizes = [rows, columns, ld_from, ld_to].map(|n| (*n as i32).to_le_bytes()).concat();
        let kind = i32::from(*kind == Kind::Bf16).to_le_bytes();
        [&to.at().0.to_le_bytes()[..], &(*from as u64).to_le_bytes(), &sizes, &scale.to_le_bytes(), &kind]
            .concat()
    }

    /// Returns the matrix in the flat buffer, times the scale.
    fn of(&self, values: &[f32]) -> Vec<f32> {
        let row = |i: usize| &values[self.from + i * self.ld_from..][..self.columns];
        (0..self.rows).flat_map(|i| row(i).iter().map(|x| x * self.scale)).collect()
    }
}

pub fn packs(bench: &Bench, count: usize) {
    let mut entries: Vec<Entry> = Vec::new();
    for i in 0..count {
        let from = entries.last().map_or(i, |last| last.from + last.rows * last.ld_from + i % 2);
        entries.push(Entry::random(bench, from));
    }
    let end = entries.last().map_or(0, |last| last.from + last.rows * last.ld_from);
    let values = bench.normal(end, 1.0);
    let flat = bench.input(Kind::F32, &values, 0);
    let outs: Vec<Buf> =
        entries.iter().map(|e| bench.output(e.kind, e.rows * e.ld_to, bench.below(2))).collect();
    let table: Vec<u8> = entries.iter().zip(&outs).flat_map(|(entry, out)| entry.bytes(out)).collect();
    let table = bench.bytes(&table);
    bench.launch("lora", "pack", ([count, 32], 256, 0), args![flat.at(), table.at()]);
    for (entry, out) in entries.iter().zip(&outs) {
        let want = encode(entry.kind, &padded(&entry.of(&values), entry.columns, entry.ld_to));
        same("pack", &encode(entry.kind, &out.numbers(entry.kind)), &want);
    }
    unpacks(bench, entries, end);
}

fn unpacks(bench: &Bench, mut entries: Vec<Entry>, end: usize) {
    let mut want = vec![f32::NAN; end];
    let mut froms = Vec::new();
    for entry in &mut entries {
        entry.kind = Kind::F32;
        let values = bench.normal(entry.rows * entry.ld_to, 1.0);
        for (i, row) in values.chunks(entry.ld_to).enumerate() {
            let to = &mut want[entry.from + i * entry.ld_from..][..entry.columns];
            to.iter_mut().zip(row).for_each(|(to, x)| *to = x * entry.scale);
        }
        froms.push(bench.input(Kind::F32, &values, bench.below(2)));
    }
    let table: Vec<u8> = entries.iter().zip(&froms).flat_map(|(entry, from)| entry.bytes(from)).collect();
    let (table, to) = (bench.bytes(&table), bench.output(Kind::F32, end, 0));
    bench.launch("lora", "unpack", ([entries.len(), 32], 256, 0), args![table.at(), to.at()]);
    same("unpack", &to.read(), &encode(Kind::F32, &want));
}

/// Parts are added in order, in f32.
fn parts(bench: &Bench, kind: Kind, count: usize, rows: usize, columns: usize, pad: usize) {
    let (values, pitch) = (bench.normal(count * rows * columns, 1.0), columns + pad);
    let mut sums = vec![0f32; rows * columns];
    for part in values.chunks(rows * columns) {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    let (from, out) = (bench.input(Kind::F32, &values, 0), bench.output(kind, rows * pitch, 0));
    let args = args![from.at(), count, rows, columns, out.at(), pitch];
    bench.run("lora", "sum_parts", kind, ([(rows * columns).div_ceil(256), 1], 256, 0), args);
    let found = out.numbers(kind).chunks(pitch).flat_map(|row| row[..columns].to_vec()).collect::<Vec<_>>();
    same("sum_parts", &encode(kind, &found), &encode(kind, &sums));
}

/// `out` has the same bits; `dx` may differ by the one addition, which a card contracts.
pub fn drops(bench: &Bench, kind: Kind, rows: usize, columns: usize, (pad, shift): (usize, usize), p: f32) {
    let what = format!("dropout {kind:?} {rows} {columns} {pad} {shift} {p}");
    let stream = Stream::new(bench.word(), "dropout");
    let keep = 1.0 / (1.0 - p);
    let factors: Vec<f32> = (0..rows as u64)
        .flat_map(|i| (0..columns as u64).map(move |j| stream.child(i).uniform(j)))
        .map(|uniform| if uniform < p { 0.0 } else { keep })
        .collect();
    let [x, before] = [(); 2].map(|()| bench.rounded(kind, rows * columns, 1.0));
    let (ldx, ldo) = (columns + pad, columns + 2 * pad);
    let from = bench.input(kind, &padded(&x, columns, ldx), shift);
    let out = bench.output(kind, rows * ldo, shift);
    let dx = bench.changing(kind, &padded(&before, columns, ldo), shift);
    let geometry = ([rows, 1], 256, 0);
    bench.run(
        "lora",
        "dropout",
        kind,
        geometry,
        args![from.at(), ldx, out.at(), ldo, columns, stream.key(), p],
    );
    bench.run(
        "lora",
        "dropout_add",
        kind,
        geometry,
        args![from.at(), ldx, dx.at(), ldo, columns, stream.key(), p],
    );
    let dropped: Vec<f32> = x.iter().zip(&factors).map(|(x, factor)| x * factor).collect();
    same(&what, &encode(kind, &trimmed(&what, &out.numbers(kind), columns, ldo)), &encode(kind, &dropped));
    let found = dx.numbers(kind);
    assert!(found.chunks(ldo).all(|row| row[columns..].iter().all(|x| x.is_nan())), "{what}: wrote the tail");
    let found: Vec<f32> = found.chunks(ldo).flat_map(|row| row[..columns].to_vec()).collect();
    let want: Vec<f64> =
        wide(&before).iter().zip(wide(&x)).zip(wide(&factors)).map(|((b, x), f)| b + x * f).collect();
    near(&what, kind, &found, &want, columns, 2.0);
}

pub fn some(bench: &Bench) {
    packs(bench, 3);
    for kind in KINDS {
        drops(bench, kind, 2, 72, (8, 0), 0.5);
        parts(bench, kind, 3, 5, 7, 1);
    }
}

#[test]
fn matrices_are_packed_and_unpacked() {
    let Some(bench) = Bench::new("pack") else { return };
    (1..20).for_each(|count| packs(&bench, 1 + count % 5));
}

#[test]
fn parts_are_summed_in_order() {
    let Some(bench) = Bench::new("parts") else { return };
    for kind in KINDS {
        for (count, rows, columns, pad) in [(1, 1, 1, 0), (4, 7, 36, 4), (8, 300, 8, 0), (3, 16, 65, 7)] {
            parts(&bench, kind, count, rows, columns, pad);
        }
    }
}

#[test]
fn dropout_draws_what_the_processor_draws() {
    let Some(bench) = Bench::new("dropout") else { return };
    for kind in KINDS {
        for (rows, columns) in [(1, 7), (7, 36), (300, 64), (3, 896), (2, 4100)] {
            for p in [0.05, 0.5] {
                drops(&bench, kind, rows, columns, (0, 0), p);
                drops(&bench, kind, rows, columns, (8, 0), p);
                drops(&bench, kind, rows, columns, (3, 1), p);
            }
        }
    }
}

#[test]
fn a_draw_that_is_the_probability_is_kept() {
    let Some(bench) = Bench::new("draws") else { return };
    let stream = Stream::new(3, "draws");
    for i in 0..40 {
        // The least number above a draw drops it; the draw itself does not.
        let uniform = stream.child(0).uniform(i);
        for (p, is_kept) in [(uniform, true), (uniform.next_up(), false)] {
            let (from, out) = (bench.input(Kind::F32, &[1.0; 40], 0), bench.output(Kind::F32, 40, 0));
            let args = args![from.at(), 40, out.at(), 40, 40, stream.key(), p];
            bench.run("lora", "dropout", Kind::F32, ([1, 1], 256, 0), args);
            assert_eq!(out.numbers(Kind::F32)[i as usize] != 0.0, is_kept, "{i} {p}");
        }
    }
}

#[test]
fn rows_draw_their_own() {
    let Some(bench) = Bench::new("rows") else { return };
    let x = vec![1f32; 2 * 64];
    let (from, out) = (bench.input(Kind::F32, &x, 0), bench.output(Kind::F32, 2 * 64, 0));
    bench.run(
        "lora",
        "dropout",
        Kind::F32,
        ([2, 1], 256, 0),
        args![from.at(), 64, out.at(), 64, 64, 5u64, 0.5f32],
    );
    let found = out.numbers(Kind::F32);
    assert_ne!(picked(&found, 64, &[0]), picked(&found, 64, &[1]));
}
