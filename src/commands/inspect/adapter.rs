//! Describes an adapter, and how it changes its base.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::super::output::say;
use crate::adapter::fingerprint;
use crate::adapter::inspect::{self, ModuleReport, OtherReport};
use crate::adapter::peft;
use crate::adapter::read::{self, Adapter, Format, Reading};
use crate::cli::InspectArgs;
use crate::error::{Error, Result};
use crate::toolkit::{AdapterUse, Base, Beneath, OpenOptions, TrainedWith};
use crate::trainable::Adapter as Kind;

/// The reported facts of an adapter.
#[derive(Serialize)]
pub(super) struct Found {
    path: String,
    format: Format,
    base: Option<String>,
    base_fingerprint: Option<String>,
    /// The frozen adapters that it was trained above, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    frozen_adapters: Vec<Beneath>,
    r: usize,
    lora_alpha: f64,
    use_rslora: bool,
    use_dora: bool,
    modules: usize,
    parameters: usize,
    delta_norm: f64,
    share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    module: Vec<Module>,
    /// What is trained other than by low-rank matrices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other: Vec<OtherReport>,
}

#[derive(Serialize)]
struct Module {
    #[serde(flatten)]
    report: ModuleReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
}

/// The comparison with another adapter.
#[derive(Serialize)]
struct Against {
    path: String,
    cosine: Option<f64>,
    only_here: Vec<String>,
    only_there: Vec<String>,
}

/// Inspects the adapter at `path`.
///
/// # Errors
/// If it cannot be read, alone or for the given base.
pub(super) fn inspect(path: &Path, args: &InspectArgs) -> Result<Found> {
    let open = |name: &String| Base::open_with(name, &OpenOptions::on_cpu());
    let base = args.base.as_ref().map(open).transpose()?;
    let adapter = read(path, base.as_ref())?;
    if let Some(base) = &base {
        // Adapters of other bases are refused here.
        base.adapter_for(path, AdapterUse { head: true, score: true, force: args.force, unmerge: false })?;
    }
    let adapters = &adapter.adapters;
    let report = inspect::inspect(adapters, base.as_ref().map(|base| (&*base.source, &base.spec)))?;
    let accepted = peft::Accepted { score: true, ..peft::Accepted::default() };
    let first = adapters.iter().find_map(Kind::low_rank);
    let is_peft = read::format_of(path) == Some(Format::Peft);
    let config = is_peft.then(|| peft::PeftConfig::open_for(path, accepted));
    let config = config.transpose()?.filter(|_| first.is_some());
    let mut found = Found {
        path: path.display().to_string(),
        format: adapter.format,
        base: adapter.base.clone(),
        base_fingerprint: adapter.fingerprint.clone(),
        frozen_adapters: TrainedWith::read(path)?.frozen,
        r: config.as_ref().map_or(first.map_or(0, |lora| lora.rank), |config| config.r),
        lora_alpha: config.as_ref().map_or(first.map_or(0.0, |lora| lora.alpha), |config| config.lora_alpha),
        use_rslora: config.is_some_and(|config| config.use_rslora),
        use_dora: adapters.iter().any(|adapter| matches!(adapter, Kind::Dora(_))),
        modules: adapters.len(),
        parameters: report.parameters,
        delta_norm: report.delta_norm,
        share: report.share,
        against: None,
        module: report.modules.into_iter().map(|report| Module { report, cosine: None }).collect(),
        other: report.others,
    };
    if let Some(other) = &args.against {
        found.compare(&adapter, other, base.as_ref())?;
    }
    Ok(found)
}

