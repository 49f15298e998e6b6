#!/bin/sh
# The DPO paper's figure 3, left, in miniature: win rates of answers against the chosen ones, by sampling temperature.
#
#     sh examples/dialogue/run.sh [--quick] [--output DIR] [--threads N]

steps() {
    temperatures=$(pick 0,0.25,0.5,0.75,1 0,1)
    step 60 "Preferred-FT" train "$out/preferred-ft" sft.yaml "data.train=$here/train.jsonl"
    step 1 "fine-tuned base" base preferred-ft
    step 25 "DPO" on_pairs dpo dpo.yaml
    step 20 "reward model" on_pairs reward reward.yaml
    step 60 "PPO" on_pairs ppo ppo.yaml "rollout.reward=adapter:$out/reward"
    step 10 "win rate of Preferred-FT" rate preferred-ft "$temperatures"
    for policy in dpo ppo; do
        step 10 "win rate of $policy" rate "$policy" "$temperatures" --adapter "$out/$policy"
    done
    many=$(pick 128 2)
    step 150 "win rate of best of $many" rate "best-of-$many" "$(pick 0.5 1)" --best-of "$many" --best-of-by "adapter:$out/reward"
    step 1 "figure" run_overlay
}

. "$(dirname "$0")/../comparison.sh"
