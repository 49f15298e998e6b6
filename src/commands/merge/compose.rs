//! Adapters combined into one adapter.

use std::path::Path;

use crate::adapter::compose::{self, Combination, ComposeOptions, MajoritySign};
use crate::adapter::peft;
use crate::cli::{CombinationName, MajoritySignName, MergeArgs};
use crate::error::{Error, Result};
use crate::files;
use crate::toolkit::{Base, TrainedWith};
use crate::trainable::Adapters;

/// Writes one adapter for all `parts`, with how these were trained, and the tokenizer beside it as a run writes it.
pub(super) fn run(
    base: &Base,
    (parts, trained): (&[(&Adapters, f64)], &TrainedWith),
    output: &Path,
    args: &MergeArgs,
    say: impl Fn(&str),
) -> Result<()> {
    let options = options(args, parts.len())?;
    let made = compose::compose(parts, &options)?;
    let mut origin = base.origin()?;
    origin.metadata.extend(trained.metadata()?);
    let beside = base.tokenizer_beside(&args.adapter)?;
    files::write_directory(output, args.force, |new| {
        beside.iter().try_for_each(|(name, bytes)| files::write_bytes(&new.join(name), bytes))?;
        peft::write(new, &made.adapters, &base.spec, 0.0, &origin)
    })?;
    let loras = made.adapters.loras("a combination of adapters")?;
    let ranks = loras.iter().map(|lora| lora.rank);
    let (least, most) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
    let ranks = if least == most { format!("rank {most}") } else { format!("ranks {least} to {most}") };
    say(&format!(
        "{}: {} of {} {}, {} modules of {ranks}",
        output.display(),
        options.combination,
        parts.len(),
        if parts.len() == 1 { "adapter" } else { "adapters" },
        loras.len()
    ));
    if let Some((all, least)) = made.energy() {
        say(&format!(
            "energy kept (share of ‖ΔW‖²): {:.4} %, of the module that lost most {:.4} %",
            100.0 * all,
            100.0 * least
        ));
    }
    Ok(())
}

fn options(args: &MergeArgs, adapters: usize) -> Result<ComposeOptions> {
    let combination = match args.combination {
        Some(CombinationName::Linear) => Combination::Linear,
        Some(CombinationName::Cat) => Combination::Cat,
        Some(CombinationName::Svd) => Combination::Svd,
        Some(CombinationName::Ties) => Combination::Ties,
        Some(CombinationName::DareLinear) => Combination::DareLinear,
        Some(CombinationName::DareTies) => Combination::DareTies,
        Some(CombinationName::MagnitudePrune) => Combination::MagnitudePrune,
        None if adapters == 1 && args.rank.is_none() => Combination::Linear,
        None => Combination::Svd,
    };
    if args.rank.is_some() && combination != Combination::Svd {
        return Err(Error::Config(format!(
            "--rank applies to --combination svd only; {combination} has its own rank"
        )));
    }
    let whole = matches!(combination, Combination::Linear | Combination::Cat | Combination::Svd);
    let density = match (args.density, whole) {
        (None, true) => 1.0,
        (Some(density), false) => density,
        (None, false) => {
            return Err(Error::Config(format!(
                "{combination} needs --density, the share of numbers kept, such as 0.5"
            )));
        }
        (Some(_), true) => {
            return Err(Error::Config(format!("{combination} keeps all numbers; leave --density out")));
        }
    };
    let majority_sign = match args.majority_sign_method {
        MajoritySignName::Total => MajoritySign::Total,
        MajoritySignName::Frequency => MajoritySign::Frequency,
    };
    Ok(ComposeOptions { combination, density, majority_sign, seed: args.seed, rank: args.rank })
}
