"""The tiny models of further families, and of forms of families that `models.py` has: wrappers with a vision tower, scalings of the rotation, old layouts."""
from bpe import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE

TOKENS = dict(bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID)
COMMON = dict(vocab_size=VOCAB_SIZE, **TOKENS)
# as `models.SHAPE` with a layer less; the heads' width is given where the class takes one
SHAPE = dict(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, **COMMON)
S, F = "sliding_attention", "full_attention"


def rope(theta, **more):
    return dict(dict(rope_type="default", rope_theta=theta), **more)


YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
SHORT, LONG = [1.0, 1.25, 1.5, 2.0], [1.5, 3.0, 5.0, 9.0]


def longrope(original, positions=256):
    """`factor` is not said, as in Phi-3's files: it is the ratio of the two lengths; original_max_position_embeddings stands at top level."""
    return dict(SHAPE, max_position_embeddings=positions, original_max_position_embeddings=original, tie_word_embeddings=False,
                rope_parameters=dict(rope(10000.0), rope_type="longrope", short_factor=SHORT, long_factor=LONG))


SIGLIP = dict(model_type="siglip_vision_model", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4, vision_use_head=False)
PIXTRAL = dict(model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
QWEN_VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, patch_size=4, out_hidden_size=32)
QWEN_TOKENS = dict(image_token_id=3, video_token_id=4, vision_start_token_id=3, vision_end_token_id=4)

GEMMA3_TEXT = dict(SHAPE, head_dim=12, num_hidden_layers=3, query_pre_attn_scalar=24, sliding_window=8, layer_types=[S, F, S], rms_norm_eps=1e-5,
                   rope_parameters={F: rope(100000.0, rope_type="linear", factor=8.0), S: rope(1000.0)})
# the text's file contradicts the wrapper's, which counts
GEMMA3 = dict(text_config=dict(GEMMA3_TEXT, tie_word_embeddings=True), vision_config=SIGLIP, mm_tokens_per_image=1, image_token_index=3, boi_token_index=4, eoi_token_index=4,
              tie_word_embeddings=True)
MINISTRAL3 = dict(SHAPE, head_dim=12, rms_norm_eps=1e-6, tie_word_embeddings=True,
                  rope_parameters=dict(rope(500.0), **YARN | dict(original_max_position_embeddings=32), beta_fast=1.5, beta_slow=0.25, mscale=0.8, mscale_all_dim=0.5, llama_4_scaling_beta=0.4))
MISTRAL3 = dict(text_config=dict(SHAPE, model_type="mistral", head_dim=12, rms_norm_eps=1e-5, sliding_window=None, rope_parameters=rope(5000.0), tie_word_embeddings=False),
                vision_config=PIXTRAL, image_token_index=3, spatial_merge_size=2, tie_word_embeddings=False)
QWEN2_5_VL = dict(text_config=dict(SHAPE, rms_norm_eps=1e-6, rope_parameters=rope(20000.0, mrope_section=[1, 1, 2])), tie_word_embeddings=False,
                  vision_config=dict(QWEN_VISION, window_size=8, fullatt_block_indexes=[0]), **QWEN_TOKENS)
QWEN3_VL = dict(text_config=dict(SHAPE, head_dim=16, rms_norm_eps=1e-5, rope_parameters=rope(20000.0, mrope_section=[4, 2, 2], mrope_interleaved=True)), tie_word_embeddings=True,
                vision_config=dict(QWEN_VISION, num_position_embeddings=16, deepstack_visual_indexes=[0]), **QWEN_TOKENS)

# name → (model_type, config)
# Families that dpo-lora does not compute yet: they keep their seeds, and are made when they are named.
LATER = {"apertus", "bloom", "gpt_bigcode", "opt-post", "stablelm-parallel"}

