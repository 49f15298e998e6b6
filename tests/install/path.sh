#!/usr/bin/env bash
# Times the way of a new user: a wheel into a fresh environment, the quickstart, its adapter as GGUF.
#
#     bash tests/install/path.sh WHEEL            # a file, or dpo-lora for the package index
#
# Prints the seconds of each command and of all; exits with 1 if one fails or they take more than 180 s. It needs python3 with
# venv. Set LLAMA_SERVER to a llama-server binary to load the adapter into it as well.
set -euo pipefail

wheel=${1:?"name a wheel"}
[ -e "$wheel" ] && wheel=$(realpath "$wheel")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
export XDG_CACHE_HOME="$place/cache"

timed() {
    local begun ended
    begun=$(date +%s.%N)
    "$@" >"$place/said" 2>&1 || { cat "$place/said"; printf 'error: %s failed\n' "$*" >&2; exit 1; }
    ended=$(date +%s.%N)
    printf '%7.1f s  %s\n' "$(echo "$ended - $begun" | bc)" "${*//$place\//}"
}

all=$(date +%s.%N)
python3 -m venv environment
# 1: install. 2: train. 3: export. These are all commands that a user writes.
timed environment/bin/pip install -q --no-deps "$wheel"
export PATH="$place/environment/bin:$PATH"
dpo-lora --version
timed dpo-lora train
timed dpo-lora export --base tiny-reviews --adapter runs/quickstart --format gguf --output adapter.gguf
test -s adapter.gguf
seconds=$(echo "$(date +%s.%N) - $all" | bc)
printf '%7.1f s  from the wheel to adapter.gguf (%s bytes), with %s threads\n' \
    "$seconds" "$(stat -c %s adapter.gguf)" "$(nproc)"
if [ -n "${LLAMA_SERVER:-}" ]; then
    timed dpo-lora merge --base tiny-reviews --adapter runs/quickstart --format gguf --output merged.gguf
    "$LLAMA_SERVER" --version
fi
[ "$(echo "$seconds <= 180" | bc)" = 1 ] || { echo "error: it takes more than 180 s" >&2; exit 1; }
