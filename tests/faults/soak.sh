#!/usr/bin/env bash
# Minutes of training on the embedded tiny-reviews with evaluation and checkpoints; memory and descriptors every 10 s, the
# first quarter of the time against the last. `soak.sh [MINUTES [PROGRAM]]`; one thread.
set -euo pipefail
minutes=${1:-40}
program=$(realpath "${2:-${CARGO_TARGET_DIR:-target}/release/dpo-lora}")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
export XDG_CACHE_HOME=$place/cache
"$program" -q train --set output_dir=soak --set train.threads=1 --set train.max_steps=100000000 --set train.eval_steps=50 \
    --set train.save_steps=25 --set train.learning_rate=1.0e-6 --set train.load_best_model_at_end=true > said 2>&1 &
child=$!
trap 'kill "$child" 2> /dev/null || true; rm -rf "$place"' EXIT
end=$((SECONDS + minutes * 60))
while [ $SECONDS -lt $end ] && kill -0 "$child" 2> /dev/null; do
    sleep 10
    # Resident and anonymous memory in kB, open descriptors, threads.
    anonymous=$(awk '/^RssAnon/ { print $2 }' "/proc/$child/status")
    resident=$(awk '/^VmRSS/ { print $2 }' "/proc/$child/status")
    threads=$(awk '/^Threads/ { print $2 }' "/proc/$child/status")
    echo "$SECONDS $resident $anonymous $(ls "/proc/$child/fd" | wc -l) $threads" >> samples
done
kill -TERM "$child"
code=0
wait "$child" || code=$?
tail -n 3 said
lines=$(wc -l < soak/metrics.jsonl)
checkpoints=$(ls soak/checkpoints | wc -l)
awk -v lines="$lines" -v checkpoints="$checkpoints" -v code="$code" '
    { time[NR] = $1; rss[NR] = $2; anonymous[NR] = $3; fds[NR] = $4; threads[NR] = $5 }
    function mean(values, from, to,   sum, i) { for (i = from; i <= to; i++) sum += values[i]; return sum / (to - from + 1) }
    function most(values, from, to,   top, i) { for (i = from; i <= to; i++) if (values[i] > top) top = values[i]; return top }
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
        printf "descriptors: most %d in the first quarter, %d in the last; threads %d, %d\n", most(fds, first, quarter),
            most(fds, last, NR), most(threads, first, quarter), most(threads, last, NR)
        flat = mean(rss, last, NR) <= 1.05 * mean(rss, first, quarter) + 2048
        same = most(fds, last, NR) <= most(fds, first, quarter)
        if (!flat || !same || code != 143) { print "error: memory or descriptors grew, or the run did not stop as it should"; exit 1 }
        print "flat"
    }' samples
