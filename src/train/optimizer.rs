//! Optimizers: update rules over a [`Store`], which keeps their moments. Each rule has its own file; a new one needs a
//! file, a variant of [`OptimizerKind`] and an arm in [`Optimizer::new`].
//!
//! Scalars are computed in f64 and rounded once to f32, as in torch. Every rule is elementwise, or works on one tensor
//! (`muon`) or block of numbers (`adamw_8bit`) at a time. The result therefore does not depend on the number of threads.

mod adamw;
mod adamw_8bit;
mod dynamic_map;
mod lion;
mod muon;
mod pieces;
mod rates;
mod rmsprop;
mod rule;
mod schedule_free;
mod sgd;

use self::rates::Rates;
use self::rule::Rule;
pub use self::rule::{OptimizerConfig, OptimizerKind};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::trainable::store::{Moment, Numbers};
use crate::trainable::{Policy, Store};

/// An update rule and the number of steps it has made.
pub struct Optimizer {
    rule: Box<dyn Rule>,
    /// The factor of B's learning rate.
    ratio: f64,
    steps: u64,
    /// Whether the moments on the decoder's device are newer than the store's.
    is_on_device: bool,
    /// Whether the store holds the values at which the gradient is computed, where they are not those to evaluate.
    is_at_gradient_point: bool,
}

impl Optimizer {
    /// Creates an optimizer for `store` and sets the store's moments to those before the first step.
    pub fn new(config: &OptimizerConfig, store: &mut Store) -> Self {
        let rule: Box<dyn Rule> = match config.kind {
            OptimizerKind::AdamW => Box::new(adamw::AdamW::new(config)),
            OptimizerKind::RmsProp => Box::new(rmsprop::RmsProp::new(config)),
            OptimizerKind::Sgd => Box::new(sgd::Sgd::new(config)),
            OptimizerKind::AdamW8Bit => Box::new(adamw_8bit::AdamW8Bit::new(config)),
            OptimizerKind::Lion => Box::new(lion::Lion::new(config)),
            OptimizerKind::Muon => Box::new(muon::Muon::new(config)),
            OptimizerKind::ScheduleFreeAdamW => Box::new(schedule_free::ScheduleFree::new(config)),
        };
        let start = rule.start(store);
        store.set_moments(start);
        Self {
            rule,
            ratio: config.loraplus_lr_ratio,
            steps: 0,
            is_on_device: false,
            is_at_gradient_point: false,
        }
    }

    /// Sets the store's values to those at which the gradient is computed. Only a schedule-free rule distinguishes them
    /// from the values that are evaluated and saved.
    pub fn begin_step(&mut self, store: &mut Store) {
        if self.rule.averages() && !self.is_at_gradient_point {
            store.step(|parts| self.rule.to_gradient_point(parts));
            self.is_at_gradient_point = true;
        }
    }

    /// Sets the store's values to those that are evaluated and saved, if a step was begun and not made.
    pub fn end_step(&mut self, store: &mut Store) {
        if self.is_at_gradient_point {
            store.step(|parts| self.rule.to_average(parts));
            self.is_at_gradient_point = false;
        }
    }

    /// Updates the store's parameters by one step of learning rate `lr` along their gradient. B's is `lr` times
    /// [`OptimizerConfig::loraplus_lr_ratio`].
    ///
    /// # Errors
    /// [`Error::Train`] if the store has no gradient, or holds another optimizer's moments.
    pub fn step(&mut self, store: &mut Store, lr: f64) -> Result<()> {
        if store.gradient().len() != store.values().len() {
            return Err(Error::Train(format!(
                "a step over {} parameters with {} gradients",
                store.values().len(),
                store.gradient().len()
            )));
        }
        self.check(store)?;
        self.steps += 1;
        let rates = Rates::new(lr, self.ratio);
        store.step(|parts| self.rule.update(self.steps, parts, rates));
        self.is_at_gradient_point = false;
        Ok(())
    }

    fn check(&self, store: &Store) -> Result<()> {
        let wanted = self.rule.moments();
        let found: Vec<&str> = store.moments().iter().map(|moment| moment.name).collect();
        if found == wanted {
            return Ok(());
        }
        Err(Error::Train(format!("the optimizer remembers {wanted:?}, but was given {found:?}")))
    }

