"""Chat templates in the constructs that well-known models use, with what transformers makes of them."""
import datetime

from jinja2 import TemplateError
from transformers.utils import chat_template_utils

from files import write_json

# `strftime_now` reads a clock: this is what it says here
NOW = datetime.datetime(2025, 3, 9, 17, 5, 0)

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{#- A leading system message is set apart; a remark like this one leaves nothing behind. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN25 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# a namespace written in a backward loop, methods of strings, and `is string`
QWEN3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined and message == user_messages[-1] %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}"""

# content as a list of parts, and an inline condition
GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)

# real line breaks between blocks: what they leave depends on trim_blocks and lstrip_blocks
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

# `{% generation %}`, loop controls, a macro, `.items()` and `| items`
EXTENSIONS = """\
{%- macro turn(role, text='') -%}
    {{- '<' ~ role ~ '>' ~ text -}}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}
    {%- if message.role == 'stop' -%}{%- break -%}{%- endif -%}
    {%- if message.role == 'assistant' -%}
        {{- turn('assistant') -}}
        {%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- turn(message.role, message.content | upper | replace('?', '!')) -}}
    {%- endif -%}
    {%- for key, value in message.items() if key not in ['role', 'content'] -%}
        {{- ' [' ~ key | capitalize ~ '=' ~ value | tojson ~ ']' -}}
    {%- endfor -%}
    {%- for key, value in (message.extra or {}) | items -%}
        {{- loop.index ~ ':' ~ key ~ ',' -}}
    {%- endfor -%}
{%- endfor -%}
{{- '<' + messages | map(attribute='role') | unique | join('|') + '>' -}}
"""


def user(text):
    return dict(role="user", content=text)


def assistant(text, **more):
    return dict(role="assistant", content=text, **more)


def system(text):
    return dict(role="system", content=text)


ONE = [user("Where is the mill?")]
TWO = ONE + [assistant(" Behind the hill. \n"), user("And the hill?\n")]
WITH_SYSTEM = [system("  Be brief. ")] + TWO
UNEVEN = ONE + ONE
TOOL = dict(type="function", function=dict(name="find", description="Finds <places> & \"things\" in 東京, it's quick", parameters=dict(type="object", properties=dict(place=dict(type="string")), required=["place"])))
CALL = dict(type="function", function=dict(name="find", arguments=dict(place="Köln <1>", depth=2, exact=True, near=None, by=1.5)))
WITH_CALL = ONE + [assistant("", tool_calls=[CALL]), dict(role="tool", content="found: 3"), dict(role="tool", content="found: 4"), assistant("There.")]
THINKING = [user("2 + 2?"), assistant("<think>\nfour\n</think>\n\n4"), user("And 3 + 3?"), assistant("<think>\nsix\n</think>\n\n6")]
PARTS = [dict(role="user", content=[dict(type="image"), dict(type="text", text=" What is this? ")]), assistant("A mill.")]

# name → (template, bos_token, eos_token, [(messages, settings)])
GEN = dict(add_generation_prompt=True)
TEMPLATES = {
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", [(ONE, GEN), (WITH_SYSTEM, {}), (TWO, dict(date_string="01 Jan 2020")), (ONE + [assistant("", tool_calls=[CALL]), dict(role="tool", content=dict(found=3, where="東京"))], dict(tools=[TOOL], **GEN)),
                                                          (ONE + [assistant("", tool_calls=[CALL, CALL])], {})]),
    "qwen2.5": (QWEN25, None, "<|im_end|>", [(ONE, GEN), (WITH_SYSTEM, {}), (TWO, dict(tools=[TOOL], **GEN)), (WITH_CALL, {})]),
    "qwen3": (QWEN3, None, "<|im_end|>", [(ONE, GEN), (ONE, dict(enable_thinking=False, **GEN)), (WITH_SYSTEM, {}), (THINKING, {}), (THINKING[:3], GEN), (THINKING[:1] + [assistant("4", reasoning_content="\nfour\n")], {})]),
    "mistral": (MISTRAL, "<s>", "</s>", [(ONE, GEN), (TWO, {}), (WITH_SYSTEM, {}), (UNEVEN, {})]),
    "gemma": (GEMMA, "<bos>", "<eos>", [(ONE, GEN), (TWO, {}), (WITH_SYSTEM, {}), (UNEVEN, {})]),
    "gemma3": (GEMMA3, "<bos>", "<eos>", [(ONE, GEN), (WITH_SYSTEM, {}), (PARTS, {}), ([dict(role="user", content=5)], {})]),
    "phi3": (PHI3, "<s>", "<|endoftext|>", [(ONE, GEN), (TWO, {}), (WITH_SYSTEM, {})]),
    "zephyr": (ZEPHYR, "<s>", "</s>", [(ONE, GEN), (TWO, {}), (WITH_SYSTEM, GEN)]),
    "extensions": (EXTENSIONS, "<s>", "</s>", [(WITH_SYSTEM, {}), (ONE + [dict(role="stop", content="")] + ONE, {}), (ONE + [assistant("x", extra=dict(b=[1, "é"], a={}))], {})]),
}


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def make_templates(out):
    chat_template_utils.datetime = FixedClock
    fixtures = []
    for name, (template, bos, eos, inputs) in TEMPLATES.items():
        special = {key: token for key, token in (("bos_token", bos), ("eos_token", eos)) if token is not None}
        cases = [dict(messages=messages, settings=settings, **render(template, messages, {**special, **settings})) for messages, settings in inputs]
        fixtures.append(dict(name=name, special_tokens=special, template=template, cases=cases))
    chat_template_utils.datetime = datetime.datetime
    write_json(out / "templates.json", dict(now=NOW.isoformat(), templates=fixtures))


def render(template, messages, variables):
    """`rendered`, or what `raise_exception` said as `error`."""
    try:
        texts, _ = chat_template_utils.render_jinja_template(conversations=[messages], chat_template=template, **variables)
        return dict(rendered=texts[0])
    except TemplateError as error:
        return dict(error=str(error))
