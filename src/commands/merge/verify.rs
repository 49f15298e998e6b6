//! The merged model beside base and adapters: its weights, its logits, and how much of the adapters' effect it has.

use std::ops::Range;
use std::path::Path;

use super::super::output::say as warn;
use super::bound::Bound;
use super::effect::{Effect, Models};
use super::probe::Probe;
use super::side::Side;
use crate::adapter::head;
use crate::adapter::merge::{self, MergeReport, weights};
use crate::cli::{MergeArgs, MergeFormat};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::spec::DecoderSpec;
use crate::toolkit::{Base, OpenOptions};
use crate::trainable::{Adapters, Policy};
use crate::weights::WeightSource;

/// Below this share of the adapters' effect a merge is warned of.
const WARNED: f64 = 0.95;
/// Below this share it fails.
const FAILED: f64 = 0.8;

/// Below this share of the norms that the adapters have one by one, their sum is nothing.
const CANCELLED_SHARE: f64 = 1e-3;
const CANCELLED: &str = "the adapters cancel each other: there is no effect to keep";

/// What is verified.
pub(super) struct Merged<'a> {
    pub base: &'a Base,
    pub from: &'a merge::Base<'a>,
    pub parts: &'a [(&'a Adapters, f64)],
    /// The chat template that takes the place of the base's.
    pub chat_template: Option<&'a str>,
    pub args: &'a MergeArgs,
}

impl Merged<'_> {
    /// Compares the model at `place`, reports the result, and fails where the difference is too large. With `--force`
    /// it warns instead; with `--no-verify` only what is left of an unmerged model is looked at.
    ///
    /// # Errors
    /// If the merged model cannot be read, or differs too much.
    pub fn verify(&self, place: &Path, report: &MergeReport, say: &impl Fn(&str)) -> Result<()> {
        let MergeArgs { no_verify, unmerge, adapter, .. } = self.args;
        let found = match (no_verify, unmerge) {
            (false, _) => self.compare(place, report, say),
            (true, true) => self.open(place).and_then(|left| self.base.check_left(&left, adapter)),
            (true, false) => Ok(()),
        };
        match found {
            Err(error) if self.args.force => {
                warn(&format!("warning: {error}; it is kept because of --force"));
                Ok(())
            }
            other => other,
        }
    }

    fn open(&self, place: &Path) -> Result<Base> {
        let MergeArgs { device, force, .. } = *self.args;
        let options = OpenOptions { device, force, ..OpenOptions::default() };
        Base::open_with(&place.to_string_lossy(), &options)
    }

    fn compare(&self, place: &Path, report: &MergeReport, say: &impl Fn(&str)) -> Result<()> {
        let (base, args) = (self.base, self.args);
        let opened = self.open(place)?;
        // All else is compared with this model, whatever it is: only the adapters know their base.
        match args.unmerge.then(|| base.check_left(&opened, &args.adapter)) {
            Some(Err(error)) if args.force => {
                warn(&format!("warning: {error}; it is kept because of --force"))
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(())) | None => {}
        }
        weights::check(self.from, self.parts, (&*opened.source, &opened.spec), report)?;
        let merged = opened.decoder()?;
        let (decoder, policy, bare) = policy(base, self.parts)?;
        let (alone, adapted) = (Policy::default(), Side { decoder: &decoder, adapters: &policy });
        let probe = Probe::new(base, adapted, args, self.chat_template)?;
        let models = Models {
            policy: adapted,
            base: bare.as_ref().map_or(adapted, |bare| Side { decoder: bare, adapters: &alone }),
            merged: Side { decoder: &merged, adapters: &alone },
        };
        let effect = Effect::measure(&models, &probe)?;
        let bound = Bound::new(&decoder, &merged);
        say(&verified(&effect, &bound));
        let cancel = cancel(self.parts, report);
        say(&if cancel { CANCELLED.to_string() } else { survived(&effect, &probe) });
        bound.check(&effect)?;
        if cancel { Ok(()) } else { self.judge(&effect, &bound) }
    }

    /// Whether enough of the adapters' effect is left.
    fn judge(&self, effect: &Effect, bound: &Bound) -> Result<()> {
        let Some(share) = effect.share() else { return Ok(()) };
        if bound.hides(effect) {
            warn(&format!(
                "warning: the adapter moves log-probs by {:.1e} nats, no more than arithmetic in f32 does: what survives cannot \
                 be measured",
                effect.shift()
            ));
            return Ok(());
        }
        // Where arithmetic alone moves log-probs as much as the adapter does, the figure is no more certain than this.
        let unsure = if bound.is_exact() { 2.0 * effect.share_error() } else { 0.0 };
        let found = format!("{:.1} % of the adapter's effect survives in the merged model", 100.0 * share);
        if share + unsure < FAILED {
            return Err(Error::Weights(format!(
                "{found}, less than {:.0} %; {}, or insist with --force",
                100.0 * FAILED,
                self.remedy(bound)
            )));
        }
        if share + unsure < WARNED {
            warn(&format!("warning: {found}; {}", self.remedy(bound)));
        } else if share < WARNED {
            warn(&format!(
                "warning: the adapter moves log-probs by {:.1e} nats, about as much as arithmetic in 16 bits does: what \
                 survives cannot be measured; {}",
                effect.shift(),
                self.remedy(bound)
            ));
        }
        Ok(())
    }

    fn remedy(&self, bound: &Bound) -> &'static str {
        match self.args.format {
            MergeFormat::Gguf if !bound.is_exact() => {
                "write --dtype bf16 or f16, or serve the adapter beside the base (dpo-lora export --format gguf)"
            }
            MergeFormat::Gguf => {
                "write --dtype f32, or serve the adapter beside the base (dpo-lora export --format gguf)"
            }
            MergeFormat::Safetensors => "write --dtype f32, or serve the adapter beside the base, as it is",
        }
    }
}

