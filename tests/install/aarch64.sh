#!/usr/bin/env bash
# Runs the tests of the operations and the quickstart as an Arm program, under QEMU's processor with every extension, and
# again without the matrix instructions.
#
#     bash tests/install/aarch64.sh             # tests and quickstart
#     bash tests/install/aarch64.sh counts      # only the instructions of the inner loops, from the disassembly
#
# It needs the Rust target aarch64-unknown-linux-gnu and, from Debian, gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu and
# qemu-user. CARGO and PROFILE ("--release" if unset) choose how to build. The tests of QEMU take minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=aarch64-unknown-linux-gnu
cargo=${CARGO:-cargo}
profile=${PROFILE---release}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
emulator() { printf 'qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu %s' "$1"; }
places=$($cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
built=$places/$target/$([ "$profile" = --release ] && echo release || echo debug)

$cargo build $profile --target "$target"

if [ "${1:-}" = counts ]; then
    aarch64-linux-gnu-objdump -d --no-show-raw-insn -C "$built/dpo-lora" | python3 tests/install/inner_loops.py
    exit
fi

# cortex-a72 has neither dot products nor matrix instructions.
for cpu in max cortex-a72; do
    run=$(emulator "$cpu")
    echo "== $cpu: $($run "$built/dpo-lora" devices | head -1)"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$run $cargo test $profile --target "$target" --lib -- ops::
done

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for cpu in max cortex-a72; do
    echo "== quickstart, $cpu"
    (mkdir "$place/$cpu" && cd "$place/$cpu" && XDG_CACHE_HOME="$place/$cpu" $(emulator "$cpu") "$built/dpo-lora" train)
    test -s "$place/$cpu/runs/quickstart/adapter/adapter_model.safetensors"
done
