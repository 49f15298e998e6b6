"""A tiny byte-level BPE tokenizer in two flavours: one that adds BOS (as Llama's do), one that does not (as Qwen's)."""
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from corpus import TOKENIZER_CORPUS

VOCAB_SIZE = 320
SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = 'You are a helpful assistant.' -%}
    {%- set turns = messages -%}
{%- endif -%}
{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}
{%- for message in turns -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def make_tokenizers(out):
    """Writes `tokenizer/` (BOS; template inside tokenizer_config.json) and `tokenizer-nobos/` (template as a file)."""
    for name, add_bos in [("tokenizer", True), ("tokenizer-nobos", False)]:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE, special_tokens=SPECIAL, show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        bpe.train_from_iterator(TOKENIZER_CORPUS, trainer)
        assert bpe.get_vocab_size() == VOCAB_SIZE, bpe.get_vocab_size()
        byte_level = processors.ByteLevel(trim_offsets=False)
        add = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS_ID)])
        bpe.post_processor = processors.Sequence([byte_level, add]) if add_bos else byte_level
        fast = PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            additional_special_tokens=SPECIAL[3:], chat_template=CHAT_TEMPLATE,
            clean_up_tokenization_spaces=False, model_max_length=256,
        )
        fast.save_pretrained(out / name, save_jinja_files=not add_bos)
