use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::data::{Example, Kind, Origin};
use crate::model::families::{self, ConfigJson};
use crate::weights::SafetensorsSource;

/// The total number of elements in the tensors, where each buffer counts once.
fn numbers(tensors: &[&Tensor]) -> usize {
    let buffer = |tensor: &&Tensor| (tensor.numbers().as_ptr() as usize, tensor.numbers().len());
    tensors.iter().map(buffer).collect::<BTreeMap<usize, usize>>().values().sum()
}

#[test]
fn a_block_keeps_what_it_says_in_every_family() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for entry in std::fs::read_dir(models).unwrap() {
        let directory = entry.unwrap().path();
        let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
        let source = SafetensorsSource::open(&directory).unwrap();
        let decoder = Decoder::load(spec, &source, None).unwrap();
        let completions = vec![vec![4, 5, 6, 2], vec![8, 3]];
        let example =
            Example { prompt: vec![5, 7, 9], completions, kind: Kind::PAIR, origin: Origin::new("x", 1) };
        let batch = PackedBatch::new(&[&example]);
        let (_, tape) = decoder.forward(&batch, &Policy::default(), Training::default()).unwrap();
        let Tape::Host(tape) = tape else { panic!("no device") };
        // The last block keeps only the scored rows.
        let Kept::Whole(saved) = &tape.blocks[0] else { panic!("nothing is recomputed") };
        let layer = &decoder.spec().layers[0];
        let rows = batch.tokens.len();
        let lse = rows * layer.attention.heads.n_head;
        let name = directory.display();
        let (held, said) =
            (numbers(&saved.held()) + lse, rows * block::Saved::features(layer, decoder.spec().hidden));
        assert_eq!(held, said, "{name}: {} rows", rows);
    }
}
