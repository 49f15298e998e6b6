//! The adapted model that the arguments of score, eval and generate ask for.

use super::together::threads;
use crate::cli::{ModelArgs, RuntimeArgs};
use crate::config::Recipe;
use crate::data::template;
use crate::error::Result;
use crate::ranks::{ALONE, Ranks};
use crate::toolkit::{Adapted, Base, OpenOptions, TrainedWith, set_threads};

/// Opens the base.
///
/// # Errors
/// As [`Base::open_with`].
pub(super) fn base(args: &ModelArgs) -> Result<Base> {
    base_on(&ALONE, args)
}

/// As [`base`], on one of several ranks.
///
/// # Errors
/// As [`base`], or if a rank has failed.
pub(super) fn base_on(ranks: &Ranks, args: &ModelArgs) -> Result<Base> {
    let RuntimeArgs { dtype, load_in_4bit, device, threads: asked } = args.runtime;
    set_threads(threads(asked, ranks))?;
    let options = OpenOptions { dtype, device, load_in_4bit, force: args.force };
    ranks.once_per_machine(|| Base::open_with(&args.base, &options))
}

/// Reads the adapters.
///
/// # Errors
/// As [`Base::with_adapters`].
pub(super) fn adapted<'a>(base: &'a Base, args: &ModelArgs) -> Result<Adapted<'a>> {
    base.with_adapters(&args.adapter, trained_with(args)?, args.force)
}

/// Returns how the policy was trained: as `--config` says, else as the metadata of the adapter say that was trained last;
/// `--chat-template` replaces the template. Warns of adapters that were trained above others which are not named.
fn trained_with(args: &ModelArgs) -> Result<TrainedWith> {
    TrainedWith::warn_of_missing(&args.adapter)?;
    let mut trained = match &args.config {
        Some(config) => TrainedWith::configured(&Recipe::from_file(config, &[])?.into_last()?)?,
        None => TrainedWith::of_all(&args.adapter)?,
    };
    if let Some(template) = &args.chat_template {
        trained.data.chat_template = Some(template::portable(template));
    }
    Ok(trained)
}
