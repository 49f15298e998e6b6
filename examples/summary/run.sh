#!/bin/sh
# The DPO paper's figure 2, right, in miniature: win rates of summaries against the chosen ones, by sampling temperature.
#
#     sh examples/summary/run.sh [--quick] [--output DIR] [--threads N]

steps() {
    temperatures=$(pick 0,0.25,0.5,0.75,1 0,1)
    step 60 "supervised fine-tuning" train "$out/sft" sft.yaml "data.train=$here/sft.jsonl"
    step 1 "fine-tuned base" base
    step 20 "Preferred-FT" on_pairs preferred-ft sft.yaml train.max_steps="$(pick 125 2)" train.learning_rate=3e-4
    step 20 "DPO" on_pairs dpo dpo.yaml
    step 15 "reward model" on_pairs reward reward.yaml
    step 60 "PPO" on_pairs ppo ppo.yaml "rollout.reward=adapter:$out/reward"
    step 10 "win rate of SFT" rate sft "$temperatures"
    for policy in preferred-ft dpo ppo; do
        step 10 "win rate of $policy" rate "$policy" "$temperatures" --adapter "$out/$policy"
    done
    many=$(pick 128 2)
    step 120 "win rate of best of $many" rate "best-of-$many" "$(pick 0.5 1)" --best-of "$many" --best-of-by "adapter:$out/reward"
    step 1 "figure" run_overlay
}

. "$(dirname "$0")/../comparison.sh"
