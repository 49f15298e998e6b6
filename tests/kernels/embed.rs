//! Tests `embed.cu`, whose results must have the same bits as weights read by the processor.

use dpo_lora::device::Kind;
use dpo_lora::weights::{BlockKind, FrozenWeight};
use half::{bf16, f16};

use crate::args;
use crate::bench::{Bench, Buf, KINDS, at, encode, picked, same, trimmed};

/// How numbers are stored: the kernels' code, and the blocks of quantised types.
#[derive(Clone, Copy, Debug)]
struct Storage {
    code: i32,
    blocks: Option<BlockKind>,
}

fn plain() -> Vec<Storage> {
    (0..3).map(|code| Storage { code, blocks: None }).collect()
}

fn quantised() -> Vec<Storage> {
    let all = BlockKind::ALL.iter().copied().chain([BlockKind::Nf4]);
    all.enumerate().map(|(i, kind)| Storage { code: 16 + i as i32, blocks: Some(kind) }).collect()
}

/// bitsandbytes' numbers for the codes of NF4.
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928,
    -0.52507305,
    -0.3949175,
    -0.28444138,
    -0.18477343,
    -0.091050036,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.33791524,
    0.44070983,
    0.562617,
    0.72295684,
    1.0,
];

/// Blocks of random bytes with finite scales, and their numbers.
fn random_blocks(bench: &Bench, kind: BlockKind, rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
    let (numbers, size) = kind.block();
    let halves: &[usize] = match kind {
        BlockKind::Q4_1 | BlockKind::Q5_1 | BlockKind::Q4K | BlockKind::Q5K => &[0, 2],
        BlockKind::Q6K => &[208],
        BlockKind::Nf4 => &[],
        _ => &[0],
    };
    let mut bytes: Vec<u8> = (0..rows * columns / numbers * size).map(|_| bench.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(size) {
        let scale = bench.normal(2, 1.0);
        for half in halves {
            // From subnormal halves to large ones.
            let scale = scale[0] * 10f32.powi(bench.below(8) as i32 - 6);
            block[*half..half + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        }
        if kind == BlockKind::Nf4 {
            block[..4].copy_from_slice(&scale[1].to_le_bytes());
        }
    }
    let numbers = if kind == BlockKind::Nf4 {
        let block = |block: &[u8]| {
            let magnitude = f32::from_le_bytes(block[..4].try_into().unwrap());
            let codes = block[4..].iter().flat_map(|byte| [byte >> 4, byte & 15]);
            codes.map(|code| NF4[usize::from(code)] * magnitude).collect::<Vec<_>>()
        };
        bytes.chunks_exact(size).flat_map(block).collect()
    } else {
        let weight = FrozenWeight::from_blocks(bytes.clone().into(), kind, &[rows, columns]).unwrap();
        weight.elements().to_f32()
    };
    (bytes, numbers)
}

fn random(bench: &Bench, storage: Storage, rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
    if let Some(kind) = storage.blocks {
        return random_blocks(bench, kind, rows, columns);
    }
    let mut x = bench.normal(rows * columns, 1.0);
    x[0] = 6e-8;
    match storage.code {
        0 => (encode(Kind::F32, &x), x),
        1 => (encode(Kind::Bf16, &x), x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()),
        _ => {
            let halves: Vec<f16> = x.iter().map(|x| f16::from_f32(*x)).collect();
            (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|x| x.to_f32()).collect())
        }
    }
}

/// The widths that a storage type can have.
fn widths(storage: Storage) -> Vec<usize> {
    let block = storage.blocks.map_or(1, |kind| kind.block().0);
    if block == 1 { vec![7, 36, 64, 896, 2056] } else { vec![block, 3 * block, 2048 + block] }
}

fn dequantise(bench: &Bench, storage: Storage, rows: usize, columns: usize) {
    let (bytes, numbers) = random(bench, storage, rows, columns);
    let blocks = bench.bytes(&bytes);
    for kind in KINDS {
        for (pad, shift, grid, block) in
            [(0, 0, columns.div_ceil(4096), 256), (8, 0, columns.div_ceil(1024), 128), (3, 1, 3, 64)]
        {
            let (what, pitch) =
                (format!("dequantise {storage:?} {kind:?} {rows} {columns} {pad}"), columns + pad);
            let out = bench.output(kind, rows * pitch, shift);
            let args = args![blocks.at(), storage.code, columns, out.at(), pitch];
            bench.run("embed", "dequantise", kind, ([grid, rows], block, 0), args);
            let found = trimmed(&what, &out.numbers(kind), columns, pitch);
            same(&what, &encode(kind, &found), &encode(kind, &numbers));
        }
    }
}

/// Rows of a table, and of a table of learned positions.
fn embed(bench: &Bench, storage: Storage, learned: Option<Storage>, rows: usize, hidden: usize) {
    let what = format!("embed {storage:?} {learned:?} {rows} {hidden}");
    let (count, offset, scale) = (9, 2, 1.7f32);
    let (bytes, numbers) = random(bench, storage, count, hidden);
    let positions_of = learned.map(|storage| random(bench, storage, count, hidden));
    let draw = |bound: usize| (0..rows).map(|_| bench.below(bound)).collect::<Vec<_>>();
    let (tokens, positions) = (draw(count), draw(count - offset));
    let words = |x: &[usize]| bench.integers(&x.iter().map(|x| *x as i32).collect::<Vec<_>>());
    let (table, more) = (bench.bytes(&bytes), positions_of.as_ref().map(|(bytes, _)| bench.bytes(bytes)));
    let (t, p): (Buf, Buf) = (words(&tokens), words(&positions));
    let x = bench.output(Kind::F32, rows * hidden, 0);
    let args = args![
        t.at(),
        p.at(),
        table.at(),
        storage.code,
        scale,
        at(more.as_ref()),
        learned.map_or(0, |storage| storage.code),
        offset,
        hidden,
        x.at(),
    ];
    bench.launch("embed", "embed", ([rows, 1], 256, 0), args);
    let mut want: Vec<f32> = picked(&numbers, hidden, &tokens).iter().map(|x| scale * x).collect();
    if let Some((_, numbers)) = positions_of {
        let places: Vec<usize> = positions.iter().map(|position| position + offset).collect();
        want.iter_mut().zip(picked(&numbers, hidden, &places)).for_each(|(x, more)| *x += more);
    }
    same(&what, &x.read(), &encode(Kind::F32, &want));
}

pub fn some(bench: &Bench) {
    for storage in plain().into_iter().chain(quantised()) {
        dequantise(bench, storage, 2, 256);
        embed(bench, storage, None, 2, 256);
    }
}

#[test]
fn weights_are_dequantised_to_the_bit() {
    let Some(bench) = Bench::new("dequantise") else { return };
    for storage in plain().into_iter().chain(quantised()) {
        for columns in widths(storage) {
            dequantise(&bench, storage, 1, columns);
            dequantise(&bench, storage, 7, columns);
        }
    }
}

#[test]
fn rows_of_tables_are_looked_up() {
    let Some(bench) = Bench::new("embed") else { return };
    for storage in plain().into_iter().chain(quantised()) {
        for hidden in widths(storage) {
            embed(&bench, storage, None, 7, hidden);
        }
        for learned in plain() {
            let hidden = storage.blocks.map_or(36, |kind| kind.block().0);
            embed(&bench, storage, Some(learned), 5, hidden);
        }
    }
    embed(&bench, plain()[1], Some(plain()[1]), 300, 64);
}