MODELS = {
    "gemma3-vision": ("gemma3", GEMMA3),
    "gemma3-vision-new": ("gemma3", GEMMA3),
    "mistral3": ("mistral3", MISTRAL3),
    "mistral3-new": ("mistral3", MISTRAL3),
    # positions beyond 32 scale the queries
    "ministral3": ("ministral3", MINISTRAL3),
    "mistral3-ministral3": ("mistral3", dict(MISTRAL3, text_config=dict(MINISTRAL3, model_type="ministral3"), tie_word_embeddings=True)),
    # with text alone all three axes of mrope have the same positions
    "qwen2_5_vl": ("qwen2_5_vl", QWEN2_5_VL),
    "qwen2_5_vl-new": ("qwen2_5_vl", QWEN2_5_VL),
    "qwen3_vl": ("qwen3_vl", QWEN3_VL),
    # yarn on the full layers alone, with betas between which there are some of its eight pairs
    "olmo3": ("olmo3", dict(SHAPE, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3, sliding_window=8, layer_types=[S, F, S], rms_norm_eps=1e-6, tie_word_embeddings=False,
                            rope_parameters={F: dict(rope(500.0), **YARN, attention_factor=1.3, beta_fast=4.0, beta_slow=0.5), S: rope(500000.0)})),
    # some sequences are longer than 32 positions: long factors; shorter ones have the short ones
    "phi3-longrope": ("phi3", longrope(32)),
    "phi3-longrope-short": ("phi3", longrope(192)),
    # sequences on both sides of 48 positions
    "llama-dynamic": ("llama", dict(SHAPE, head_dim=16, max_position_embeddings=48, rope_parameters=rope(1000.0, rope_type="dynamic", factor=4.0), tie_word_embeddings=False, attention_bias=True,
                                    mlp_bias=True)),
    "qwen2-yarn": ("qwen2", dict(SHAPE, num_hidden_layers=3, rope_parameters=dict(rope(500.0), **YARN, mscale=0.9, mscale_all_dim=0.4, beta_fast=4.0, beta_slow=0.5, truncate=False),
                                 use_sliding_window=True, sliding_window=8, max_window_layers=1, tie_word_embeddings=False, rms_norm_eps=1e-5)),
    # the rotation turns the first half, in interleaved pairs
    "glm": ("glm", dict(SHAPE, head_dim=12, rms_norm_eps=1e-5, rope_parameters=rope(5000.0, partial_rotary_factor=0.34), tie_word_embeddings=False)),
    "glm4": ("glm4", dict(SHAPE, head_dim=16, rms_norm_eps=1e-5, rope_parameters=rope(5000.0, partial_rotary_factor=0.25), tie_word_embeddings=False, attention_bias=False)),
    "cohere": ("cohere", dict(SHAPE, logit_scale=0.6, use_qk_norm=True, layer_norm_eps=1e-4, rope_parameters=rope(5000.0), tie_word_embeddings=True)),
    "cohere2": ("cohere2", dict(SHAPE, num_hidden_layers=3, logit_scale=0.6, layer_norm_eps=1e-4, rope_parameters=rope(5000.0), sliding_window=8, layer_types=[S, F, S], tie_word_embeddings=True)),
    "starcoder2": ("starcoder2", dict(SHAPE, rope_parameters=rope(5000.0), sliding_window=8, norm_epsilon=1e-4, tie_word_embeddings=False)),
    "exaone4": ("exaone4", dict(SHAPE, num_hidden_layers=3, rms_norm_eps=1e-6, rope_parameters=rope(5000.0), sliding_window=8, sliding_window_pattern=2, layer_types=[S, F, S], tie_word_embeddings=False)),
    "seed_oss": ("seed_oss", dict(SHAPE, head_dim=12, rms_norm_eps=1e-5, rope_parameters=rope(5000.0), attention_out_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "ernie4_5": ("ernie4_5", dict(SHAPE, head_dim=12, rms_norm_eps=1e-6, rope_parameters=rope(5000.0), use_bias=True, tie_word_embeddings=False)),
    # its files say dynamic; with an alpha the base is stretched once and for all, whatever the length
    "hunyuan_v1_dense": ("hunyuan_v1_dense", dict(SHAPE, head_dim=12, rms_norm_eps=1e-6, attention_bias=True, tie_word_embeddings=True,
                                                  rope_parameters=rope(500.0, rope_type="dynamic", alpha=50.0, factor=1.0, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0))),
    "arcee": ("arcee", dict(SHAPE, head_dim=12, rms_norm_eps=1e-6, rope_parameters=rope(5000.0, **YARN), mlp_bias=True, tie_word_embeddings=False)),
    # rotary on 6 of 12
    "nemotron": ("nemotron", dict(SHAPE, head_dim=12, norm_eps=1e-4, rope_parameters=rope(5000.0, partial_rotary_factor=0.5), mlp_bias=True, tie_word_embeddings=False)),
    "apertus": ("apertus", dict(SHAPE, rms_norm_eps=1e-6, tie_word_embeddings=False,
                                rope_parameters=rope(10000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))),
    "olmo": ("olmo", dict(SHAPE, rope_parameters=rope(5000.0), clip_qkv=0.8, tie_word_embeddings=False)),
    # the embedding is narrower than the layers, as OPT-350m's, which also has its norms behind the sub-layers
    "opt": ("opt", dict(hidden_size=32, ffn_dim=56, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, activation_function="gelu", **COMMON)),
    "opt-post": ("opt", dict(hidden_size=32, ffn_dim=56, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, do_layer_norm_before=False, word_embed_proj_dim=24, **COMMON)),
    "falcon": ("falcon", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_hidden_size=56, layer_norm_epsilon=1e-4, max_position_embeddings=256, bias=True,
                              rope_parameters=rope(5000.0), tie_word_embeddings=True, **COMMON)),
    "falcon-new": ("falcon", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True, max_position_embeddings=256, rope_parameters=rope(5000.0),
                                  tie_word_embeddings=False, **COMMON)),
    # neither one key/value head nor parallel
    "falcon-sequential": ("falcon", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, multi_query=False, parallel_attn=False, max_position_embeddings=256, rope_parameters=rope(5000.0),
                                         tie_word_embeddings=True, **COMMON)),
    # six heads: no power of two, for which alibi's slopes differ
    "bloom": ("bloom", dict(hidden_size=24, n_layer=2, n_head=6, layer_norm_epsilon=1e-4, apply_residual_connection_post_layernorm=True, **COMMON)),
    "gpt_bigcode": ("gpt_bigcode", dict(n_embd=32, n_head=4, n_layer=2, n_inner=56, n_positions=256, layer_norm_epsilon=1e-4, **COMMON)),
    "helium": ("helium", dict(SHAPE, num_attention_heads=2, head_dim=16, rms_norm_eps=1e-5, rope_parameters=rope(5000.0), tie_word_embeddings=False)),
    "stablelm-parallel": ("stablelm", dict(SHAPE, hidden_size=48, num_attention_heads=3, num_key_value_heads=1, qk_layernorm=True, use_parallel_residual=True, layer_norm_eps=1e-4,
                                           rope_parameters=rope(5000.0, partial_rotary_factor=0.5), tie_word_embeddings=False)),
}
# a wrapper's adapter reaches its text alone
WRAPPERS = ("gemma3", "mistral3", "qwen2_5_vl", "qwen3_vl")
TEXT_LINEARS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
# transformers saves wrappers with the names that hubs have; `-new` has those of its own modules, which it reads too: beginning → other beginning
NAMES = {
    "gemma3-vision": {"vision_tower.": "vision_tower.vision_model."},  # as Google's files
    "gemma3-vision-new": {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower.", "multi_modal_projector.": "model.multi_modal_projector."},
    "mistral3-new": {"language_model.lm_head.": "lm_head.", "language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower.",
                     "multi_modal_projector.": "model.multi_modal_projector."},
    "qwen2_5_vl-new": {"model.": "model.language_model.", "visual.": "model.visual."},
}
# the second case of each: some of the projections, by name; (q_proj, v_proj) where nothing is said
SOME = {
    **{name: ["qkv_proj", "down_proj"] for name in ("phi3-longrope", "phi3-longrope-short")},
    **{name: ["query_key_value", "dense_4h_to_h"] for name in ("bloom", "falcon", "falcon-new", "falcon-sequential")},
    "glm": ["q_proj", "gate_up_proj"], "glm4": ["v_proj", "gate_up_proj"], "gpt_bigcode": ["c_attn", "c_proj"], "opt": ["q_proj", "fc2"], "opt-post": ["v_proj", "fc1"],
    "starcoder2": ["k_proj", "c_fc"], "arcee": ["o_proj", "up_proj"], "nemotron": ["k_proj", "down_proj"], "apertus": ["q_proj", "up_proj"],
}
