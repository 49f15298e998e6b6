//! Optimizers: update rules over a [`Store`], which keeps their moments. Each rule has its own file; a new one needs a
//! file, a variant of [`OptimizerKind`] and an arm in [`Optimizer::new`].
//!
//! Every rule is elementwise, with scalars computed in f64 and rounded once to f32, as in torch. The result therefore
//! depends neither on the order of the parameters nor on the number of threads.

mod adamw;
mod rmsprop;
mod rule;
mod sgd;

use self::rule::Rule;
pub use self::rule::{OptimizerConfig, OptimizerKind};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::trainable::store::Moment;
use crate::trainable::{Policy, Store};

/// An update rule and the number of steps it has made.
pub struct Optimizer {
    rule: Box<dyn Rule>,
    steps: u64,
    /// Whether the moments on the decoder's device are newer than the store's.
    is_on_device: bool,
}

impl Optimizer {
    /// Creates an optimizer for `store` and sets the store's moments to zero.
    pub fn new(config: &OptimizerConfig, store: &mut Store) -> Self {
        let rule: Box<dyn Rule> = match config.kind {
            OptimizerKind::AdamW => Box::new(adamw::AdamW::new(config)),
            OptimizerKind::RmsProp => Box::new(rmsprop::RmsProp::new(config)),
            OptimizerKind::Sgd => Box::new(sgd::Sgd::new(config)),
        };
        store.clear_moments(rule.moments());
        Self { rule, steps: 0, is_on_device: false }
    }

    /// Updates the store's parameters by one step of learning rate `lr` along their gradient.
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
        store.step(|parts| self.rule.update(self.steps, parts, lr));
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
            let moments: Vec<&[f32]> = moments.iter().map(|moment| moment.values.as_slice()).collect();
            decoder.set_device_moments(policy, &moments)?;
            self.is_on_device = true;
        }
        self.steps += 1;
        decoder.device_update(policy, &self.rule.on_device(self.steps, lr), clip)
    }

    /// Copies the moments from the decoder's device if the newest ones are there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn fetch(&mut self, decoder: &Decoder, policy: &mut Policy) -> Result<()> {
        if self.is_on_device {
            let found = decoder.device_moments(policy)?;
            let named = self.rule.moments().iter().zip(found);
            policy
                .trained
                .store_mut()
                .set_moments(named.map(|(name, values)| Moment { name, values }).collect());
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
    pub fn load_state(&mut self, store: &mut Store, steps: u64, slices: &[(&str, &[f32])]) -> Result<()> {
        let mut expected = self.rule.moments().to_vec();
        expected.sort_unstable();
        let mut found: Vec<&str> = slices.iter().map(|(name, _)| *name).collect();
        found.sort_unstable();
        if found != expected {
            return Err(Error::Train(format!(
                "the optimizer state holds {found:?} instead of {expected:?}; resume with the optim the run began with"
            )));
        }
        let parameters = store.values().len();
        if let Some((name, slice)) = slices.iter().find(|(_, slice)| slice.len() != parameters) {
            return Err(Error::Train(format!(
                "the optimizer state {name} holds {} numbers, but the adapter has {parameters}; resume with the lora settings \
                 the run began with",
                slice.len()
            )));
        }
        let of_name = |name: &&'static str| {
            let (_, slice) = slices.iter().find(|(found, _)| found == name)?;
            Some(Moment { name, values: slice.to_vec() })
        };
        store.set_moments(self.rule.moments().iter().filter_map(of_name).collect());
        self.steps = steps;
        self.is_on_device = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 40_001;

    fn config(kind: OptimizerKind) -> OptimizerConfig {
        OptimizerConfig { kind, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 }
    }

    fn numbers(seed: usize) -> Vec<f32> {
        (0..N).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn store(seed: usize) -> Store {
        let mut store = Store::default();
        store.add("a".into(), vec![N]);
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
        for kind in [OptimizerKind::AdamW, OptimizerKind::RmsProp, OptimizerKind::Sgd] {
            let (mut whole, mut parameters) = over(kind, store(99));
            run(&mut whole, &mut parameters, 0..5);

            let (mut first, mut before) = over(kind, store(99));
            run(&mut first, &mut before, 0..2);
            let (mut second, mut resumed) = over(kind, store(0));
            resumed.update(|values| values.copy_from_slice(before.values()));
            let moments: Vec<(&str, &[f32])> =
                before.moments().iter().map(|m| (m.name, m.values.as_slice())).collect();
            second.load_state(&mut resumed, first.steps(), &moments).unwrap();
            run(&mut second, &mut resumed, 2..5);
            assert_eq!(parameters.values(), resumed.values(), "{kind:?}");
            assert_eq!(second.steps(), 5);
        }
    }

    #[test]
    fn state_that_does_not_fit_is_refused_and_changes_nothing() {
        let (mut optimizer, mut store) = over(OptimizerKind::AdamW, small(3));
        let ones = [1f32; 3];
        let mut refused = |slices: &[(&str, &[f32])]| {
            let error = optimizer.load_state(&mut store, 1, slices).unwrap_err().to_string();
            assert_eq!(optimizer.steps(), 0);
            assert!(store.moments().iter().all(|moment| moment.values == [0.0; 3]));
            error
        };
        refused(&[("exp_avg", &ones)]);
        refused(&[("exp_avg", &ones), ("exp_avg", &ones)]);
        let error = refused(&[("exp_avg", &ones), ("exp_avg_sq", &ones[..2])]);
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
    fn names_are_read_as_written_in_trl() {
        for (yaml, kind) in [
            ("adamw", OptimizerKind::AdamW),
            ("adamw_torch", OptimizerKind::AdamW),
            ("rmsprop", OptimizerKind::RmsProp),
            ("sgd", OptimizerKind::Sgd),
        ] {
            assert_eq!(serde_yaml::from_str::<OptimizerKind>(yaml).unwrap(), kind);
        }
    }
}
