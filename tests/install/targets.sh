#!/usr/bin/env bash
# Checks the program and its tests for the other processor of a release, on Linux and macOS: cargo check, and no warning.
#
#     bash tests/install/targets.sh [TARGET...]
#
# It needs rustup, which adds the targets, and no compiler for them: nothing is linked, so the C code of dependencies is left
# out by a stand-in for the compiler. CARGO and PROFILE ("--release" if unset) choose how to check, WHAT ("--all-targets") what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=("$@")
[ $# -gt 0 ] || targets=(aarch64-unknown-linux-gnu aarch64-apple-darwin)
cargo=${CARGO:-cargo}
profile=${PROFILE---release}

# What a dependency's build script made with the stand-in must not meet a real build: a directory of its own.
places=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
export CARGO_TARGET_DIR=$places/targets
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# Makes the file that it is asked for, empty.
cat >"$place/nothing" <<'END'
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        -o) : >"$2" ;;
        *.a) : >"$1" ;;
    esac
    shift
done
END
chmod +x "$place/nothing"

for target in "${targets[@]}"; do
    rustup target add "$target" 2>/dev/null || { echo "error: rustup cannot add $target" >&2; exit 1; }
    name=${target//-/_}
    echo "== $target"
    # A warning is an error.
    env "CC_$name=$place/nothing" "CXX_$name=$place/nothing" "AR_$name=$place/nothing" SDKROOT="$place" \
        $cargo check $profile --target "$target" ${WHAT:---all-targets} 2>&1 | tee "$place/said"
    ! grep -q '^warning' "$place/said" || { echo "error: $target has warnings" >&2; exit 1; }
done