/// Reads an adapter, for its base if one is given.
fn read(path: &Path, base: Option<&Base>) -> Result<Adapter> {
    match (base, read::format_of(path)) {
        (Some(base), _) => {
            let reading = Reading { head: true, score: true, force: false, base: Some(&*base.source) };
            read::read_for(path, &base.spec, reading)
        }
        (None, Some(Format::Peft)) => {
            let found: Adapter = peft::read_alone(path)?.into();
            found.notes.iter().for_each(|note| say(&format!("{}: {note}", path.display())));
            Ok(found)
        }
        (None, Some(_)) => Err(Error::Config(format!(
            "{} can be read only with the model it belongs to; name that with --base",
            path.display()
        ))),
        (None, None) => Err(Error::Config(format!("{} is not an adapter", path.display()))),
    }
}

impl Found {
    fn compare(&mut self, adapter: &Adapter, other: &Path, base: Option<&Base>) -> Result<()> {
        let comparison = inspect::compare(&adapter.adapters, &read(other, base)?.adapters)?;
        for module in &mut self.module {
            let of = comparison.modules.iter().find(|(name, _)| *name == module.report.module);
            module.cosine = of.and_then(|(_, cosine)| *cosine);
        }
        self.against = Some(Against {
            path: other.display().to_string(),
            cosine: comparison.cosine,
            only_here: comparison.only_first,
            only_there: comparison.only_second,
        });
        Ok(())
    }

    /// The table for people: what the adapter is, then one line per module.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{key:18} {value}");
        };
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        line("adapter", self.path.clone());
        line("format", format!("{:?}", self.format).to_lowercase());
        line("base", or_none(&self.base));
        line("base_fingerprint", self.base_fingerprint.as_deref().map_or("-".into(), fingerprint::shortened));
        for beneath in &self.frozen_adapters {
            line("trained above", format!("{} ({})", beneath.path, fingerprint::shortened(&beneath.hash)));
        }
        if !self.module.is_empty() {
            line("r", self.r.to_string());
            line(
                "lora_alpha",
                format!("{}{}", self.lora_alpha, if self.use_rslora { " (rsLoRA)" } else { "" }),
            );
        }
        if self.use_dora {
            let all = self.module.iter().filter_map(|module| module.report.magnitude);
            let norm = all.map(|m| m * m).sum::<f64>().sqrt();
            line("use_dora", format!("true (‖m‖ {norm:.4}; ‖ΔW‖ is that of scale·B·A)"));
        }
        line("modules", self.modules.to_string());
        line("parameters", self.parameters.to_string());
        let share = self
            .share
            .map_or(String::new(), |share| format!(" ({:.3} % of the adapted weights')", 100.0 * share));
        line("‖ΔW‖", format!("{:.4}{share}", self.delta_norm));
        if let Some(against) = &self.against {
            line("against", against.path.clone());
            line(
                "cosine",
                against.cosine.map_or("- (one of them is 0)".into(), |cosine| format!("{cosine:.4}")),
            );
            line("only here", against.only_here.len().to_string());
            line("only there", against.only_there.len().to_string());
        }
        for OtherReport { module, kind, parameters } in &self.other {
            line("beside them", format!("{module}: {kind}, {parameters} parameters"));
        }
        let width = self.module.iter().map(|module| module.report.module.len()).max().unwrap_or(0);
        let cell = |value: Option<f64>, shown: fn(f64) -> String| value.map_or("-".into(), shown);
        let _ = write!(
            text,
            "\n{:width$} {:>4} {:>9} {:>10} {:>9} {:>8}",
            "module", "r", "scale", "‖ΔW‖", "eff. rank", "share"
        );
        text.push_str(if self.against.is_some() { "   cosine\n" } else { "\n" });
        for Module { report, cosine } in &self.module {
            let share = cell(report.share, |share| format!("{:.3} %", 100.0 * share));
            let ModuleReport { module, rank, scale, delta_norm, effective_rank, .. } = report;
            let _ = write!(
                text,
                "{module:width$} {rank:4} {scale:9.4} {delta_norm:10.4} {effective_rank:9.2} {share:>8}"
            );
            if self.against.is_some() {
                let _ = write!(text, " {:>8}", cell(*cosine, |cosine| format!("{cosine:.4}")));
            }
            text.push('\n');
        }
        text
    }
}
