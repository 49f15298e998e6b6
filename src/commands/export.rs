//! `dpo-lora export`: an adapter for other programs.

use super::base::Base;
use super::say;
use crate::adapter::gguf::{self, GgufType};
use crate::adapter::peft;
use crate::cli::{ExportArgs, ExportFormat, GgufNumbers};
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::{DeviceChoice, WeightDtype};
use crate::model::lora::Lora;

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    if args.output.exists() && !args.force {
        return Err(Error::Config(format!(
            "{} is there already; name another --output, or --force to replace it",
            args.output.display()
        )));
    }
    let base = Base::open(&args.base, WeightDtype::Auto, DeviceChoice::Cpu)?;
    let mut adapters =
        args.adapter.iter().map(|path| base.adapter(path, args.force)).collect::<Result<Vec<_>>>()?;
    let place = args.output.display();
    match args.format {
        ExportFormat::Gguf => {
            // One adapter keeps its own ranks and alpha; of several the scales are folded.
            let lora = if adapters.len() == 1 {
                adapters.remove(0)
            } else {
                Lora::stacked(&adapters, &base.device)?
            };
            let report = gguf::write(&args.output, &lora, &base.spec, numbers(args.kind))?;
            say(&format!(
                "{place}: {} modules for llama.cpp architecture {}, alpha {}",
                report.modules, report.architecture, report.alpha
            ));
        }
        ExportFormat::Peft => {
            let lora = Lora::stacked(&adapters, &base.device)?;
            let origin = peft::Origin { base: base.name.clone(), fingerprint: Some(base.fingerprint()?) };
            files::write_directory(&args.output, args.force, |new| {
                peft::write(new, &lora, &base.spec, 0.0, &origin)
            })?;
            say(&format!(
                "{place}: {} modules, scale folded into lora_B (lora_alpha = r)",
                lora.slots().len()
            ));
        }
    }
    Ok(())
}

fn numbers(kind: GgufNumbers) -> GgufType {
    match kind {
        GgufNumbers::F32 => GgufType::F32,
        GgufNumbers::F16 => GgufType::F16,
        GgufNumbers::Bf16 => GgufType::BF16,
        GgufNumbers::Q8_0 => GgufType::Q8_0,
    }
}
