//! The type of each matrix of a GGUF model: llama.cpp's mixtures (`llama_tensor_get_type` of `src/llama-quant.cpp`).

use std::fmt;

use super::super::super::gguf::GgufType;
use crate::model::spec::DecoderSpec;

/// Storage types of a GGUF model: llama.cpp's `LLAMA_FTYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit blocks.
    Q8_0,
    /// 6-bit super-blocks.
    Q6K,
    /// 4-bit super-blocks; the head, and half of the value projections and the MLPs' last projections, in 6 bits.
    Q4KM,
}

impl FileType {
    /// `general.file_type`, by `LlamaFileType` of gguf-py.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q6K => 18,
            Self::BF16 => 32,
        }
    }

    /// Whether it loses more than the rounding of single numbers.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q6K | Self::Q4KM)
    }

    /// The type that most matrices have.
    fn most(self) -> GgufType {
        match self {
            Self::F32 => GgufType::F32,
            Self::F16 => GgufType::F16,
            Self::BF16 => GgufType::BF16,
            Self::Q8_0 => GgufType::Q8_0,
            Self::Q6K => GgufType::Q6K,
            Self::Q4KM => GgufType::Q4K,
        }
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q4KM => "q4_k_m",
        })
    }
}

/// The types of one model's matrices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    kind: FileType,
    layers: usize,
    /// Whether llama.cpp treats it as a model of 70 billion parameters, where eight heads share a value projection.
    largest: bool,
}

impl Mix {
    pub fn new(kind: FileType, spec: &DecoderSpec) -> Self {
        let layers = spec.layers.len();
        let shared = spec
            .layers
            .first()
            .is_some_and(|layer| layer.attention.heads.n_head != layer.attention.heads.n_kv_head);
        let largest = layers == 80 && (spec.model_type == "qwen2" || spec.model_type == "llama" && shared);
        Self { kind, layers, largest }
    }

    /// The type of a matrix by its name in the file. `head`: whether it computes the logits.
    pub fn of(self, tensor: &str, head: bool, columns: usize) -> GgufType {
        let most = self.kind.most();
        let wanted = match tensor.split('.').collect::<Vec<_>>()[..] {
            _ if !self.kind.is_quantised() => return most,
            _ if head && !columns.is_multiple_of(most.block()) => GgufType::Q8_0,
            _ if head && most != GgufType::Q8_0 => GgufType::Q6K,
            ["blk", layer, "attn_v" | "ffn_down", _] if self.kind == FileType::Q4KM && self.more(layer) => {
                GgufType::Q6K
            }
            ["blk", _, "attn_v", _] if self.kind == FileType::Q4KM && self.largest => GgufType::Q5K,
            _ => most,
        };
        fallback(wanted, columns)
    }

    /// `use_more_bits`: the first and the last eighth of the layers, and every third one between.
    fn more(self, layer: &str) -> bool {
        let (layer, eighth) = (layer.parse().unwrap_or(0), self.layers / 8);
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// `tensor_type_fallback`: the type for rows whose length is not a multiple of a block.
fn fallback(kind: GgufType, columns: usize) -> GgufType {
    if columns.is_multiple_of(kind.block()) {
        return kind;
    }
    let smaller = match kind {
        GgufType::Q4K => GgufType::Q5_0,
        GgufType::Q5K | GgufType::Q6K => GgufType::Q8_0,
        _ => GgufType::F16,
    };
    if columns.is_multiple_of(smaller.block()) { smaller } else { GgufType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(kind: FileType, layers: usize) -> Mix {
        Mix { kind, layers, largest: false }
    }

    #[test]
    fn q4_k_m_gives_more_bits_where_llama_cpp_does() {
        // By llama.cpp's formula for 24 layers: 0 to 2, 5, 8, 11, 14, 17, 20 and 21 to 23.
        let more: Vec<usize> = (0..24)
            .filter(|layer| {
                mix(FileType::Q4KM, 24).of(&format!("blk.{layer}.ffn_down.weight"), false, 512)
                    == GgufType::Q6K
            })
            .collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        let of = |tensor: &str, head, columns| mix(FileType::Q4KM, 24).of(tensor, head, columns);
        assert_eq!(of("blk.0.attn_v.weight", false, 256), GgufType::Q6K);
        assert_eq!(of("blk.3.attn_v.weight", false, 256), GgufType::Q4K);
        assert_eq!(of("blk.0.attn_q.weight", false, 256), GgufType::Q4K);
        assert_eq!(of("token_embd.weight", false, 256), GgufType::Q4K);
        assert_eq!(of("token_embd.weight", true, 256), GgufType::Q6K);
        assert_eq!(of("output.weight", true, 896), GgufType::Q8_0);
        assert_eq!(of("blk.3.ffn_up.weight", false, 896), GgufType::Q5_0);
        assert_eq!(of("blk.0.ffn_down.weight", false, 96), GgufType::Q8_0);
        assert_eq!(of("blk.3.ffn_up.weight", false, 56), GgufType::F16);
        let largest = Mix { largest: true, ..mix(FileType::Q4KM, 80) };
        assert_eq!(largest.of("blk.10.attn_v.weight", false, 512), GgufType::Q5K);
    }

    #[test]
    fn uniform_types_are_uniform() {
        for (kind, wanted) in
            [(FileType::F16, GgufType::F16), (FileType::F32, GgufType::F32), (FileType::BF16, GgufType::BF16)]
        {
            assert_eq!(mix(kind, 24).of("output.weight", true, 31), wanted);
        }
        assert_eq!(mix(FileType::Q8_0, 24).of("output.weight", true, 32), GgufType::Q8_0);
        assert_eq!(mix(FileType::Q8_0, 24).of("blk.0.ffn_up.weight", false, 56), GgufType::F16);
        assert_eq!(mix(FileType::Q6K, 24).of("blk.3.ffn_up.weight", false, 512), GgufType::Q6K);
        assert_eq!(mix(FileType::Q6K, 24).of("output.weight", true, 96), GgufType::Q8_0);
    }
}
