//! PiSSA against PEFT (`tests/parity/pissa.py` made the numbers).

use dpo_lora::adapter::peft::{self, Origin};
use dpo_lora::model::decoder::{Decoder, Training};
use dpo_lora::model::pass::Pass;
use dpo_lora::ops::svd::Iterations;
use dpo_lora::random::Stream;
use dpo_lora::train::optimizer::{Optimizer, OptimizerConfig};
use dpo_lora::trainable::{Adapters, Lora, Pissa};

use super::common::{adapt, decoder, fixture, json};
use super::{assert_near, ids, logps, numbers, text};

/// The adapter of the fixture before its first step.
fn begun(decoder: &Decoder, iterations: Iterations) -> Adapters {
    let of = |linear: &dpo_lora::model::spec::LinearSpec| {
        let rank = if linear.module.ends_with("k_proj") { 3 } else { 4 };
        Pissa::new(Lora::new(linear, rank, 6.0, 6.0 / rank as f64), iterations)
    };
    Adapters::initialised_on(decoder.spec().linears().map(of), 1, |module| decoder.linear(module)).unwrap()
}

#[test]
fn training_follows_peft_and_starts_as_the_base_to_the_bit() {
    for (name, case) in json("pissa/expected.json").as_object().unwrap() {
        let mut model = decoder(name);
        let iterations = match case["init"].as_str().unwrap() {
            "pissa" => Iterations::UntilSettled,
            init => Iterations::Fixed(init.rsplit('_').next().unwrap().parse().unwrap()),
        };
        model.train(begun(&model, iterations));
        let ids = ids(&case["ids"]);
        let start = logps(&model, &ids, Pass::Policy);
        assert_eq!(start, logps(&model, &ids, Pass::Reference), "{name}");
        assert_near(&start, &numbers(&case["start"]), 1e-4, name);

        let mut optimizer = Optimizer::new(&OptimizerConfig::default(), model.policy.trained.store_mut());
        let batch = text(&ids);
        for want in numbers(&case["steps"]) {
            let (found, tape) = model.forward(&batch, Training::default()).unwrap();
            assert!((found[0] - want).abs() < 1e-4 * want.abs(), "{name}: {} against {want}", found[0]);
            let gradient = model.gradient(tape, &batch, &[-1.0, 0.0]);
            let store = model.policy.trained.store_mut();
            store.clear_gradient();
            store.update_gradient(|all| all.copy_from_slice(&gradient));
            optimizer.step(store, case["learning_rate"].as_f64().unwrap()).unwrap();
        }
        assert_near(&logps(&model, &ids, Pass::Policy), &numbers(&case["logps"]), 2e-3, name);
        let base = logps(&model, &ids, Pass::Reference);
        assert_eq!(base, start, "{name}: the reference is the base as it was");

        // What PEFT shares fits the original base, here as there.
        adapt(&mut model, &fixture("pissa").join(name));
        assert_near(&logps(&model, &ids, Pass::Policy), &numbers(&case["logps"]), 1e-4, name);
    }
}

/// What is left of each weight behind the start: of `pissa` PEFT's, of `pissa_niter_N` no more than PEFT's, whose
/// `svd_lowrank` iterates in as many dimensions as the rank.
#[test]
fn no_start_is_further_from_the_weight_than_pefts() {
    let (starts, model) = (json("pissa/starts.json"), decoder("llama"));
    for (init, modules) in starts.as_object().unwrap() {
        let iterations = match init.strip_prefix("pissa_niter_") {
            None => Iterations::UntilSettled,
            Some(count) => Iterations::Fixed(count.parse().unwrap()),
        };
        let of = |linear| Pissa::new(Lora::new(linear, 4, 6.0, 1.5), iterations);
        let set = model.spec().linears().map(of);
        let set = Adapters::initialised_on(set, 1, |module| model.linear(module)).unwrap();
        assert_eq!(set.len(), modules.as_object().unwrap().len());
        for adapter in set.iter() {
            let (lora, want) = (adapter.low_rank().unwrap(), modules[adapter.module()].as_f64().unwrap());
            let weight = model.linear(&lora.module).unwrap();
            let (a, b) = (&set.values()[lora.a()], &set.values()[lora.b()]);
            let (mut row, mut squares) = (vec![0.0; lora.inputs], 0.0);
            for (output, b) in b.chunks_exact(lora.rank).enumerate() {
                weight.output_row(output, &mut row);
                for (input, w) in row.iter().enumerate() {
                    let rows = a.chunks_exact(lora.inputs).zip(b);
                    let part: f64 = rows.map(|(a, b)| f64::from(a[input]) * f64::from(*b)).sum();
                    squares += (f64::from(*w) - lora.scale * part).powi(2);
                }
            }
            let (found, best) = (squares.sqrt(), starts["pissa"][&lora.module].as_f64().unwrap());
            assert!(
                found <= want * (1.0 + 1e-5) && found >= best * (1.0 - 1e-5),
                "{init} {}: {found} {want}",
                lora.module
            );
        }
    }
}

/// With `PISSA_OUT=DIRECTORY` the adapter stays there, for `tests/parity/pissa.py tests/fixtures --check DIRECTORY`, whose
/// output is `pissa/ours.json`.
#[test]
fn peft_loads_what_is_written_on_the_original_base() {
    let mut model = decoder("llama");
    let mut adapters = begun(&model, Iterations::UntilSettled);
    let stream = Stream::new(3, "a PiSSA of a test");
    adapters.update(|values| {
        values.iter_mut().enumerate().for_each(|(i, x)| *x += 0.2 * stream.uniform(i as u64) - 0.1);
    });
    let place = tempfile::tempdir().unwrap();
    let directory = std::env::var("PISSA_OUT").map_or(place.path().to_path_buf(), Into::into);
    peft::write(&directory, &adapters, model.spec(), 0.0, &Origin::default()).unwrap();
    let want = json("pissa/ours.json");
    let ids = ids(&want["ids"]);
    model.train(adapters);
    let trained = logps(&model, &ids, Pass::Policy);
    assert_near(&trained, &numbers(&want["logps"]), 1e-4, "PEFT's");
    let mut other = decoder("llama");
    adapt(&mut other, &directory);
    assert_near(&logps(&other, &ids, Pass::Policy), &trained, 1e-5, "read back");

    // A resumed run gets the same numbers, start included.
    let found = peft::read(&directory, other.spec()).unwrap().adapters;
    let mut again = begun(&other, Iterations::Fixed(1));
    assert!(again.restore(&found).unwrap());
    assert_eq!(again.values(), model.trained().values());
    other.train(again);
    assert_eq!(logps(&other, &ids, Pass::Policy), trained);
    let plain = super::common::zero_b_lora(&other, 1);
    assert!(!other.policy.trained.restore(&plain).unwrap(), "another adapter is refused");
}
