#!/bin/sh
# Compiles all kernels for the CPU through shim.h: build_host.sh OUT.so [CXX flags...]. The functions are emu_NAME.
# KERNELS is the folder of the sources, if not the repository's.
set -eu
out=${1:?usage: build_host.sh OUT.so}
shift
here=$(cd "$(dirname "$0")" && pwd)
kernels=${KERNELS:-$here/../../src/device/kernels}
cxx=${CXX:-g++}
if ! command -v "$cxx" >/dev/null 2>&1; then
    echo "build_host.sh: no C++ compiler ($cxx); install g++ or set CXX" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jobs=
for file in "$kernels"/*.cu; do
    "$cxx" -O3 -std=c++17 -fPIC -fvisibility-inlines-hidden -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Wno-maybe-uninitialized -Wno-uninitialized -DHOST_SHIM -I"$here" -I"$kernels" "$@" \
        -x c++ -c "$file" -o "$work/$(basename "$file" .cu).o" &
    jobs="$jobs $!"
done
for job in $jobs; do
    wait "$job"
done
"$cxx" -shared -o "$out" "$work"/*.o
