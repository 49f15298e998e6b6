#!/usr/bin/env bash
# Minutes of training on the embedded tiny-reviews with evaluation and checkpoints; memory and descriptors every 10 s, the
# first quarter of the time against the last. `soak.sh [MINUTES [PROGRAM [SAMPLES]]]`; one thread; SAMPLES keeps the figures.
#
# What was used stays with the process, so its memory is that of the largest micro-batch so far. Shuffled pairs may bring a
# larger one after half an hour: 148 MB at first, 168 MB then, 170 MB for the 16 longest pairs alone. Grouped by length every
# epoch has a batch of the longest, and what still grows after a minute is a leak.
set -euo pipefail
minutes=${1:-40}
program=$(realpath "${2:-${CARGO_TARGET_DIR:-target}/release/dpo-lora}")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
samples=$(realpath "${3:-$place/samples}")
cd "$place"
export XDG_CACHE_HOME=$place/cache
"$program" -q train --set output_dir=soak --set train.threads=1 --set train.max_steps=100000000 --set train.eval_steps=50 \
    --set train.save_steps=25 --set train.learning_rate=1.0e-6 --set train.load_best_model_at_end=true \
    --set train.group_by_length=true > said 2>&1 &
child=$!
trap 'kill "$child" 2> /dev/null || true; rm -rf "$place"' EXIT
# A field of the child's status, in kB where it is memory; 0 if it is gone.
field() { awk -v name="$1:" '$1 == name { found = $2 } END { print found + 0 }' "/proc/$child/status" 2> /dev/null || echo 0; }
: > "$samples"
end=$((SECONDS + minutes * 60))
while [ $SECONDS -lt $end ] && kill -0 "$child" 2> /dev/null; do
    sleep 10
    # Resident and anonymous memory, the peak of resident memory since the last sample, threads, descriptors.
    echo "$SECONDS $(field VmRSS) $(field RssAnon) $(field VmHWM) $(field Threads) $(ls "/proc/$child/fd" | wc -l)" >> "$samples"
    # The kernel begins a new peak.
    echo 5 > "/proc/$child/clear_refs"
done
kill -TERM "$child"
code=0
wait "$child" || code=$?
tail -n 3 said
lines=$(wc -l < soak/metrics.jsonl)
checkpoints=$(ls soak/checkpoints | wc -l)
awk -v lines="$lines" -v checkpoints="$checkpoints" -v code="$code" '
    { time[NR] = $1; rss[NR] = $2; anonymous[NR] = $3; peaks[NR] = $4; threads[NR] = $5; fds[NR] = $6 }
    function mean(values, from, to,   sum, i) { for (i = from; i <= to; i++) sum += values[i]; return sum / (to - from + 1) }
    function most(values, from, to,   top, i) { for (i = from; i <= to; i++) if (values[i] > top) top = values[i]; return top }
    function wrong(what) { print "error: " what; failed = 1 }
    END {
        quarter = int(NR / 4)
        if (quarter < 1) { print "error: too few samples"; exit 1 }
        # The first minute warms up: buffers, the first evaluation and checkpoint.
        first = quarter > 7 ? 7 : 1
        last = NR - quarter + 1
        printf "%d samples over %d s; %d log lines, %d checkpoints kept, exit code %d\n", NR, time[NR], lines, checkpoints, code
        printf "resident kB: first quarter mean %.0f, last %.0f\n", mean(rss, first, quarter), mean(rss, last, NR)
        printf "anonymous kB: first quarter mean %.0f most %.0f, last mean %.0f most %.0f\n", mean(anonymous, first, quarter),
            most(anonymous, first, quarter), mean(anonymous, last, NR), most(anonymous, last, NR)
        printf "peaks kB: first quarter most %d, last %d\n", most(peaks, first, quarter), most(peaks, last, NR)
        printf "descriptors: most %d in the first quarter, %d in the last; threads %d, %d\n", most(fds, first, quarter),
            most(fds, last, NR), most(threads, first, quarter), most(threads, last, NR)
        # Memory comes in pages of 2 MB; 5 % are for a batch of the longest that is longer than those before.
        if (mean(rss, last, NR) > 1.05 * mean(rss, first, quarter) + 2048) wrong("memory grew")
        if (most(peaks, last, NR) > 1.05 * most(peaks, first, quarter) + 2048) wrong("its peaks grew")
        if (most(fds, last, NR) > most(fds, first, quarter)) wrong("descriptors grew")
        if (code != 143) wrong("the run did not stop as it should")
        if (failed) exit 1
        print "flat"
    }' "$samples"
