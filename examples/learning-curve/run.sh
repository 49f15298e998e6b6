#!/bin/sh
# Held-out error of DPO's implicit reward against the number of training pairs N, and whether a + b/sqrt(N) fits.
#
#     sh examples/learning-curve/run.sh [--quick] [--output DIR] [--threads N]

steps() {
    for seed in $(pick "1 2 3" "1"); do
        for n in $(pick "25 50 100 200 400 800 1200" "4 8"); do
            step 14 "N = $n, seed $seed" curve_point "$n" "$seed"
        done
    done
    step 60 "held-out error" measure error
    step 1 "held-out loss" measure loss
}

# curve_point N SEED: trains on N of the first 1,200 pairs. The seeds have other pairs up to N = 400; beyond that they share some,
# and at 1,200 all.
curve_point() {
    mkdir -p "$out/data"
    part="$out/data/n$1-seed$2.jsonl"
    awk -v n="$1" -v from="$((400 * ($2 - 1)))" \
        'NR <= 1200 { row[NR - 1] = $0 } END { for (i = 0; i < n; i++) print row[(from + i) % 1200] }' \
        "$here/../tiny-reviews/train.jsonl" > "$part.new"
    mv "$part.new" "$part"
    train "$out/n$1-seed$2" dpo.yaml "data.train=$part" "seed=$2"
}

# measure WHAT: the error or the loss on 1,000 pairs that no run has seen.
measure() {
    cat "$here/../tiny-reviews/eval.jsonl" > "$out/data/held-out.new"
    tail -n 800 "$here/../tiny-reviews/train.jsonl" >> "$out/data/held-out.new"
    head -n "$(pick 1000 8)" "$out/data/held-out.new" > "$out/data/held-out.jsonl"
    set -- "$1" "$out"/n*-seed*
    what=$1
    shift
    run eval learning-curve "$@" --data "$out/data/held-out.jsonl" --measure "$what" --output "$out/$what"
}

. "$(dirname "$0")/../experiment.sh"
