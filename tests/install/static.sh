#!/usr/bin/env bash
# Builds the static program of a release (musl) and tries it: it needs no library, runs the quickstart, and takes about as long
# as the ordinary program.
#
#     bash tests/install/static.sh [ORDINARY]     # the ordinary program to compare with: the adapter's bytes, and a ratio of times
#
# It needs rustup and musl-gcc (Debian's musl-tools). ROUNDS (3) runs of each alternate; the ratio is that of the medians.
set -euo pipefail
ordinary=${1:+$(realpath "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=x86_64-unknown-linux-musl
# Where chroot is; not every root's path has it.
PATH=$PATH:/usr/sbin:/sbin
for tool in readelf rustup; do command -v $tool >/dev/null || { echo "error: $tool is missing" >&2; exit 1; }; done
command -v musl-gcc >/dev/null || { echo "error: musl-gcc is missing; install musl-tools" >&2; exit 1; }
rustup target add "$target" 2>/dev/null
cargo build --release --locked --target "$target"
places=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
static=$places/$target/release/dpo-lora

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# A static program has no interpreter and needs no library.
headers=$(readelf -lW "$static")
needs=$(readelf -dW "$static")
if [ "${headers/LOAD/}" = "$headers" ]; then
    echo "error: readelf shows no program headers of $static" >&2
    exit 1
fi
if [ "${headers/INTERP/}" != "$headers" ] || [ "${needs/NEEDED/}" != "$needs" ]; then
    echo "error: $static needs libraries" >&2
    exit 1
fi
printf 'static: %s MB\n' "$(stat -c %s "$static" | awk '{ printf "%.1f", $1 / 1e6 }')"
# Nothing of this system is in reach of it, if this user may say so.
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$place/root/tmp"
    cp "$static" "$place/root/dpo-lora"
    env -i HOME=/ "$(command -v chroot)" "$place/root" /dpo-lora train --output /run >"$place/said" 2>&1 || { tail "$place/said" >&2; exit 1; }
    tail -n 1 "$place/said"
else
    echo "not root: the program was not tried in an empty root directory"
fi

quickstart() {
    local begun ended
    begun=$(date +%s%N)
    (cd "$place" && XDG_CACHE_HOME="$place/cache-$2" "$1" train --output "$2" --overwrite >"$place/said-$2" 2>&1) || { tail "$place/said-$2" >&2; exit 1; }
    ended=$(date +%s%N)
    awk "BEGIN { print ($ended - $begun) / 1e9 }" >>"$place/times-$2"
}
median() { sort -n "$1" | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'; }
quickstart "$static" static
test -s "$place/static/adapter/adapter_model.safetensors"
if [ -n "$ordinary" ]; then
    quickstart "$ordinary" ordinary
    # exp, ln and cos are those of the C library.
    bytes="same bytes"
    cmp -s "$place"/{static,ordinary}/adapter/adapter_model.safetensors || bytes="other bytes"
    rm "$place"/times-*
    for _ in $(seq "${ROUNDS:-3}"); do
        quickstart "$static" static
        quickstart "$ordinary" ordinary
    done
    awk "BEGIN { a = $(median "$place/times-static"); b = $(median "$place/times-ordinary")
                 printf \"$bytes; static %.2f s, ordinary %.2f s, ratio %.3f\\n\", a, b, a / b }"
fi
