#!/usr/bin/env bash
# Runs the tests of the operations and of the GPU's kernels, and four steps of the quickstart, as an Arm program under QEMU: with every
# extension, and on a Cortex-A72, which has no bf16, no matrices and no dot products.
#
#     bash tests/install/aarch64.sh                        # all of it
#     bash tests/install/aarch64.sh ops|kernels|quickstart # a part of it
#     bash tests/install/aarch64.sh counts                 # only the instructions of the inner loops, from the disassembly
#     bash tests/install/aarch64.sh whole                  # the whole quickstart on a Cortex-A72, which takes an hour
#
# It needs the Rust target aarch64-unknown-linux-gnu and, from Debian, gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu and
# qemu-user. CARGO and PROFILE ("--release" if unset) choose how to build, CPUS the processors. ORDINARY names a program of
# this machine: the adapters of its sets of instructions are compared with those of Arm's.
set -euo pipefail
ordinary=${ORDINARY:+$(realpath "$ORDINARY")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

part=${1:-all}
target=aarch64-unknown-linux-gnu
cargo=${CARGO:-cargo}
profile=${PROFILE---release}
read -ra cpus <<<"${CPUS:-max cortex-a72}"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
emulator() { printf 'qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu %s' "$1"; }
places=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
built=$places/$target/$([ "$profile" = --release ] && echo release || echo debug)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
asked() { [ "$part" = "$1" ] || [ "$part" = all ]; }

if asked counts || asked quickstart || [ "$part" = whole ]; then
    $cargo build $profile --target "$target"
fi
if asked counts; then
    aarch64-linux-gnu-objdump -d --no-show-raw-insn -C "$built/dpo-lora" | python3 tests/install/inner_loops.py
fi

tests() {
    local cpu
    for cpu in "${cpus[@]}"; do
        echo "== $cpu: $*"
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$(emulator "$cpu") $cargo test $profile --target "$target" "$@"
    done
}
if asked ops; then
    tests --lib -- ops::
fi
if asked kernels; then
    CXX=aarch64-linux-gnu-g++ sh tests/device/build_host.sh "$place/kernels.so"
    export DPO_LORA_HOST_KERNELS=$place/kernels.so
    # That test starts itself as other processes, which the emulator does not follow: what it compares is compared here.
    tests --test kernels -- --skip orders::orders_give_the_same_bits
    all=("${cpus[@]}")
    for cpu in "${all[@]}"; do
        cpus=("$cpu")
        for order in "forward late" "backward late" "shuffled late" "forward early"; do
            read -r SHIM_ORDER SHIM_ASYNC <<<"$order"
            export SHIM_ORDER SHIM_ASYNC
            tests --test kernels -- --exact orders::in_an_order --nocapture 2>&1 | grep -o 'outputs: .*'
        done | sort | uniq -c | awk '{ print "same outputs in", $1, "of 4 orders"; } $1 != 4 { exit 1 }'
    done
    cpus=("${all[@]}")
    unset SHIM_ORDER SHIM_ASYNC
fi

# Under QEMU a step takes thousands of times as long: four small ones stand for the quickstart.
short=(--set data.eval=null --set train.sample_prompts=0 --set train.per_device_train_batch_size=2 --set train.max_steps=4)

# Prints the hash of the adapter that a program makes, and the losses.
quickstart() {
    local name=$1
    shift
    mkdir "$place/$name"
    (cd "$place/$name" && XDG_CACHE_HOME="$place/$name" "$@" train --set train.logging_steps=1 "${short[@]}" >said 2>&1) || { tail "$place/$name/said"; exit 1; }
    printf '%s  %s: %s\n' "$(sha256sum "$place/$name/runs/quickstart/adapter/adapter_model.safetensors" | cut -c1-16)" "$name" \
        "$(grep -o ' loss [0-9.]*' "$place/$name/said" | tr -d '\n')"
}
if [ "$part" = whole ]; then
    (cd "$place" && XDG_CACHE_HOME="$place" $(emulator cortex-a72) "$built/dpo-lora" train)
fi
if asked quickstart; then
    for cpu in "${cpus[@]}"; do
        echo "== quickstart, $cpu: $($(emulator "$cpu") "$built/dpo-lora" devices | head -1)"
        quickstart "arm-$cpu" $(emulator "$cpu") "$built/dpo-lora"
    done
    if [ -n "$ordinary" ]; then
        for isa in portable avx2 avx512; do
            DPO_LORA_ISA=$isa "$ordinary" devices >/dev/null && DPO_LORA_ISA=$isa quickstart "here-$isa" "$ordinary"
        done
    fi
fi