    /// Does the same as [`Optimizer::step`] for the adapter on the decoder's device, along its gradient there times
    /// `clip`. Returns whether all parameters are finite.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step_on(&mut self, decoder: &Decoder, policy: &Policy, clip: f32, lr: f64) -> Result<bool> {
        if !self.is_on_device {
            self.check(policy.trained.store())?;
            let moments = policy.trained.store().moments();
            let moments: Vec<&[f32]> = moments.iter().map(|moment| moment.values.f32s()).collect();
            decoder.set_device_moments(policy, &moments)?;
            self.is_on_device = true;
        }
        let update = self.rule.on_device(self.steps + 1, lr);
        let update = update.ok_or_else(|| Error::Train("the device does not have this optimizer".into()))?;
        self.steps += 1;
        decoder.device_update(policy, &update, clip)
    }

    /// Copies the moments from the decoder's device if the newest ones are there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn fetch(&mut self, decoder: &Decoder, policy: &mut Policy) -> Result<()> {
        if self.is_on_device {
            let found = decoder.device_moments(policy)?;
            let named = self.rule.moments().iter().zip(found);
            policy.trained.store_mut().set_moments(
                named.map(|(name, values)| Moment { name, values: Numbers::F32(values) }).collect(),
            );
            self.check(policy.trained.store())?;
        }
        Ok(())
    }

    /// Returns the number of steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Restores the step count and, in the store, the moments of a checkpoint. Nothing is changed on an error.
    ///
    /// # Errors
    /// [`Error::Train`] if a moment is missing, unknown or of the wrong length.
    pub fn load_state(
        &mut self,
        store: &mut Store,
        steps: u64,
        mut state: Vec<(String, Numbers)>,
    ) -> Result<()> {
        let mut expected = self.rule.moments().to_vec();
        expected.sort_unstable();
        state.sort_by(|(a, _), (b, _)| a.cmp(b));
        let found: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
        if found != expected {
            return Err(Error::Train(format!(
                "the optimizer state holds {found:?} instead of {expected:?}; resume with the optim the run began with"
            )));
        }
        let mut moments = self.rule.start(store);
        for moment in &mut moments {
            let Some((name, values)) = state.iter_mut().find(|(name, _)| name == moment.name) else {
                continue;
            };
            if values.len() != moment.values.len() || !values.is_like(&moment.values) {
                return Err(Error::Train(format!(
                    "the optimizer state {name} holds {} numbers, but an adapter of {} parameters needs {} of its type; \
                     resume with the lora settings the run began with",
                    values.len(),
                    store.values().len(),
                    moment.values.len()
                )));
            }
            std::mem::swap(&mut moment.values, values);
        }
        store.set_moments(moments);
        self.steps = steps;
        self.is_on_device = false;
        self.is_at_gradient_point = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 40_001;
    const KINDS: [OptimizerKind; 7] = [
        OptimizerKind::AdamW,
        OptimizerKind::RmsProp,
        OptimizerKind::Sgd,
        OptimizerKind::AdamW8Bit,
        OptimizerKind::Lion,
        OptimizerKind::Muon,
        OptimizerKind::ScheduleFreeAdamW,
    ];

    fn config(kind: OptimizerKind) -> OptimizerConfig {
        OptimizerConfig { kind, weight_decay: 0.1, warmup_steps: 3, ..OptimizerConfig::default() }
    }

    fn numbers(seed: usize) -> Vec<f32> {
        (0..N).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn store(seed: usize) -> Store {
        let mut store = Store::default();
        // A large matrix, a small one, and what is no matrix.
        store.add("a".into(), vec![8, 4500]);
        store.add("b".into(), vec![400, 10]);
        store.add("c".into(), vec![N - 40_000]);
        store.update(|values| values.copy_from_slice(&numbers(seed)));
        store
    }

    fn over(kind: OptimizerKind, mut store: Store) -> (Optimizer, Store) {
        (Optimizer::new(&config(kind), &mut store), store)
    }

    fn small(parameters: usize) -> Store {
        let mut store = Store::default();
        store.add("a".into(), vec![parameters]);
        store
    }

    fn run(optimizer: &mut Optimizer, store: &mut Store, steps: std::ops::Range<usize>) {
        for step in steps {
            store.clear_gradient();
            store.update_gradient(|gradient| gradient.copy_from_slice(&numbers(step)));
            optimizer.step(store, 0.01).unwrap();
        }
    }

    #[test]
    fn a_loaded_optimizer_goes_on_with_the_same_bits() {
        for kind in KINDS {
            let (mut whole, mut parameters) = over(kind, store(99));
            run(&mut whole, &mut parameters, 0..5);

            let (mut first, mut before) = over(kind, store(99));
            run(&mut first, &mut before, 0..2);
            let (mut second, mut resumed) = over(kind, store(0));
            resumed.update(|values| values.copy_from_slice(before.values()));
            let moments = before.moments().iter().map(|m| (m.name.to_string(), m.values.clone())).collect();
            second.load_state(&mut resumed, first.steps(), moments).unwrap();
            run(&mut second, &mut resumed, 2..5);
            assert_eq!(parameters.values(), resumed.values(), "{kind:?}");
            assert_eq!(second.steps(), 5);
        }
    }

    #[test]
    fn state_that_does_not_fit_is_refused_and_changes_nothing() {
        let (mut optimizer, mut store) = over(OptimizerKind::AdamW, small(3));
        let ones = |count| Numbers::F32(vec![1.0; count]);
        let mut refused = |state: Vec<(&str, Numbers)>| {
            let state = state.into_iter().map(|(name, values)| (name.to_string(), values)).collect();
            let error = optimizer.load_state(&mut store, 1, state).unwrap_err().to_string();
            assert_eq!(optimizer.steps(), 0);
            assert!(store.moments().iter().all(|moment| moment.values.f32s() == [0.0; 3]));
            error
        };
        refused(vec![("exp_avg", ones(3))]);
        refused(vec![("exp_avg", ones(3)), ("exp_avg", ones(3))]);
        refused(vec![("exp_avg", ones(3)), ("exp_avg_sq", Numbers::F64(vec![1.0; 3]))]);
        let error = refused(vec![("exp_avg", ones(3)), ("exp_avg_sq", ones(2))]);
        assert!(error.contains("exp_avg_sq holds 2 numbers"), "{error}");
    }

    #[test]
    fn a_step_needs_a_gradient_and_its_own_moments() {
        let (mut optimizer, mut store) = over(OptimizerKind::Sgd, small(2));
        assert!(optimizer.step(&mut store, 0.1).is_err());
        store.clear_gradient();
        store.clear_moments(&["exp_avg"]);
        assert!(optimizer.step(&mut store, 0.1).is_err());
        assert_eq!(optimizer.steps(), 0);
        store.clear_moments(&[]);
        optimizer.step(&mut store, 0.1).unwrap();
    }

    #[test]
    fn a_result_does_not_depend_on_the_number_of_threads() {
        let on = |threads: usize, kind| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut optimizer, mut store) = over(kind, store(7));
                run(&mut optimizer, &mut store, 0..3);
                store.values().to_vec()
            })
        };
        for kind in KINDS {
            assert_eq!(on(1, kind), on(3, kind), "{kind:?}");
        }
    }

    #[test]
    fn a_step_that_is_not_made_leaves_the_average() {
        let (mut optimizer, mut store) = over(OptimizerKind::ScheduleFreeAdamW, store(5));
        run(&mut optimizer, &mut store, 0..3);
        let average = store.values().to_vec();
        optimizer.begin_step(&mut store);
        assert_ne!(average, store.values());
        optimizer.end_step(&mut store);
        assert_eq!(average, store.values());
    }

    #[test]
    fn names_are_read_as_written_in_trl() {
        for (yaml, kind) in [
            ("adamw", OptimizerKind::AdamW),
            ("adamw_torch", OptimizerKind::AdamW),
            ("rmsprop", OptimizerKind::RmsProp),
            ("sgd", OptimizerKind::Sgd),
            ("adamw_8bit", OptimizerKind::AdamW8Bit),
            ("adamw_bnb_8bit", OptimizerKind::AdamW8Bit),
            ("lion", OptimizerKind::Lion),
            ("lion_32bit", OptimizerKind::Lion),
            ("muon", OptimizerKind::Muon),
            ("schedule_free_adamw", OptimizerKind::ScheduleFreeAdamW),
        ] {
            assert_eq!(serde_yaml::from_str::<OptimizerKind>(yaml).unwrap(), kind);
        }
    }
}
