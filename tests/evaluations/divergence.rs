//! KL(π_θ ‖ π_ref) of sequences of at most two tokens, by all of them and by samples.

use dpo_lora::Base;
use dpo_lora::eval::frontier::{Drawn as Sample, Point};
use dpo_lora::generate::SamplingConfig;
use dpo_lora::model::pass::Pass;
use dpo_lora::toolkit::Adapted;
use dpo_lora::toolkit::drawn::{Drawer, Drawing, Drawn, reference_logps};
use dpo_lora::toolkit::prompts::Prompt;

use super::Place;

/// Log-probs of all tokens after these.
fn next(adapted: &Adapted, tokens: &[u32], pass: Pass) -> Vec<f64> {
    let mut cache = adapted.decoder.new_cache();
    let logits = adapted.decoder.step(tokens, &mut cache, &adapted.policy, pass).unwrap();
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    logits.iter().map(|logit| f64::from(logit - most) - sum.ln()).collect()
}

#[test]
fn estimates_of_a_model_agree_with_all_its_sequences() {
    let fixture = |name: &str| format!("{}/tests/fixtures/models/{name}", env!("CARGO_MANIFEST_DIR"));
    let base = Base::open(&fixture("llama")).unwrap();
    let adapted = base.with_adapter(fixture("llama/adapters/plain")).unwrap();
    let prompt = vec![5, 7, 9];
    let eos = base.eos(&adapted.tokenizer);
    let with = |token: u32| [&prompt[..], &[token]].concat();

    // KL = Σ_a π(a) [log π(a)/π_ref(a) + Σ_b π(b|a) log π(b|a)/π_ref(b|a)], without the second part where a ends it.
    let divergence = |tokens: &[u32]| -> (Vec<f64>, f64) {
        let (policy, reference) =
            (next(&adapted, tokens, Pass::Policy), next(&adapted, tokens, Pass::Reference));
        let kl = policy.iter().zip(&reference).map(|(p, q)| p.exp() * (p - q)).sum();
        (policy, kl)
    };
    let (first, mut exact) = divergence(&prompt);
    for (token, logp) in (0u32..).zip(&first).filter(|(token, _)| !eos.contains(token)) {
        exact += logp.exp() * divergence(&with(token)).1;
    }
    assert!(exact > 0.01, "{exact}");

    let place = Place::new();
    let how = Drawing {
        sampling: SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: 11 },
        completions: 4,
        max_new_tokens: 2,
    };
    // Prompts of one text, each with its own seeds.
    let prompts = vec![Prompt { text: "p".into(), tokens: prompt.clone(), chosen: None }; 600];
    let mut drawer = Drawer::open(&place.path("samples.jsonl")).unwrap();
    let by = Drawn { adapted: &adapted, pass: Pass::Policy, name: "policy" };
    let drawn = drawer.draw(by, &prompts, &how).unwrap();
    let reference = reference_logps(&adapted, &prompts, &drawn).unwrap();
    // The log-prob of each sample is that of its sequence.
    for kept in drawn.iter().take(5).flatten() {
        let mut logp = first[kept.tokens[0] as usize];
        if let Some(second) = kept.tokens.get(1) {
            logp += next(&adapted, &with(kept.tokens[0]), Pass::Policy)[*second as usize];
        }
        assert!((kept.logp - logp).abs() < 1e-4, "{} {logp}", kept.logp);
    }
    let samples: Vec<Vec<Sample>> = drawn
        .iter()
        .zip(&reference)
        .map(|(drawn, reference)| {
            let one = |(kept, ref_logp): (_, &f64)| {
                let kept: &dpo_lora::toolkit::drawn::Kept = kept;
                Sample { reward: 0.0, logp: kept.logp, ref_logp: *ref_logp }
            };
            drawn.iter().zip(reference).map(one).collect()
        })
        .collect();
    let found = Point::of("policy", &samples, 1).unwrap();
    for estimate in [found.kl, found.kl_k3.unwrap()] {
        // Two half-widths are four standard errors.
        let (low, high) = estimate.ends().unwrap();
        let half = (high - low) / 2.0;
        assert!((estimate.mean - exact).abs() < 2.0 * half, "{estimate:?} {exact}");
        assert!(half < 0.5 * exact, "{estimate:?} {exact}");
    }
}
