//! `dpo-lora export`: an adapter for other programs.

mod serving;

use serde_json::{Value, json};

use super::output::{
    check_adapter_directory, check_forced, check_gguf, model_inputs, print_json, print_text, say,
    say_as_it_is,
};
use crate::adapter::gguf::{self, GgufType};
use crate::adapter::layout::{self, Naming};
use crate::adapter::merge::check_directory;
use crate::adapter::servers::{self, Serves, Verdict, Written};
use crate::adapter::{mlx, peft};
use crate::cli::{ExportArgs, ExportFormat, GgufNumbers, ServerName};
use crate::error::{Error, Result};
use crate::files;
use crate::toolkit::{AdapterUse, Base, OpenOptions, TrainedWith};
use crate::trainable::Adapters;

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    check_output(args)?;
    if args.kind != GgufNumbers::F32 && args.format != ExportFormat::Gguf {
        return Err(Error::Config(
            "--dtype applies to --format gguf only; the other formats store f32".into(),
        ));
    }
    let base = Base::open_with(&args.base, &OpenOptions { force: args.force, ..OpenOptions::on_cpu() })?;
    let purpose = AdapterUse { head: true, score: false, force: args.force, unmerge: false };
    let adapters =
        args.adapter.iter().map(|path| base.adapter_for(path, purpose)).collect::<Result<Vec<_>>>()?;
    let adapters = one(adapters, args.fold_scale)?;
    let written = match args.format {
        ExportFormat::Gguf => Written::Gguf,
        ExportFormat::Mlx => Written::Mlx,
        ExportFormat::Peft => Written::Peft,
    };
    let config = base.config_json();
    let config: Value = serde_json::from_str(&config).unwrap_or_default();
    let verdicts = servers::verdicts(written, &adapters, &base.spec, &config)?;
    check_served(&verdicts, args)?;
    let trained = TrainedWith::of_one_made_of(&args.adapter)?;
    let told = write(&base, (&adapters, &trained), &config, args)?;
    let served =
        (args.format == ExportFormat::Gguf).then(|| serving::write(&base, &args.output)).transpose()?;
    if args.json {
        let output = args.output.display().to_string();
        return print_json(&json!({ "output": output, "modules": adapters.len(), "servers": verdicts }));
    }
    say(&format!("{}: {told}", args.output.display()));
    print_text(&table(&verdicts))?;
    served.iter().for_each(|served| say_as_it_is(served));
    Ok(())
}

/// Refuses an output that is read, and what is there already, unless it is asked for and is an adapter of this format.
fn check_output(args: &ExportArgs) -> Result<()> {
    let (output, inputs) = (&args.output, model_inputs(&args.base, &args.adapter));
    if args.format != ExportFormat::Gguf {
        check_directory(output)?;
        inputs.check_directory(output)?;
        return check_adapter_directory(output, "--output", args.force);
    }
    let modelfile = serving::modelfile(output);
    if modelfile == *output {
        return Err(Error::Config(format!(
            "--output {} is the name of the Modelfile that is written beside the adapter; name a .gguf file",
            output.display()
        )));
    }
    inputs.check_file(output)?;
    check_gguf(output, args.force, true)?;
    inputs.check_file(&modelfile)?;
    if modelfile.exists() {
        check_forced(&modelfile, "--output", args.force)?;
    }
    files::check_earlier(&modelfile, "a Modelfile", |head| {
        String::from_utf8_lossy(head).lines().any(|line| line.starts_with("FROM "))
    })
}

/// A single adapter keeps its own ranks and alphas where PEFT's settings can express them; for several the scales are
/// folded.
fn one(mut adapters: Vec<Adapters>, fold: bool) -> Result<Adapters> {
    if adapters.len() == 1 && !fold && adapters[0].has_peft_scales() {
        return Ok(adapters.remove(0));
    }
    Adapters::stacked(&adapters)
}

/// Checks that the program named by `--for` serves what is written.
fn check_served(verdicts: &[Verdict], args: &ExportArgs) -> Result<()> {
    let Some(naming) = args.program.map(naming) else { return Ok(()) };
    let Some(verdict) = servers::of_naming(naming, verdicts) else { return Ok(()) };
    if verdict.serves != Serves::No || args.force {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{} does not serve this adapter: {} ({}); --force writes it anyway",
        verdict.server, verdict.note, verdict.checked
    )))
}

fn naming(program: ServerName) -> Naming {
    match program {
        ServerName::Transformers => Naming::Transformers,
        ServerName::Vllm => Naming::Vllm,
        ServerName::Sglang => Naming::Sglang,
    }
}

/// Writes the adapter, with how it was trained, and describes in words what was written.
fn write(
    base: &Base,
    (adapters, trained): (&Adapters, &TrainedWith),
    config: &Value,
    args: &ExportArgs,
) -> Result<String> {
    let mut origin = base.origin()?;
    origin.metadata.extend(trained.metadata()?);
    match args.format {
        ExportFormat::Gguf => {
            let report = gguf::write(&args.output, adapters, &base.spec, numbers(args.kind), &origin)?;
            Ok(format!(
                "{} modules for llama.cpp architecture {}, alpha {}",
                report.modules, report.architecture, report.alpha
            ))
        }
        ExportFormat::Mlx => {
            let report = files::write_directory(&args.output, args.force, |new| {
                mlx::write(new, adapters, &base.spec, &origin)
            })?;
            let (modules, rank, scale) = (report.modules, report.rank, report.scale);
            Ok(format!(
                "{modules} modules for mlx-lm, rank {rank}, scale {scale}, last {} layers",
                report.num_layers
            ))
        }
        ExportFormat::Peft => {
            let beside = base.tokenizer_beside(&args.adapter)?;
            let naming = args.program.map_or(Naming::Transformers, naming);
            let model_type = config["model_type"].as_str().unwrap_or(&base.spec.model_type);
            let named = |module: &str| layout::named(module, naming, model_type);
            files::write_directory(&args.output, args.force, |new| {
                beside.iter().try_for_each(|(name, bytes)| files::write_bytes(&new.join(name), bytes))?;
                peft::write_named(new, adapters, &base.spec, 0.0, &origin, &named)
            })?;
            let folded =
                adapters.iter().filter_map(|adapter| adapter.low_rank()).all(|lora| lora.scale == 1.0);
            let folded = if folded { ", scale folded into lora_B (lora_alpha = r)" } else { "" };
            Ok(format!("{} modules{folded}", adapters.len()))
        }
    }
}

/// One line per server.
fn table(verdicts: &[Verdict]) -> String {
    let line = |verdict: &Verdict| {
        let serves = match verdict.serves {
            Serves::Yes => "yes",
            Serves::No => "no",
            Serves::Unknown => "?",
        };
        format!("{:15} {serves:4} {} [{}]\n", verdict.server, verdict.note, verdict.checked)
    };
    verdicts.iter().map(line).collect()
}

fn numbers(kind: GgufNumbers) -> GgufType {
    match kind {
        GgufNumbers::F32 => GgufType::F32,
        GgufNumbers::F16 => GgufType::F16,
        GgufNumbers::Bf16 => GgufType::BF16,
        GgufNumbers::Q8_0 => GgufType::Q8_0,
    }
}
