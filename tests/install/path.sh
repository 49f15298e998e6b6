#!/usr/bin/env bash
# Times the way of a new user: from nothing to an adapter of their own in llama.cpp, in four commands.
#
#     bash tests/install/path.sh WHEEL              # a file, or dpo-lora for the package index; at most 180 s
#     bash tests/install/path.sh WHEEL BASE.gguf    # an adapter beside this base; else the quickstart's, merged
#     bash tests/install/path.sh --source [BASE.gguf]   # built from this checkout, crates and all; at most 420 s
#
# Prints the seconds of each command and of all; exits with 1 if one fails, if llama.cpp does not give the adapter's answers, or
# if they take longer than that. It needs python3 with venv, and llama.cpp as the package xllamacpp: LLAMA_PYTHON names a Python
# that has it (python3 if it is not set).
set -euo pipefail

tests=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$tests/../.." && pwd)
wheel=${1:?"name a wheel, or --source"}
base=${2:-}
[ -e "$wheel" ] && wheel=$(realpath "$wheel")
[ -n "$base" ] && base=$(realpath "$base")
llama=$(command -v "${LLAMA_PYTHON:-python3}")
"$llama" -c "import xllamacpp" || { echo "error: $llama has no xllamacpp; set LLAMA_PYTHON" >&2; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
export XDG_CACHE_HOME="$place/cache"

commands=0
timed() {
    local begun ended
    begun=$(date +%s.%N)
    "$@" >"$place/said" 2>&1 || { cat "$place/said"; printf 'error: %s failed\n' "$*" >&2; exit 1; }
    ended=$(date +%s.%N)
    commands=$((commands + 1))
    shown=${*//$place\//}
    printf '%7.1f s  %s\n' "$(echo "$ended - $begun" | bc)" "${shown//$source\//}"
}

python3 -m venv environment
all=$(date +%s.%N)
if [ "$wheel" = --source ]; then
    most=420
    CARGO_TARGET_DIR="$place/target" timed cargo install --quiet --locked --path "$source" --root "$place/environment"
else
    most=180
    timed environment/bin/pip install --quiet --no-deps "$wheel"
fi
export PATH="$place/environment/bin:$PATH"
if [ -n "$base" ]; then
    timed dpo-lora train --base "$base" --data tiny-reviews/train.jsonl --eval-data tiny-reviews/eval.jsonl --set data.limit=64
    timed dpo-lora export --base "$base" --adapter runs/dpo --format gguf --output mine.gguf
    timed "$llama" "$tests/llama_cpp.py" "$base" --lora mine.gguf
else
    timed dpo-lora train
    timed dpo-lora merge --base tiny-reviews --adapter runs/quickstart --format gguf --output mine.gguf
    timed "$llama" "$tests/llama_cpp.py" mine.gguf --as tiny-reviews runs/quickstart
fi
seconds=$(echo "$(date +%s.%N) - $all" | bc)
tail -n 1 "$place/said"
printf '%7.1f s  for %s commands with dpo-lora %s, on %s threads; load of the machine: %s\n' \
    "$seconds" "$commands" "$(dpo-lora --version | cut -d' ' -f2)" "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)"
[ "$(echo "$seconds <= $most" | bc)" = 1 ] || { echo "error: that is more than $most s" >&2; exit 1; }
