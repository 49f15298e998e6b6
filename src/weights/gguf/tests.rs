use std::path::Path;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::*;
use crate::weights::{BlockKind, Elements, FrozenWeight};

/// A file put together by hand.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(version: u32, tensors: u64, keys: u64) -> Self {
        let mut bytes = Self(b"GGUF".to_vec());
        bytes.u32(version).u64(tensors).u64(keys);
        bytes
    }

    fn u32(&mut self, x: u32) -> &mut Self {
        self.raw(&x.to_le_bytes())
    }

    fn u64(&mut self, x: u64) -> &mut Self {
        self.raw(&x.to_le_bytes())
    }

    fn raw(&mut self, x: &[u8]) -> &mut Self {
        self.0.extend(x);
        self
    }

    fn text(&mut self, x: &str) -> &mut Self {
        self.u64(x.len() as u64).raw(x.as_bytes())
    }

    /// A tensor's entry; `ne` as ggml has it, innermost first.
    fn tensor(&mut self, name: &str, ne: &[u64], kind: u32, offset: u64) -> &mut Self {
        self.text(name).u32(ne.len() as u32);
        for size in ne {
            self.u64(*size);
        }
        self.u32(kind).u64(offset)
    }

    fn data(&mut self, alignment: usize, bytes: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(alignment) + bytes, 7);
        self
    }

    fn parse(&self) -> Result<Header, String> {
        Header::parse(&self.0)
    }

    fn complaint(&self) -> String {
        self.parse().map(|header| format!("accepted: {header:?}")).unwrap_err()
    }
}

fn open(bytes: &Bytes) -> (tempfile::TempDir, GgufFile) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    std::fs::write(&path, &bytes.0).unwrap();
    (directory, GgufFile::open(&path).unwrap())
}

#[test]
fn every_type_of_value_is_read() {
    let mut bytes = Bytes::new(3, 0, 16);
    let scalars: [(u32, &[u8]); 12] = [
        (0, &[200]),
        (1, &[200]),
        (2, &60_000u16.to_le_bytes()),
        (3, &(-5i16).to_le_bytes()),
        (4, &u32::MAX.to_le_bytes()),
        (5, &(-7i32).to_le_bytes()),
        (6, &1.5f32.to_le_bytes()),
        (7, &[1]),
        (10, &u64::MAX.to_le_bytes()),
        (11, &i64::MIN.to_le_bytes()),
        (12, &(-2.5f64).to_le_bytes()),
        (8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0xa9]),
    ];
    for (kind, value) in scalars {
        bytes.text(&format!("s{kind}")).u32(kind).raw(value);
    }
    bytes.text("texts").u32(9).u32(8).u64(2).text("a").text("bc");
    bytes.text("nested").u32(9).u32(9).u64(2).u32(0).u64(3).raw(&[1, 2, 3]).u32(8).u64(1).text("x");
    bytes.text("floats").u32(9).u32(6).u64(2).raw(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    bytes.text("none").u32(9).u32(4).u64(0);
    for version in [2, 3] {
        bytes.0[4] = version;
        let (_directory, file) = open(&bytes);
        assert_eq!((file.version(), file.tensors().count()), (version.into(), 0));
        let metadata = file.metadata();
        let integers = [(0, 200), (1, -56), (2, 60_000), (3, -5), (4, u32::MAX.into()), (5, -7)];
        for (kind, value) in integers.into_iter().chain([(10, u64::MAX.into()), (11, i64::MIN.into())]) {
            assert_eq!(metadata.get(&format!("s{kind}")), Some(Value::Integer(value)));
        }
        assert_eq!(metadata.float("s6").unwrap(), Some(1.5));
        assert_eq!(metadata.float("s12").unwrap(), Some(-2.5));
        assert_eq!(metadata.flag("s7").unwrap(), Some(true));
        assert_eq!(metadata.text("s8").unwrap(), Some("é"));
        assert_eq!(metadata.texts("texts").unwrap().unwrap(), ["a", "bc"]);
        assert_eq!(metadata.numbers("floats").unwrap().unwrap(), [1.0, -2.0]);
        assert!(metadata.array("none").unwrap().unwrap().is_empty());
        let nested: Vec<_> = metadata.array("nested").unwrap().unwrap().iter().collect();
        let [Value::Array(numbers), Value::Array(texts)] = &nested[..] else { panic!("{nested:?}") };
        assert_eq!(numbers.iter().nth(2), Some(Value::Integer(3)));
        assert_eq!(texts.iter().next(), Some(Value::Text("x")));
        assert_eq!(metadata.text("absent").unwrap(), None);
        let error = metadata.text("s0").unwrap_err().to_string();
        assert!(error.contains("s0") && error.contains("text"), "{error}");
        assert!(metadata.integer("s5").is_err() && metadata.texts("floats").is_err());
        assert_eq!(metadata.keys().count(), 16);
    }
}

