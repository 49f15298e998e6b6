//! `dpo-lora merge`: adapters folded into the base, or into one adapter.

mod compose;
mod verify;

use std::path::Path;

use super::base::{self, AdapterUse, Base, Place};
use super::say;
use crate::adapter::gguf::GgufType;
use crate::adapter::merge::gguf::GgufOptions;
use crate::adapter::merge::{self, MergeOptions};
use crate::cli::{MergeArgs, MergeDtype, MergeFormat};
use crate::error::{Error, Result};
use crate::model::config::WeightDtype;
use crate::model::lora::Lora;
use crate::weights::DType;

pub(super) fn run(args: &MergeArgs, quiet: bool) -> Result<()> {
    let say = |text: &str| {
        if !quiet {
            say(text)
        }
    };
    base::set_threads(args.threads)?;
    let base = Base::open(&args.base, weight_dtype(args)?, args.device)?;
    let weights = weights(args)?;
    let purpose = AdapterUse { head: true, force: args.force, unmerge: args.unmerge };
    let adapters =
        args.adapter.iter().map(|path| base.adapter_for(path, purpose)).collect::<Result<Vec<_>>>()?;
    let parts: Vec<(&Lora, f64)> = adapters.iter().zip(weights).collect();
    match (&args.output, &args.output_adapter) {
        (Some(output), _) => into_model(&base, &parts, output, args, say),
        (None, Some(directory)) => compose::run(&base, &parts, directory, args, say),
        (None, None) => Err(Error::Config("name --output or --output-adapter".into())),
    }
}

/// The merged model, as asked for.
fn into_model(
    base: &Base,
    parts: &[(&Lora, f64)],
    output: &Path,
    args: &MergeArgs,
    say: impl Fn(&str),
) -> Result<()> {
    let scratch = tempfile::tempdir().map_err(Error::write(std::env::temp_dir()))?;
    let directory = match &base.place {
        Place::Directory(directory) => directory,
        Place::Gguf(files) => {
            files.write(scratch.path())?;
            scratch.path()
        }
    };
    let from = merge::Base { directory, source: &*base.source, spec: &base.spec };
    let report = match args.format {
        MergeFormat::Gguf => {
            let options = GgufOptions { kind: gguf_type(args.dtype), overwrite: args.force };
            merge::gguf::merge(&from, parts, output, &options)?
        }
        MergeFormat::Safetensors => {
            if output.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
                return Err(Error::Config(format!(
                    "the output {} would be a directory; add --format gguf for a GGUF file, or name a directory",
                    output.display()
                )));
            }
            let mut options =
                MergeOptions { dtype: base.dtype, overwrite: args.force, ..MergeOptions::default() };
            if matches!(base.place, Place::Gguf(_)) {
                let dtype = *options.dtype.get_or_insert(DType::Bf16);
                let (name, stored) = (&base.name, base.decoder()?.storage().to_string());
                say(&format!(
                    "{name} ({stored}) is dequantised and stored as safetensors in {}",
                    dtype.name()
                ));
            }
            merge::merge(&from, parts, output, &options)?
        }
    };
    say(&format!(
        "{} {} modules into {}; rounding moved a weight by {:.2e} at most ({:.2} % of the change's norm)",
        if args.unmerge { "unmerged" } else { "merged" },
        report.modules.len(),
        output.display(),
        report.rounding_max(),
        100.0 * report.rounding_share()
    ));
    if args.no_verify { Ok(()) } else { verify::run(base, parts, output, args.device, say) }
}

/// What matrices of a GGUF model are stored as; `None`: as in the base.
fn gguf_type(dtype: MergeDtype) -> Option<GgufType> {
    match dtype {
        MergeDtype::Auto => None,
        MergeDtype::F32 => Some(GgufType::F32),
        MergeDtype::Bf16 => Some(GgufType::BF16),
        MergeDtype::F16 => Some(GgufType::F16),
        MergeDtype::Q8_0 => Some(GgufType::Q8_0),
    }
}

/// What the merged weights are stored as.
fn weight_dtype(args: &MergeArgs) -> Result<WeightDtype> {
    match args.dtype {
        MergeDtype::Auto => Ok(WeightDtype::Auto),
        MergeDtype::F32 => Ok(WeightDtype::F32),
        MergeDtype::Bf16 => Ok(WeightDtype::BF16),
        MergeDtype::F16 => Ok(WeightDtype::F16),
        MergeDtype::Q8_0 if args.format == MergeFormat::Gguf => Ok(WeightDtype::Auto),
        MergeDtype::Q8_0 => Err(Error::Config("--dtype q8_0 is of GGUF alone; add --format gguf".into())),
    }
}

/// One factor an adapter; negative ones to take adapters off.
fn weights(args: &MergeArgs) -> Result<Vec<f64>> {
    let weights = match (args.weights.len(), args.adapter.len()) {
        (0, adapters) => vec![1.0; adapters],
        (weights, adapters) if weights == adapters => args.weights.clone(),
        (weights, adapters) => {
            return Err(Error::Config(format!(
                "--weights has {weights} factors for {adapters} adapters; give one each"
            )));
        }
    };
    Ok(if args.unmerge { weights.iter().map(|weight| -weight).collect() } else { weights })
}
