//! `dpo-lora merge`: adapters folded into the base, or into one adapter.

mod bound;
mod compose;
mod effect;
mod probe;
mod side;
mod verify;

use std::collections::BTreeSet;
use std::path::Path;

use super::output::{check_adapter_directory, check_gguf, model_inputs, say};
use crate::adapter::merge::gguf::{FileType, GgufOptions};
use crate::adapter::merge::{self, MergeOptions, MergeReport};
use crate::cli::{MergeArgs, MergeDtype, MergeFormat};
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::WeightDtype;
use crate::toolkit::{AdapterUse, Base, OpenOptions, Place, TrainedWith, set_threads};
use crate::trainable::Adapters;
use crate::weights::DType;
use verify::Merged;

pub(super) fn run(args: &MergeArgs, quiet: bool) -> Result<()> {
    let say = |text: &str| {
        if !quiet {
            say(text)
        }
    };
    check_output(args)?;
    set_threads(args.threads)?;
    let options = OpenOptions {
        dtype: weight_dtype(args)?,
        device: args.device,
        load_in_4bit: None,
        force: args.force,
    };
    let base = Base::open_with(&args.base, &options)?;
    let weights = weights(args)?;
    let purpose = AdapterUse { head: true, score: false, force: args.force, unmerge: args.unmerge };
    let adapters =
        args.adapter.iter().map(|path| base.adapter_for(path, purpose)).collect::<Result<Vec<_>>>()?;
    let parts: Vec<(&Adapters, f64)> = adapters.iter().zip(weights).collect();
    match (&args.output, &args.output_adapter) {
        (Some(output), _) => {
            if !args.unmerge {
                TrainedWith::warn_of_missing(&args.adapter)?;
            }
            into_model(&base, &parts, output, args, say)
        }
        (None, Some(directory)) => {
            let trained = TrainedWith::of_one_made_of(&args.adapter)?;
            compose::run(&base, (&parts[..], &trained), directory, args, say)
        }
        (None, None) => Err(Error::Config("name --output or --output-adapter".into())),
    }
}

/// Checks, before anything is read, that the output can be written and takes the place of nothing that is read.
fn check_output(args: &MergeArgs) -> Result<()> {
    let mut inputs = model_inputs(&args.base, &args.adapter);
    args.data.iter().for_each(|data| inputs.add_data(data));
    let named_gguf = |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    match (&args.output, &args.output_adapter) {
        (Some(output), _) if args.format == MergeFormat::Gguf => {
            inputs.check_file(output)?;
            check_gguf(output, args.force, false)
        }
        (Some(output), _) if named_gguf(output) => Err(Error::Config(format!(
            "the output {} would be a directory; add --format gguf for a GGUF file, or name a directory",
            output.display()
        ))),
        (Some(directory), _) => {
            merge::check_directory(directory)?;
            inputs.check_directory(directory)
        }
        (None, Some(directory)) => {
            merge::check_directory(directory)?;
            inputs.check_directory(directory)?;
            check_adapter_directory(directory, "--output-adapter", args.force)
        }
        (None, None) => Ok(()),
    }
}

/// Refuses weights that are not finite. Where the merged model is verified, its decoders check them.
fn check_finite(base: &Base) -> Result<()> {
    for name in base.source.names() {
        let weight = base.source.get(&name);
        if let Some(value) = weight.ok().and_then(|weight| weight.first_non_finite()) {
            let base = &base.name;
            return Err(Error::Weights(format!(
                "tensor {name} of {base} holds {value}, which is not a valid weight"
            )));
        }
    }
    Ok(())
}

