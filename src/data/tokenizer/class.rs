//! Selects the transformers class that reads a tokenizer, as `AutoTokenizer` of transformers 5.24 does
//! (`models/auto/tokenization_auto.py`).
//!
//! Most classes use `tokenizer.json` unchanged. Some use only its vocabulary and merges and define their own
//! normalizer, pre-tokenizer and decoder. The class depends on `tokenizer_class` and on the model's type.

use crate::error::{Error, Result};

/// The class that reads the tokenizer's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `TokenizersBackend` (`PreTrainedTokenizerFast`): uses the file unchanged.
    Backend,
    /// `GPT2Tokenizer`.
    Gpt2,
    /// `Qwen2Tokenizer`.
    Qwen2,
    /// `Qwen3_5Tokenizer`.
    Qwen35,
    /// `GPTNeoXTokenizer`.
    GptNeoX,
    /// `CohereTokenizer`.
    Cohere,
    /// `LlamaTokenizer`.
    Llama,
    /// `CodeLlamaTokenizer`.
    CodeLlama,
    /// `GemmaTokenizer`.
    Gemma,
}

/// The inputs that determine the class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Declared<'a> {
    /// `tokenizer_class` of `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a str>,
    /// `tokenizer_class` of `config.json`.
    pub model_config: Option<&'a str>,
    /// `model_type` of `config.json`.
    pub model_type: Option<&'a str>,
    /// Whether `tokenizer_config.json` refers to custom code (`auto_map.AutoTokenizer`).
    pub remote_code: bool,
    /// Whether `tokenizer.json` is byte-level.
    pub byte_level: bool,
}

/// Class names without the suffix `Fast`.
const NAMES: &[(&str, Class)] = &[
    ("TokenizersBackend", Class::Backend),
    ("PreTrainedTokenizer", Class::Backend),
    ("PythonBackend", Class::Backend),
    ("BloomTokenizer", Class::Backend),
    ("GPT2Tokenizer", Class::Gpt2),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("Qwen3_5Tokenizer", Class::Qwen35),
    ("GPTNeoXTokenizer", Class::GptNeoX),
    ("CohereTokenizer", Class::Cohere),
    ("LlamaTokenizer", Class::Llama),
    ("CodeLlamaTokenizer", Class::CodeLlama),
    ("GemmaTokenizer", Class::Gemma),
];

/// transformers classes that rebuild or override the contents of `tokenizer.json` in ways that are not implemented
/// here.
const OTHERS: &str = "AlbertTokenizer BartTokenizer BarthezTokenizer BartphoTokenizer BertGenerationTokenizer \
    BertJapaneseTokenizer BertTokenizer BertweetTokenizer BigBirdTokenizer BioGptTokenizer \
    BlenderbotSmallTokenizer BlenderbotTokenizer ByT5Tokenizer CLIPTokenizer CTRLTokenizer \
    CamembertTokenizer CanineTokenizer ClvpTokenizer CodeGenTokenizer CpmAntTokenizer CpmTokenizer \
    DPRContextEncoderTokenizer DPRQuestionEncoderTokenizer DPRReaderTokenizer DebertaTokenizer \
    DebertaV2Tokenizer DiaTokenizer DistilBertTokenizer EsmTokenizer EsmcTokenizer FSMTTokenizer \
    FastSpeech2ConformerTokenizer FlaubertTokenizer FunnelTokenizer GPTNeoXJapaneseTokenizer \
    GPTSw3Tokenizer HerbertTokenizer LEDTokenizer LasrTokenizer LayoutLMv2Tokenizer LayoutLMv3Tokenizer \
    LayoutXLMTokenizer LukeTokenizer LxmertTokenizer M2M100Tokenizer MBart50Tokenizer MBartTokenizer \
    MLukeTokenizer MPNetTokenizer MarianTokenizer MarkupLMTokenizer MgpstrTokenizer MistralCommonBackend \
    MobileBertTokenizer MvpTokenizer MyT5Tokenizer NllbTokenizer NougatTokenizer OpenAIGPTTokenizer \
    PLBartTokenizer PegasusTokenizer PerceiverTokenizer PhobertTokenizer Pop2PianoTokenizer \
    ProphetNetTokenizer RagTokenizer ReformerTokenizer RemBertTokenizer RoCBertTokenizer \
    RoFormerTokenizer RobertaTokenizer SeamlessM4TTokenizer Siglip2Tokenizer SiglipTokenizer \
    Speech2TextTokenizer SpeechT5Tokenizer SplinterTokenizer SqueezeBertTokenizer T5Tokenizer \
    TapasTokenizer Tipsv2Tokenizer UdopTokenizer VideoPrismTokenizer VitsTokenizer Wav2Vec2CTCTokenizer \
    Wav2Vec2PhonemeCTCTokenizer WhisperTokenizer XGLMTokenizer XLMRobertaTokenizer XLMTokenizer \
    XLNetTokenizer";