fn verified(effect: &Effect, bound: &Bound) -> String {
    format!(
        "verified on {} positions: maximum |Δlogit| {:.3e} (largest logit {:.2}), root mean square {:.3e}, KL {:.3e} nats; {bound}",
        effect.tokens,
        effect.furthest,
        effect.largest,
        effect.difference(),
        effect.lost(),
        bound = bound.describe(effect),
    )
}

/// Whether the adapters cancel each other: what was added is what rounding left of their sum.
fn cancel(parts: &[(&Adapters, f64)], report: &MergeReport) -> bool {
    let mut alone = 0.0;
    for (adapters, weight) in parts {
        let norm =
            |range: Range<usize>| adapters.values()[range].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        for adapter in adapters.iter() {
            // What other kinds add depends on the base.
            let Some(lora) = adapter.as_lora() else { return false };
            alone += (weight * lora.scale).powi(2) * norm(lora.a()) * norm(lora.b());
        }
    }
    let added: f64 = report.modules.iter().map(|module| module.delta_norm.powi(2)).sum();
    alone > 0.0 && added <= CANCELLED_SHARE.powi(2) * alone
}

fn survived(effect: &Effect, probe: &Probe) -> String {
    let Some(share) = effect.share() else {
        return format!("the adapter changes nothing on {}: there is no effect to keep", probe.described);
    };
    format!(
        "effect of the adapter that survives: {:.1} % (± {:.1}) of its shift of log-probs on {} tokens of {}; KL from it {:.2e} \
         nats a token, from it to the base {:.2e}; greedy text follows the base in {} of {} where the adapter's does not",
        100.0 * share,
        100.0 * effect.share_error(),
        effect.tokens,
        probe.described,
        effect.lost(),
        effect.whole(),
        effect.fallen_back,
        effect.changed,
    )
}

/// The weighted sum of base and adapters; and the base alone where it is not the first without its adapters. The base
/// is as stored: the loss through another type counts as the merged model's. The decoder adapts no head, so the sum of
/// head and adapters replaces it.
fn policy(base: &Base, parts: &[(&Adapters, f64)]) -> Result<(Decoder, Policy, Option<Decoder>)> {
    let load = |spec: DecoderSpec, source: &dyn WeightSource| {
        let mut decoder = Decoder::load(spec, source, None)?;
        decoder.place_exactly_on(base.backend.clone());
        Ok::<_, crate::error::Error>(decoder)
    };
    let plain = || load(base.spec.clone(), &*base.source);
    let scaled = parts.iter().map(|(adapters, weight)| adapters.scaled(*weight));
    Ok(match head::adapted(&*base.source, &base.spec, parts)? {
        Some((source, spec)) => {
            let rest = scaled.map(|adapters| head::without(&adapters, &base.spec)).collect();
            (load(spec, &source)?, Policy::stacked(rest)?, Some(plain()?))
        }
        None => (plain()?, Policy::stacked(scaled.collect())?, None),
    })
}

#[cfg(test)]
mod tests;