#[test]
fn tensors_are_found_by_name_in_row_major_order() {
    let mut bytes = Bytes::new(3, 2, 1);
    bytes.text("general.alignment").u32(4).u32(64);
    bytes.tensor("b", &[4, 3], 0, 64).tensor("a", &[32, 2], 8, 128);
    bytes.data(64, 64);
    let numbers: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    bytes.raw(&numbers).data(64, 68);
    let (_directory, file) = open(&bytes);
    let names: Vec<_> = file.tensors().map(|tensor| (tensor.name.as_str(), tensor.kind.name())).collect();
    assert_eq!(names, [("a", "Q8_0"), ("b", "F32")]);
    assert_eq!(
        (file.tensor("b").unwrap().shape.as_slice(), file.tensor("a").unwrap().bytes),
        (&[3, 4][..], 68)
    );
    assert_eq!(file.rows_to_f32("b", 1..3).unwrap(), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(file.to_f32("a").unwrap().len(), 64);
    assert_eq!(file.weight("a").unwrap().storage(), "Q8_0");
    assert!(file.rows_to_f32("b", 2..4).is_err() && file.weight("c").is_err());
    assert_eq!(file.bytes("b").unwrap(), numbers);
}

#[test]
fn dequantised_numbers_are_candles_to_the_bit() {
    for (kind, theirs) in [
        (BlockKind::Q4_0, GgmlDType::Q4_0),
        (BlockKind::Q4_1, GgmlDType::Q4_1),
        (BlockKind::Q5_0, GgmlDType::Q5_0),
        (BlockKind::Q5_1, GgmlDType::Q5_1),
        (BlockKind::Q8_0, GgmlDType::Q8_0),
        (BlockKind::Q4K, GgmlDType::Q4K),
        (BlockKind::Q5K, GgmlDType::Q5K),
        (BlockKind::Q6K, GgmlDType::Q6K),
    ] {
        let noise: Vec<f32> = (0..6 * 512u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
            .map(|x| x * x * x)
            .collect();
        let tensor = Tensor::from_vec(noise.clone(), (6, 512), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&tensor, theirs).unwrap();
        let bytes = quantised.data().unwrap();
        let want: Vec<f32> =
            quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let ours = FrozenWeight::from_blocks(bytes.to_vec().into(), kind, &[6, 512]).unwrap();
        assert_eq!(ours.elements().to_f32(), want, "{kind:?}");
        assert_eq!(ours.dtype(), None);
        let Elements::Blocks(blocks) = ours.elements() else { panic!("{kind:?} is not quantised") };
        // Runs that begin and end within blocks.
        for (from, count) in [(0, 1), (31, 2), (5, 300), (255, 258), (3071, 1)] {
            let mut out = vec![f32::NAN; count];
            blocks.read(from, &mut out);
            assert_eq!(out, want[from..from + count], "{kind:?} {from}");
        }
        let worst = want.iter().zip(&noise).fold(0f32, |m, (w, n)| m.max((w - n).abs()));
        assert!(worst < 0.15, "{kind:?}: {worst} off what was quantised");
        assert!(FrozenWeight::from_blocks(bytes[1..].into(), kind, &[6, 512]).is_err());
        let _: QStorage = QStorage::from_data(bytes, &Device::Cpu, theirs).unwrap();
    }
}

#[test]
fn headers_that_lie_are_refused_with_the_reason() {
    let tensor = |ne: &[u64], kind, offset, data| {
        let mut bytes = Bytes::new(3, 1, 0);
        bytes.tensor("w", ne, kind, offset).data(32, data);
        bytes.complaint()
    };
    let key = |kind: u32, value: &[u8]| {
        let mut bytes = Bytes::new(3, 0, 1);
        bytes.text("k").u32(kind).raw(value);
        bytes.complaint()
    };
    let claimed = |tensors, keys| Bytes::new(3, tensors, keys).data(1, 300).complaint();
    let array = |kind: u32, count: u64, rest: &[u8]| {
        let value = [&kind.to_le_bytes()[..], &count.to_le_bytes()[..], rest].concat();
        key(9, &value)
    };
    let alignment = |kind: u32, value: &[u8]| {
        let mut bytes = Bytes::new(3, 0, 1);
        bytes.text("general.alignment").u32(kind).raw(value);
        bytes.complaint()
    };
    let two = |second: &str, offset| {
        let mut bytes = Bytes::new(3, 2, 0);
        bytes.tensor("w", &[32], 0, 0).tensor(second, &[32], 0, offset).data(32, 256);
        bytes.complaint()
    };
    let mut nested = Vec::new();
    (0..5000).for_each(|_| nested.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()[..]].concat()));
    let mut twice = Bytes::new(3, 0, 2);
    twice.text("k").u32(0).raw(&[1]).text("k").u32(0).raw(&[1]);
    let mut nameless = Bytes::new(3, 1, 0);
    nameless.u64(u64::MAX - 3).raw(&[b'w'; 64]);
    let mut latin = Bytes::new(3, 0, 1);
    latin.u64(2).raw(&[0xe9, b'x']).u32(0).raw(&[0]);
    let mut latin_tensor = Bytes::new(3, 1, 0);
    latin_tensor.u64(1).raw(&[0xff]).u32(1).u64(1).u32(0).u64(0).data(32, 32);
    let most = u64::MAX;
    let cases = [
        (Bytes(vec![]).complaint(), "begin with GGUF"),
        (Bytes(b"GGU".to_vec()).complaint(), "begin with GGUF"),
        (Bytes(b"GGML\x03\0\0\0".to_vec()).complaint(), "begin with GGUF"),
        (Bytes(b"PK\x03\x04".to_vec()).complaint(), "begin with GGUF"),
        (Bytes(b"GGUF".to_vec()).complaint(), "needs 4 more"),
        (Bytes::new(1, 0, 0).complaint(), "version is 1"),
        (Bytes::new(4, 0, 0).complaint(), "version is 4"),
        (Bytes::new(0, 0, 0).complaint(), "version is 0"),
        (Bytes::new(3 << 24, 0, 0).complaint(), "big-endian"),
        (Bytes(b"GGUF\x03\0\0\0\x01\0".to_vec()).complaint(), "needs 8 more"),
        (claimed(most, 0), "claims 18446744073709551615 tensors"),
        (claimed(1 << 40, 0), "tensors"),
        (claimed(0, most), "keys of metadata"),
        (claimed(0, 1 << 33), "keys of metadata"),
        (claimed(20, 0), "holds 9 at most"),
        (Bytes::new(3, 0, 1).complaint(), "keys of metadata"),
        (Bytes::new(3, 0, 1 << 18).data(1, 13 << 18).complaint(), "131072 at most"),
        (Bytes::new(3, 1 << 18, 0).data(1, 33 << 18).complaint(), "131072 at most"),
        (key(13, &[0; 8]), "unknown type 13"),
        (key(most as u32, &[0; 8]), "unknown type"),
        (key(10, &[0; 7]), "needs 8 more"),
        (key(7, &[2]), "Boolean is 2"),
        (key(8, &most.to_le_bytes()), "bytes of text"),
        (key(8, &(1u64 << 32).to_le_bytes()), "bytes of text"),
        (key(8, &[&1u64.to_le_bytes()[..], &[0xff]].concat()), "not UTF-8"),
        (key(8, &[&4u64.to_le_bytes()[..], b"abc"].concat()), "holds 3 at most"),
        (array(4, most, &[0; 64]), "elements of an array"),
        (array(4, most / 4 + 1, &[0; 64]), "elements of an array"),
        (array(12, 9, &[0; 64]), "holds 8 at most"),
        (array(8, 1 << 30, &[0; 64]), "elements of an array"),
        (array(8, 2, &[&1u64.to_le_bytes()[..], b"a", &9u64.to_le_bytes()[..]].concat()), "bytes of text"),
        (array(77, 2, &[0; 64]), "unknown type 77"),
        (array(77, 0, &[0; 64]), "unknown type 77"),
        (array(7, 3, &[0, 1, 9]), "Boolean is 9"),
        (array(9, 1, &nested), "nested deeper than 4"),
        (array(9, 1 << 50, &nested), "elements of an array"),
        (key(9, &[0; 3]), "needs 4 more"),
        (twice.complaint(), "occurs twice"),
        (latin.complaint(), "not UTF-8"),
        (alignment(4, &0u32.to_le_bytes()), "not a power of two"),
        (alignment(4, &48u32.to_le_bytes()), "not a power of two"),
        (alignment(10, &(1u64 << 63).to_le_bytes()), "not a power of two"),
        (alignment(5, &(-32i32).to_le_bytes()), "general.alignment"),
        (alignment(6, &32f32.to_le_bytes()), "general.alignment"),
        (nameless.complaint(), "bytes of text"),
        (latin_tensor.complaint(), "not UTF-8"),
        (tensor(&[], 0, 0, 64), "0 dimensions"),
        (tensor(&[1, 1, 1, 1, 1], 0, 0, 64), "5 dimensions"),
        (tensor(&[0], 0, 0, 64), "is impossible"),
        (tensor(&[most], 0, 0, 64), "is impossible"),
        (tensor(&[1 << 33, 1 << 33], 0, 0, 64), "is impossible"),
        (tensor(&[1 << 62, 1 << 62, 1 << 62, 1 << 62], 24, 0, 64), "is impossible"),
        (tensor(&[16], 4, 0, 64), "type 4 is unknown"),
        (tensor(&[16], 1000, 0, 64), "type 1000 is unknown"),
        (tensor(&[31, 2], 8, 0, 68), "not whole blocks of 32 (Q8_0)"),
        (tensor(&[128], 12, 0, 144), "not whole blocks of 256 (Q4_K)"),
        (tensor(&[16], 0, 0, 63), "reaches beyond its end"),
        (tensor(&[16], 0, 32, 64), "reaches beyond its end"),
        (tensor(&[16], 0, 8, 128), "not aligned to 32"),
        (tensor(&[16], 0, most - 31, 128), "reaches beyond its end"),
        (tensor(&[1 << 40], 0, 0, 64), "reaches beyond its end"),
        (two("v", 0), "share its bytes"),
        (two("v", 96), "share its bytes"),
        (two("w", 128), "occurs twice"),
    ];
    assert!(cases.len() >= 50);
    for (i, (complaint, expected)) in cases.iter().enumerate() {
        assert!(complaint.contains(expected), "case {i}: {complaint:?} does not say {expected:?}");
        assert!(complaint.len() < 300, "case {i} repeats what it read: {complaint}");
    }
}