/// `TOKENIZER_MAPPING_NAMES` without `mistral-common`: the class for each model type.
const BY_TYPE: &[(Class, &str)] = &[
    (
        Class::Backend,
        "arctic aria chatlm ernie4_5 ernie4_5_moe flex_olmo fuyu glm glm4 glm4_moe glm4_moe_lite glm4v \
         glm4v_moe glm_image glmasr got_ocr2 gpt_bigcode granite granitemoe granitemoehybrid granitemoeshared \
         h2ovl_chat hyperclovax hyperclovax_vlm internlm2 internlm3 iquestcoder jamba kimi_k25 kimi_linear \
         kosmos-2 llava llava_next mimo_v2_flash minicpm3 minicpm_ocr minicpmv minicpmv4_6 minicpmv4_7 \
         minimax_m2 ministral ministral3 mistral mistral3 mistral_large4 mixtral modernbert \
         modernbert-decoder molmo molmo2 nemotron nvfp4 olmo2 olmo3 olmo_hybrid opencua openvla paddleocr_vl \
         persimmon phi3 phi3_v phimoe pixtral smolvlm stablelm step3_vl vipllava voxtral voxtral_realtime",
    ),
    (
        Class::Gpt2,
        "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo \
         jais2 opt phi starcoder2",
    ),
    (
        Class::Qwen2,
        "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl lighton_ocr \
         moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe \
         qwen2_vl qwen3 qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice",
    ),
    (Class::Qwen35, "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp"),
    (Class::GptNeoX, "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm"),
    (Class::Cohere, "aya_vision cohere cohere2"),
    (Class::Llama, "idefics idefics2"),
    (Class::CodeLlama, "code_llama"),
    (
        Class::Gemma,
        "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 \
         t5gemma zaya",
    ),
];

/// `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`: model types whose registered class takes precedence over the declared
/// one.
const DECLARED_WRONG: &str = "arctic camembertv2-base chatlm cohere_asr ernie4_5 ernie4_5_moe fuyu h2ovl_chat hyperclovax \
    hyperclovax_vision_v2 hyperclovax_vlm internlm2 internlm3 iquestcoder jamba llava llava_next \
    minicpm3 minicpmv minimax_m2 modernbert modernbert-decoder molmo molmo2 nemotron nvfp4 opencua \
    openvla paddleocr_vl phi3 phi3_v phimoe qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp siglip2 \
    smolvlm step3_vl vipllava";

/// Whether `word` is one of `words`.
fn among(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

fn without_fast(name: &str) -> &str {
    name.strip_suffix("Fast").unwrap_or(name)
}

/// `tokenizer_class_from_name`: returns `None` for a name that transformers does not know.
fn named(name: &str) -> Result<Option<Class>> {
    let bare = without_fast(name);
    if among(OTHERS, bare) {
        return Err(Error::Data(format!(
            "the tokenizer's class {name} rebuilds tokenizer.json in a way that is not supported; save the tokenizer as a \
             PreTrainedTokenizerFast and set tokenizer_class to that"
        )));
    }
    Ok(NAMES.iter().find(|(known, _)| *known == bare).map(|(_, class)| *class))
}

impl Class {
    /// Returns the class that `AutoTokenizer` chooses.
    ///
    /// # Errors
    /// Fails if the class is not supported or exists only in the model's custom code.
    pub fn choose(declared: Declared) -> Result<Self> {
        let model_type = declared.model_type.filter(|model_type| !model_type.is_empty());
        let registered = model_type.and_then(|model_type| {
            BY_TYPE.iter().find(|(_, types)| among(types, model_type)).map(|(class, _)| *class)
        });
        let wrong = model_type.is_some_and(|model_type| among(DECLARED_WRONG, model_type));
        let hub = declared.tokenizer_config.or(declared.model_config);
        if let (Some(hub), false) = (hub, declared.remote_code) {
            if without_fast(hub) == "LlamaTokenizer" && !wrong && declared.byte_level {
                return Ok(Self::Backend);
            }
            match registered {
                Some(Self::Backend) if without_fast(hub) != "TokenizersBackend" => return Ok(Self::Backend),
                Some(registered) if named(hub).ok().flatten() != Some(registered) => {
                    return Ok(if wrong { registered } else { named(hub)?.unwrap_or(Self::Backend) });
                }
                _ => {}
            }
        }
        match (declared.tokenizer_config, declared.model_config) {
            (Some(name), _) => match named(name)? {
                None if declared.remote_code => Err(Error::Data(format!(
                    "the tokenizer's class {name} is code of the model's repository (auto_map), which is not run; save the \
                     tokenizer as a PreTrainedTokenizerFast"
                ))),
                class => Ok(class.unwrap_or(Self::Backend)),
            },
            (None, Some(name)) => named(name)?.ok_or_else(|| {
                Error::Data(format!(
                    "config.json names the tokenizer's class {name}, which transformers does not have; name one in \
                     tokenizer_config.json"
                ))
            }),
            // No configuration has the type code_llama, so its class is never found by the type.
            (None, None) => Ok(registered.filter(|class| *class != Self::CodeLlama).unwrap_or(Self::Backend)),
        }
    }

    /// Returns the default special tokens of the class, used where the configuration names none.
    pub fn defaults(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::Backend => &[],
            Self::Gpt2 => &[("unk_token", END), ("bos_token", END), ("eos_token", END)],
            Self::Qwen2 | Self::Qwen35 => &[("unk_token", END), ("eos_token", END), ("pad_token", END)],
            Self::GptNeoX => {
                &[("unk_token", END), ("bos_token", END), ("eos_token", END), ("pad_token", "<|padding|>")]
            }
            Self::Cohere => &[
                ("unk_token", "<UNK>"),
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("sep_token", "<SEP>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::CodeLlama => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
                ("fill_token", "<FILL_ME>"),
            ],
            Self::Gemma => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
        }
    }
}
