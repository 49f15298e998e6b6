# Shared by summary/ and dialogue/: policies on a fine-tuned base, and their win rates against the chosen answers.

# base [RUN]: the base with what the first step has learnt folded in.
base() {
    [ -e "$out/base/config.json" ] ||
        "$program" merge --base tiny-reviews --adapter "$out/${1:-sft}" --output "$out/base"
}

# on_pairs NAME FILE.yaml [KEY=VALUE...]: trains on the pairs from the fine-tuned base.
on_pairs() {
    policy=$1 from=$2
    shift 2
    train "$out/$policy" "$from" "model.base=$out/base" "data.train=$here/train.jsonl" "$@"
}

# rate NAME TEMPERATURES [ARGUMENTS...]: the win rate against the chosen answers; the judge is the rule of the corpus.
rate() {
    curve=$1 at=$2
    shift 2
    run eval win-rate --base "$out/base" "$@" --data "$here/eval.jsonl" --against chosen \
        --judge "command:awk -f '$here/words.awk' -f '$here/reward.awk'" --temperature "$at" \
        --limit "$(pick 150 3)" --max-new-tokens "$(pick 64 8)" --output "$out/rates/$curve"
}

# run_overlay: all win rates in one table and figure.
run_overlay() {
    "$program" eval overlay "$out"/rates/* --output "$out"
}

. "$(dirname "$0")/../experiment.sh"
