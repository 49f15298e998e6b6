#!/bin/sh
# The DPO paper's figure 2, left, in miniature: expected true reward against KL(policy || reference) on tiny-reviews.
#
#     sh examples/sentiment/run.sh [--quick] [--output DIR] [--threads N]

steps() {
    step 10 "reward model" train "$out/reward" reward.yaml
    for beta in $(pick "0.05 0.1 1 5" "0.1"); do
        step 14 "DPO, beta $beta" train "$out/dpo/beta-$beta" dpo.yaml objective.beta="$beta"
    done
    for beta in $(pick "0.5 1" "0.5"); do
        step 14 "IPO, beta $beta" train "$out/ipo/beta-$beta" dpo.yaml objective.loss_type=ipo objective.beta="$beta"
    done
    for alpha in 0.05; do
        step 10 "unlikelihood, alpha $alpha" train "$out/unlikelihood/alpha-$alpha" unlikelihood.yaml \
            objective.unlikelihood_alpha="$alpha"
    done
    for seed in $(pick "1 2" "1"); do
        step 8 "Preferred-FT, seed $seed" train "$out/preferred-ft/seed-$seed" sft.yaml seed="$seed"
    done
    for kl in $(pick "0.01 0.03 0.1" "0.1"); do
        step 30 "PPO, kl_coef $kl" train "$out/ppo/kl-$kl" ppo.yaml rollout.reward="adapter:$out/reward" objective.kl_coef="$kl"
        step 30 "PPO-GT, kl_coef $kl" train "$out/ppo-gt/kl-$kl" ppo.yaml rollout.reward=tiny-reviews objective.kl_coef="$kl"
    done
    step 90 "reward and divergence" frontier
}

# All checkpoints of all runs, and best-of-N of the base by the true and by the learned reward.
frontier() {
    run eval frontier "$out"/dpo/*/checkpoints/* "$out"/ipo/*/checkpoints/* "$out"/ppo/*/checkpoints/* \
        "$out"/ppo-gt/*/checkpoints/* "$out"/preferred-ft/*/checkpoints/* "$out"/unlikelihood/*/checkpoints/* \
        --base tiny-reviews --prompts tiny-reviews/prompts.jsonl --limit "$(pick 100 3)" --samples "$(pick 4 1)" \
        --max-new-tokens "$(pick 96 16)" --reward tiny-reviews \
        --best-of "$(pick 2,4,8,16,32 2)" --best-of-by tiny-reviews --best-of-by "adapter:$out/reward" \
        --figure-kl 4 --output "$out/frontier"
}

. "$(dirname "$0")/../experiment.sh"
