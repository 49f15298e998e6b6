//! Optimizers over one flat parameter slice. One rule a file; a new one is a file, a variant of [`OptimizerKind`] and
//! an arm in [`Optimizer::new`].
//!
//! Every rule is elementwise with scalars computed in f64 and rounded once to f32, as torch does, so the result depends
//! neither on the order of the parameters nor on the number of threads.

mod adamw;
mod rmsprop;
mod sgd;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::engine::Update;

/// Elements updated by one task.
const CHUNK: usize = 1 << 14;

/// The update rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// `torch.optim.AdamW`; also under transformers' names.
    #[default]
    #[serde(alias = "adamw_torch", alias = "adamw_torch_fused")]
    AdamW,
    /// `torch.optim.RMSprop`, which the DPO paper used.
    RmsProp,
    /// `torch.optim.SGD` without momentum.
    Sgd,
}

/// What an optimizer needs to know, but for the learning rate, which comes with every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub kind: OptimizerKind,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's term in the denominator.
    pub epsilon: f64,
    /// Decoupled in AdamW, added to the gradient (L2) in the others, as in torch.
    pub weight_decay: f64,
}

/// One step's elementwise update, and the slices it remembers.
trait Rule: Send {
    /// `step` is 1-based; the slices have the length the rule was made for.
    fn update(&mut self, step: u64, parameters: &mut [f32], gradients: &[f32], lr: f64);
    /// The same step as a device's kernel.
    fn on_device(&self, step: u64, lr: f64) -> Update;
    /// Named f32 slices, under torch's names.
    fn state(&self) -> Vec<(&'static str, &[f32])>;
    /// The same, to be overwritten.
    fn state_mut(&mut self) -> Vec<(&'static str, &mut [f32])>;
}

/// An update rule with its state.
pub struct Optimizer {
    rule: Box<dyn Rule>,
    parameters: usize,
    steps: u64,
    /// The moments on the decoder's device are newer than these.
    is_on_device: bool,
}

impl Optimizer {
    /// A fresh optimizer over `parameters` numbers.
    pub fn new(config: &OptimizerConfig, parameters: usize) -> Self {
        let rule: Box<dyn Rule> = match config.kind {
            OptimizerKind::AdamW => Box::new(adamw::AdamW::new(config, parameters)),
            OptimizerKind::RmsProp => Box::new(rmsprop::RmsProp::new(config, parameters)),
            OptimizerKind::Sgd => Box::new(sgd::Sgd::new(config)),
        };
        Self { rule, parameters, steps: 0, is_on_device: false }
    }

    /// Moves `parameters` by one step of learning rate `lr` along `gradients`.
    ///
    /// # Errors
    /// [`Error::Train`] if either length is not the optimizer's.
    pub fn step(&mut self, parameters: &mut [f32], gradients: &[f32], lr: f64) -> Result<()> {
        if parameters.len() != self.parameters || gradients.len() != self.parameters {
            return Err(Error::Train(format!(
                "the optimizer was made for {} parameters, but was given {} and {} gradients",
                self.parameters,
                parameters.len(),
                gradients.len()
            )));
        }
        self.steps += 1;
        self.rule.update(self.steps, parameters, gradients, lr);
        Ok(())
    }

    /// As [`Optimizer::step`], of the adapter on the decoder's device, along its gradient there times `clip`. Whether all
    /// parameters are finite.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step_on(&mut self, decoder: &Decoder, clip: f32, lr: f64) -> Result<bool> {
        if !self.is_on_device {
            let moments: Vec<&[f32]> = self.rule.state().into_iter().map(|(_, slice)| slice).collect();
            decoder.set_device_moments(&moments)?;
            self.is_on_device = true;
        }
        self.steps += 1;
        decoder.device_update(&self.rule.on_device(self.steps, lr), clip)
    }

    /// Copies the moments from the decoder's device, if they are there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn fetch(&mut self, decoder: &Decoder) -> Result<()> {
        if self.is_on_device {
            let found = decoder.device_moments()?;
            for ((_, target), found) in self.rule.state_mut().into_iter().zip(found) {
                target.copy_from_slice(&found);
            }
        }
        Ok(())
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What a checkpoint must keep besides [`Optimizer::steps`]: named slices, each as long as the parameters.
    pub fn state(&self) -> Vec<(&'static str, &[f32])> {
        self.rule.state()
    }

    /// Takes up the state of a checkpoint. Nothing is changed on an error.
    ///
    /// # Errors
    /// [`Error::Train`] if a slice is missing, unknown or of another length.
    pub fn load_state(&mut self, steps: u64, slices: &[(&str, &[f32])]) -> Result<()> {
        let mut expected: Vec<&str> = self.rule.state().iter().map(|(name, _)| *name).collect();
        expected.sort_unstable();
        let mut found: Vec<&str> = slices.iter().map(|(name, _)| *name).collect();
        found.sort_unstable();
        if found != expected {
            return Err(Error::Train(format!(
                "the optimizer state holds {found:?} instead of {expected:?}; resume with the optim the run began with"
            )));
        }
        if let Some((name, slice)) = slices.iter().find(|(_, slice)| slice.len() != self.parameters) {
            return Err(Error::Train(format!(
                "the optimizer state {name} holds {} numbers, but the adapter has {}; resume with the lora settings \
                 the run began with",
                slice.len(),
                self.parameters
            )));
        }
        for (name, target) in self.rule.state_mut() {
            for (_, slice) in slices.iter().filter(|(found, _)| *found == name) {
                target.copy_from_slice(slice);
            }
        }
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

    fn run(optimizer: &mut Optimizer, parameters: &mut [f32], steps: std::ops::Range<usize>) {
        for step in steps {
            optimizer.step(parameters, &numbers(step), 0.01).unwrap();
        }
    }

    #[test]
    fn a_loaded_optimizer_goes_on_with_the_same_bits() {
        for kind in [OptimizerKind::AdamW, OptimizerKind::RmsProp, OptimizerKind::Sgd] {
            let (mut whole, mut parameters) = (Optimizer::new(&config(kind), N), numbers(99));
            run(&mut whole, &mut parameters, 0..5);

            let (mut first, mut resumed) = (Optimizer::new(&config(kind), N), numbers(99));
            run(&mut first, &mut resumed, 0..2);
            let mut second = Optimizer::new(&config(kind), N);
            second.load_state(first.steps(), &first.state()).unwrap();
            run(&mut second, &mut resumed, 2..5);
            assert_eq!(parameters, resumed, "{kind:?}");
            assert_eq!(second.steps(), 5);
        }
    }

    #[test]
    fn state_that_does_not_fit_is_refused_and_changes_nothing() {
        let mut optimizer = Optimizer::new(&config(OptimizerKind::AdamW), 3);
        let ones = [1f32; 3];
        assert!(optimizer.load_state(1, &[("exp_avg", &ones)]).is_err());
        assert!(optimizer.load_state(1, &[("exp_avg", &ones), ("exp_avg", &ones)]).is_err());
        let error = optimizer.load_state(1, &[("exp_avg", &ones), ("exp_avg_sq", &ones[..2])]).unwrap_err();
        assert!(error.to_string().contains("exp_avg_sq holds 2 numbers"), "{error}");
        assert_eq!(optimizer.steps(), 0);
        assert!(optimizer.state().iter().all(|(_, slice)| slice.iter().all(|x| *x == 0.0)));
    }

    #[test]
    fn lengths_are_checked() {
        let mut optimizer = Optimizer::new(&config(OptimizerKind::Sgd), 2);
        assert!(optimizer.step(&mut [0.0; 2], &[0.0; 3], 0.1).is_err());
        assert_eq!(optimizer.steps(), 0);
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