/// Cut anywhere, a file is refused or loses nothing but padding; nothing panics.
#[test]
fn every_cut_and_every_changed_byte_is_met() {
    let mut bytes = Bytes::new(3, 2, 3);
    bytes.text("general.architecture").u32(8).text("llama");
    bytes.text("a").u32(9).u32(8).u64(2).text("x").text("yz");
    bytes.text("n").u32(9).u32(9).u64(1).u32(4).u64(1).u32(9);
    bytes.tensor("w", &[32, 2], 2, 0).tensor("v", &[8], 0, 64).data(32, 96);
    assert!(bytes.parse().is_ok());
    for cut in 0..bytes.0.len() {
        assert!(Header::parse(&bytes.0[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.0.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed.0[at] ^= flip;
            if let Ok(header) = changed.parse() {
                for key in header.metadata(&changed.0).keys() {
                    let _ = header.metadata(&changed.0).get(key);
                }
                for tensor in header.tensors.values() {
                    assert!(tensor.start + tensor.bytes <= changed.0.len());
                }
            }
        }
    }
}

#[test]
fn the_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0").unwrap();
    let error = GgufFile::open(&path).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("not a whole GGUF file"), "{error}");
    assert!(GgufFile::open(Path::new("nowhere.gguf")).unwrap_err().to_string().contains("nowhere.gguf"));
    std::fs::write(&path, b"").unwrap();
    assert!(GgufFile::open(&path).is_err());
    std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").unwrap();
    let error = GgufFile::open(&path).unwrap_err().to_string();
    assert!(error.contains("it is a Git LFS pointer"), "{error}");
}
