#!/usr/bin/env bash
# Fuzzes every target for so many seconds of CPU, and tells what came of it.
#
#   RUSTC_BOOTSTRAP=1 cargo fuzz build --sanitizer none
#   bash fuzz/run.sh SECONDS [TARGET ...]
#
# JOBS (2) targets at a time, in rounds of ROUND (300) seconds. The processor's time is counted, so a busy machine only makes it
# last longer. It can be stopped (SIGINT, SIGTERM) and goes on where it was when started again: counts, grown corpora and
# findings are in STATE (fuzz/state). BIN is where the built targets are. SECONDS=0 only prints the table.
set -euo pipefail
shopt -s nullglob
here=$(cd "$(dirname "$0")" && pwd)
wanted=${1:?"how many seconds of CPU for each target?"}
shift
state=${STATE:-$here/state}
bin=${BIN:-$here/target/$(uname -m)-unknown-linux-gnu/release}
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    # Those that read binary files and other people's models first.
    targets=(gguf gguf_model safetensors parquet tokenizer vocabulary config_json adapter index template checkpoint reference dataset
        records json csv filter run_config)
fi

count() { local files=("$1"/*); echo ${#files[@]}; }

# Sums of a target's rounds: CPU seconds, executions.
spent() { awk '{ cpu += $1; runs += $2 } END { printf "%.1f %d\n", cpu, runs }' "$state/$1/rounds" 2> /dev/null || echo "0 0"; }

# One target, round after round. A round that ends with a finding is followed by another, until there are five.
fuzz() {
    local target=$1 place=$state/$1 child=0 stop=0 code cpu runs seconds
    mkdir -p "$place/corpus" "$place/findings"
    cp -n "$here/corpus/$target"/* "$place/corpus/" 2> /dev/null || true
    touch "$place/rounds"
    # At this signal libFuzzer ends as if its time were over, and tells its counts.
    trap 'stop=1; kill -USR1 $child 2> /dev/null' TERM
    while [ $stop = 0 ] && [ "$(count "$place/findings")" -lt 5 ]; do
        read -r cpu runs < <(spent "$target")
        if awk -v cpu="$cpu" -v wanted="$wanted" 'BEGIN { exit !(cpu >= wanted) }'; then break; fi
        # Never longer than an idle machine would need.
        seconds=$(awk -v left="$((wanted + 1))" -v cpu="$cpu" -v most="${ROUND:-300}" \
            'BEGIN { left -= int(cpu); print left < most ? left : most }')
        # What compares bytes by hand opens up to value profiles, which cost speed: every second round.
        RUST_BACKTRACE=1 "$bin/$target" "$place/corpus" -artifact_prefix="$place/findings/" -max_len=8192 -timeout=60 \
            -report_slow_units=60 -rss_limit_mb=3000 -max_total_time="$seconds" \
            -use_value_profile=$(($(wc -l < "$place/rounds") % 2)) -print_final_stats=1 -verbosity=1 > "$place/log" 2>&1 &
        child=$!
        # The clock ticks of the child are read until it is gone; `times` would mix in everything else.
        cpu=0
        while kill -0 $child 2> /dev/null; do
            # After the name in brackets: utime and stime are fields 12 and 13.
            runs=$(sed 's/.*) //' "/proc/$child/stat" 2> /dev/null | awk '{ print $12 + $13 }') || true
            cpu=${runs:-$cpu}
            sleep 0.5 || true
        done
        code=0
        wait $child || code=$?
        rm -rf "/dev/shm/dpo-lora-fuzz-$child" "${TMPDIR:-/tmp}/dpo-lora-fuzz-$child"
        runs=$(awk '/number_of_executed_units/ { print $2 }' "$place/log")
        awk -v ticks="$cpu" -v hz="$(getconf CLK_TCK)" -v runs="${runs:-0}" -v code="$code" \
            'BEGIN { printf "%.2f %d %d\n", ticks / hz, runs, code }' >> "$place/rounds"
        # Of a round with a finding the log is kept beside it.
        if [ $code != 0 ] && [ $stop = 0 ]; then cp "$place/log" "$place/log-$(wc -l < "$place/rounds")"; fi
    done
}

table() {
    printf '%-12s %12s %12s %9s %14s %s\n' target "CPU seconds" executions findings "corpus growth" "failed rounds"
    for target in "${targets[@]}"; do
        local place=$state/$target cpu runs
        read -r cpu runs < <(spent "$target")
        printf '%-12s %12s %12s %9s %14s %s\n' "$target" "$cpu" "$runs" "$(count "$place/findings")" \
            "$(($(count "$place/corpus") > 0 ? $(count "$place/corpus") - $(count "$here/corpus/$target") : 0))" \
            "$(awk '$3 != 0 { n += 1 } END { print n + 0 }' "$place/rounds" 2> /dev/null || echo 0)"
    done
}

workers=()
stopped=0
trap 'stopped=1; [ ${#workers[@]} = 0 ] || kill -TERM "${workers[@]}" 2> /dev/null' INT TERM
if [ "$wanted" != 0 ]; then
    for target in "${targets[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ] && [ $stopped = 0 ]; do wait -n || true; done
        [ $stopped = 0 ] || break
        fuzz "$target" &
        workers+=($!)
    done
    while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait || true; done
fi
table