/// Writes the merged model as requested.
fn into_model(
    base: &Base,
    parts: &[(&Adapters, f64)],
    output: &Path,
    args: &MergeArgs,
    say: impl Fn(&str),
) -> Result<()> {
    let scratch = files::TemporaryDirectory::new(&std::env::temp_dir())?;
    let directory = match &base.place {
        Place::Directory(directory) => directory,
        Place::Gguf(files) => {
            files.write(scratch.path())?;
            scratch.path()
        }
    };
    if args.no_verify {
        check_finite(base)?;
    }
    let from = merge::Base { directory, source: &*base.source, spec: &base.spec };
    // Without its adapters a model has the template of its base.
    let own = if args.unmerge { None } else { base.template_of(&args.adapter)? };
    let chat_template = own.as_ref().map(|own| own.text.as_str());
    let merged = Merged { base, from: &from, parts, chat_template, args };
    let check = |place: &Path, report: &MergeReport| {
        say(&written(report, output, args.unmerge));
        if let Some(own) = &own {
            say(&format!("its chat template is that with which {} was trained", own.adapter.display()));
        }
        if !report.left_out.is_empty() {
            let files = report.left_out.join(", ");
            super::output::say(&format!("warning: not copied from the base's directory: {files}"));
        }
        note_other_types(report, args);
        merged.verify(place, report, &say)
    };
    match args.format {
        MergeFormat::Gguf => {
            let options = GgufOptions { kind: file_type(args.dtype), overwrite: args.force, chat_template };
            merge::gguf::merge_checked(&from, parts, output, &options, check)?;
        }
        MergeFormat::Safetensors => {
            let options = MergeOptions { chat_template, ..safetensors(base, args, &say)? };
            merge::merge_checked(&from, parts, output, &options, check)?;
        }
    }
    Ok(())
}

/// Returns how the weights of a model directory are written.
fn safetensors(base: &Base, args: &MergeArgs, say: &impl Fn(&str)) -> Result<MergeOptions<'static>> {
    let mut options = MergeOptions { dtype: base.dtype, overwrite: args.force, ..MergeOptions::default() };
    if matches!(base.place, Place::Gguf(_)) {
        let dtype = *options.dtype.get_or_insert(DType::Bf16);
        let (name, stored) = (&base.name, base.decoder()?.storage().to_string());
        say(&format!("{name} ({stored}) is dequantised and stored as safetensors in {}", dtype.name()));
    }
    Ok(options)
}

/// Tells of matrices that are not stored in the type that was asked for: those of K-quants have rows of multiples of 256.
fn note_other_types(report: &MergeReport, args: &MergeArgs) {
    let wanted: &[&str] = match args.dtype {
        MergeDtype::Q8_0 => &["Q8_0"],
        MergeDtype::Q6K => &["Q6_K"],
        MergeDtype::Q4KM => &["Q4_K", "Q6_K"],
        MergeDtype::Auto | MergeDtype::F32 | MergeDtype::Bf16 | MergeDtype::F16 => return,
    };
    let types = report.modules.iter().map(|module| module.storage.as_str());
    let others: Vec<&str> = types.filter(|of| !wanted.iter().any(|is| is.eq_ignore_ascii_case(of))).collect();
    if !others.is_empty() {
        let names: BTreeSet<&str> = others.iter().copied().collect();
        super::output::say(&format!(
            "warning: {} of {} matrices are stored as {}, not {}: the length of their rows does not divide into its blocks",
            others.len(),
            report.modules.len(),
            names.into_iter().collect::<Vec<_>>().join(", "),
            args.dtype
        ));
    }
}

/// Describes what was written, before it is verified.
fn written(report: &MergeReport, output: &Path, unmerge: bool) -> String {
    format!(
        "{} {} modules into {}; rounding moved a weight by {:.2e} at most ({:.2} % of the change's norm)",
        if unmerge { "unmerged" } else { "merged" },
        report.modules.len(),
        output.display(),
        report.rounding_max(),
        100.0 * report.rounding_share()
    )
}

/// Returns the type of a GGUF model's matrices; `None`: as in the base.
fn file_type(dtype: MergeDtype) -> Option<FileType> {
    match dtype {
        MergeDtype::Auto => None,
        MergeDtype::F32 => Some(FileType::F32),
        MergeDtype::Bf16 => Some(FileType::BF16),
        MergeDtype::F16 => Some(FileType::F16),
        MergeDtype::Q8_0 => Some(FileType::Q8_0),
        MergeDtype::Q6K => Some(FileType::Q6K),
        MergeDtype::Q4KM => Some(FileType::Q4KM),
    }
}

/// Returns the storage type of the merged weights.
fn weight_dtype(args: &MergeArgs) -> Result<WeightDtype> {
    match args.dtype {
        MergeDtype::Auto => Ok(WeightDtype::Auto),
        MergeDtype::F32 => Ok(WeightDtype::F32),
        MergeDtype::Bf16 => Ok(WeightDtype::BF16),
        MergeDtype::F16 => Ok(WeightDtype::F16),
        _ if args.format == MergeFormat::Gguf => Ok(WeightDtype::Auto),
        quantised => {
            Err(Error::Config(format!("--dtype {quantised} is available in GGUF only; add --format gguf")))
        }
    }
}

/// Returns one factor per adapter; they are negative to subtract adapters.
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
