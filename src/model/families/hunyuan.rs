//! Hunyuan, dense (`hunyuan_v1_dense`): Llama with norms over each head's queries and keys, applied after rotation.

use super::common;
use super::json::ConfigJson;
use super::rotation::{Rotary, WHOLE};
use crate::error::Result;
use crate::model::spec::DecoderSpec;

/// Settings for images, classes and experts, which the dense text model does not have.
const OF_IMAGES: &[&str] = &[
    "anyres_pooling_size",
    "anyres_vit_max_image_size",
    "anyres_vit_two_views",
    "cla_share_factor",
    "class_num",
    "dense_list",
    "image_token_id",
    "mask_init_id",
    "max_image_size",
    "num_media_embeds",
    "org_vocab_size",
    "skip_cls_token",
    "text_end_id",
    "text_start_id",
    "vit_add_patchemb_bias",
    "vit_mapping_type",
    "vit_norm_type",
    "vit_patch",
    "vit_path",
    "vit_remove_prenorm",
    "vit_token",
    "vit_type",
    "vit_used_rms_norm",
];

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec> {
    let mut spec = common::llama_sizes(config, "rms_norm_eps")?;
    common::attention_bias(config, &mut spec)?;
    common::head_norms(&mut spec, ["query_layernorm", "key_layernorm"]);
    let mut head_dim = 2;
    for layer in &mut spec.layers {
        layer.attention.norm_after_rotation = true;
        head_dim = layer.attention.heads.head_dim;
    }
    let mut rotary = Rotary::read(config, &WHOLE)?;
    // The family's files call a fixed scaling of the base `dynamic`.
    let alpha = rotary.setting("alpha")?.filter(|alpha| *alpha != 0.0);
    if let Some(alpha) = alpha.filter(|_| rotary.kind() == "dynamic") {
        rotary.setting("factor")?.ok_or_else(|| config.error("rope_parameters.factor", "is missing"))?;
        let factor = alpha.powf(head_dim as f64 / (head_dim as f64 - 2.0));
        rotary = rotary.stretched(factor).renamed(&["dynamic"], "default");
        // YaRN settings that the files repeat but transformers does not read for this type.
        rotary.overlook(&["beta_fast", "beta_slow", "mscale", "mscale_all_dim", "factor"]);
    }
    config.accept(&[
        ("use_qk_norm", true.into()),
        ("use_rotary_pos_emb", true.into()),
        ("attention_head_dim", head_dim.into()),
        ("norm_type", "rms".into()),
        // The head is computed with f32 sums in any case.
        ("enable_lm_head_fp32", true.into()),
    ]);
    // Keys that the files carry over from vision models.
    OF_IMAGES.iter().for_each(|key| config.mark(key));
    spec.rotations = vec![rotary.rotation(config, head_dim)?];
    Ok(spec)
}
