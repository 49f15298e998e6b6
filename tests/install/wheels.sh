#!/usr/bin/env bash
# Builds the Linux wheels of a release and tries them: .github/workflows/release.yml runs this.
#
#     bash tests/install/wheels.sh [TARGET...]     # x86_64-unknown-linux-gnu and aarch64-unknown-linux-gnu
#
# The wheels go to OUT (target/wheels) and run with glibc 2.17 of 2014 (manylinux2014); Zig compiles and links for it. Prints
# the size of each, the newest symbol of glibc that it uses, and the seconds of its quickstart. It needs rustup, python3 with
# venv, and pip, which fetches maturin and Zig. A wheel of another processor runs under QEMU, where that is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=("$@")
[ $# -gt 0 ] || targets=(x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu)
out=${OUT:-target/wheels}
mkdir -p "$out"
out=$(realpath "$out")
python=$(command -v python3)

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# TOOLS: where an environment with both is, or is made and kept.
tools=${TOOLS:-$place/tools}
if [ ! -x "$tools/bin/maturin" ]; then
    "$python" -m venv "$tools"
    "$tools/bin/pip" install --quiet maturin==1.16.0 ziglang==0.15.2
fi
export PATH="$tools/bin:$PATH"

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

megabytes() { stat -c %s "$1" | awk '{ printf "%.1f", $1 / 1e6 }'; }

# The largest version of glibc's symbols that a program asks for.
newest() { readelf --version-info --wide "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1; }

# Under QEMU a step takes thousands of times as long: four small ones stand for the quickstart.
short=(--set data.eval=null --set train.sample_prompts=0 --set train.per_device_train_batch_size=2 --set train.max_steps=4)

# The quickstart, in a directory of its own, by a command.
quickstart() {
    mkdir "$place/run"
    (cd "$place/run" && XDG_CACHE_HOME="$place/run/cache" "$@" >said 2>&1) || { tail "$place/run/said"; exit 1; }
    test -s "$place/run/runs/quickstart/adapter/adapter_model.safetensors"
    rm -r "$place/run"
}

for target in "${targets[@]}"; do
    rustup target add "$target" 2>/dev/null || fail "rustup cannot add $target"
    rm -rf "$place/wheel"
    maturin build --quiet --release --locked --zig --compatibility manylinux2014 --target "$target" --out "$place/wheel"
    wheel=$(echo "$place"/wheel/*.whl)
    processor=${target%%-*}
    case $wheel in
        # Two names of the same, in either order.
        *-py3-none-manylinux_2_17_"$processor".manylinux2014_"$processor".whl) ;;
        *-py3-none-manylinux2014_"$processor".manylinux_2_17_"$processor".whl) ;;
        *) fail "$wheel has other tags than py3-none, manylinux_2_17_$processor and manylinux2014_$processor" ;;
    esac
    "$python" -m zipfile -e "$wheel" "$place/wheel/content"
    program=$(echo "$place"/wheel/content/dpo_lora-*.data/scripts/dpo-lora)
    chmod +x "$program"
    symbols=$(newest "$program")
    [ "$(printf '%s\nGLIBC_2.17\n' "$symbols" | sort -V | tail -n 1)" = GLIBC_2.17 ] || fail "$program needs $symbols"
    # The package index refuses files of more than 100 MB.
    bytes=$(stat -c %s "$wheel")
    [ "$bytes" -lt 100000000 ] || fail "$wheel has $bytes bytes"

    begun=$SECONDS
    if [ "$processor" = "$(uname -m)" ]; then
        "$python" -m venv "$place/wheel/fresh"
        "$place/wheel/fresh/bin/pip" install --quiet --no-index "$wheel"
        quickstart "$place/wheel/fresh/bin/dpo-lora" train
        "$place/wheel/fresh/bin/python" tests/install/python.py 2>"$place/said" || { cat "$place/said"; exit 1; }
        how="quickstart and Python module in a fresh environment"
    elif command -v "qemu-$processor" >/dev/null && [ -d "/usr/$processor-linux-gnu" ]; then
        quickstart "qemu-$processor" -L "/usr/$processor-linux-gnu" -cpu max "$program" train "${short[@]}"
        how="four steps of the quickstart under QEMU"
    else
        how="not run: no qemu-$processor, or no libraries of $target"
    fi
    printf '%s: %s MB, program %s MB, newest symbol %s; %s: %s s\n' "$(basename "$wheel")" \
        "$(megabytes "$wheel")" "$(megabytes "$program")" "$symbols" "$how" "$((SECONDS - begun))"
    mv "$wheel" "$out"
done
