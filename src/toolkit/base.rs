//! Opening a base: directory, architecture, weights, tokenizer, adapters.

mod adapters;
mod checks;
mod device;
mod gguf;
mod left;
mod size;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::gguf::GgufFiles;
pub use self::gguf::is_file as is_gguf_file;
use super::records::{Pairs, Reader};
use super::{embedded, hub};
use crate::adapter::fingerprint::{self, ARCHITECTURE_KEY};
use crate::adapter::peft;
use crate::adapter::twin::{SKETCH_KEY, Sketch};
use crate::data::{ChatTokenizer, DataConfig, Record, Sources};
use crate::device::Backend;
use crate::error::{Error, Result};
use crate::model::config::{DeviceChoice, FourBit, WeightDtype};
use crate::model::decoder::Decoder;
use crate::model::families::{self, ConfigJson};
use crate::model::gguf::GgufModel;
use crate::model::spec::DecoderSpec;
use crate::weights::{DType, SafetensorsSource, WeightSource};

/// What an adapter is read for.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdapterUse {
    /// The language-model head may be adapted.
    pub head: bool,
    /// It may be a reward model, with a scalar head.
    pub score: bool,
    /// A base that it was not trained on will do.
    pub force: bool,
    /// It is taken off a model it was merged into, whose weights are not its base's. See [`Base::check_left`].
    pub unmerge: bool,
}

/// How a base is opened. The default is what the file holds, on the best device.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// The type of its weights.
    pub dtype: WeightDtype,
    /// Where it computes.
    pub device: DeviceChoice,
    /// Whether its projections are quantised when they are loaded.
    pub load_in_4bit: Option<FourBit>,
    /// Keys and tensors that are not understood are warned of, not refused.
    pub force: bool,
}

impl OpenOptions {
    /// On the processor.
    pub fn on_cpu() -> Self {
        Self { device: DeviceChoice::Cpu, ..Self::default() }
    }
}

/// A base as opened.
pub struct Base {
    /// As the user named it; of the Hub, without the revision.
    pub name: String,
    /// The commit of the Hub's repository that it is.
    pub revision: Option<String>,
    /// The source of its configuration and tokenizer.
    pub place: Place,
    /// Its weights.
    pub source: Box<dyn WeightSource>,
    /// Its architecture.
    pub spec: DecoderSpec,
    /// Where it computes, if that is not the processor.
    pub backend: Option<Arc<dyn Backend>>,
    /// What its matrices are stored as, if not as in the file.
    pub dtype: Option<DType>,
    /// Whether its projections are quantised when they are loaded.
    pub four_bit: bool,
    /// Whether what is refused otherwise is warned of: `--force`.
    pub forced: bool,
}

/// Settings that change which tokens are drawn, also greedily, and the number with which they change nothing.
const PROCESSORS: &[(&str, Option<f64>)] = &[
    ("bad_words_ids", None),
    ("begin_suppress_tokens", None),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("forced_bos_token_id", None),
    ("forced_eos_token_id", None),
    ("min_length", Some(0.0)),
    ("min_new_tokens", Some(0.0)),
    ("no_repeat_ngram_size", Some(0.0)),
    ("repetition_penalty", Some(1.0)),
    ("sequence_bias", None),
    ("suppress_tokens", None),
];

/// The source of a base's configuration and tokenizer.
pub enum Place {
    /// In files of their own in this directory.
    Directory(PathBuf),
    /// In the metadata of a GGUF file.
    Gguf(Box<GgufFiles>),
}

impl Base {
    /// Finds and maps a base: a directory, a GGUF file, or a model of the Hub, which is downloaded if it is not in the cache.
    ///
    /// # Errors
    /// If it is not there, damaged, or of an unknown architecture.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_with(name, &OpenOptions::default())
    }

    /// As [`Base::open`], with other settings than the defaults.
    ///
    /// # Errors
    /// As [`Base::open`]; or if a GGUF file is to be quantised again.
    pub fn open_with(name: &str, options: &OpenOptions) -> Result<Self> {
        let OpenOptions { dtype, device, load_in_4bit, force } = *options;
        let dtype = match dtype {
            WeightDtype::Auto => None,
            WeightDtype::F32 => Some(DType::F32),
            WeightDtype::BF16 => Some(DType::Bf16),
            WeightDtype::F16 => Some(DType::F16),
        };
        // First: a base of the Hub may have to be downloaded.
        let backend = device::open(device)?;
        let (mut shown, mut revision) = (name.to_string(), None);
        let (place, source, spec): (_, Box<dyn WeightSource>, _) = if gguf::is_file(Path::new(name)) {
            let GgufModel { file, config, spec, source } = GgufModel::open(Path::new(name))?;
            (Place::Gguf(Box::new(GgufFiles::new(&file, config)?)), Box::new(source), spec)
        } else {
            let directory = match locate(name)? {
                Some(directory) => directory,
                None => {
                    let found = hub::model(name)?;
                    (shown, revision) = (found.repository, Some(found.commit));
                    found.directory
                }
            };
            checks::is_fetched(&directory)?;
            checks::is_base(name, &directory)?;
            checks::is_no_adapter(name, &directory, force)?;
            let config = ConfigJson::open(&directory)?.forced(force);
            let spec = families::spec(&config)?;
            config.notes().iter().for_each(|note| log::warn!("{note}"));
            let source = SafetensorsSource::open(&directory)?;
            let spec = checks::understood(spec, &source, force)?;
            (Place::Directory(directory), Box::new(source), spec)
        };
        if let (Some(choice), Place::Gguf(_)) = (load_in_4bit, &place) {
            return Err(Error::Config(format!(
                "load_in_4bit: {choice} is for safetensors bases; {shown} is a GGUF file, whose weights stay as they are stored"
            )));
        }
        log::debug!(
            "base: {}, {} tensors, model type {}, {} layers",
            source.describe(),
            source.names().len(),
            spec.model_type,
            spec.layers.len()
        );
        Ok(Self {
            name: shown,
            revision,
            place,
            source,
            spec,
            backend,
            dtype,
            four_bit: load_in_4bit.is_some(),
            forced: force,
        })
    }

    /// A name that finds the very same base for ever: of the Hub, `owner/name@commit`.
    pub fn pinned(&self) -> String {
        match &self.revision {
            Some(commit) => format!("{}@{commit}", self.name),
            None => self.name.clone(),
        }
    }

    /// Returns how its adapters identify it.
    ///
    /// # Errors
    /// As [`Base::fingerprint`].
    pub fn origin(&self) -> Result<peft::Origin> {
        let (base, revision) = match (&self.revision, hub::cached(&self.name)) {
            (None, Some((repository, commit))) => (repository, Some(commit)),
            (revision, _) => (self.name.clone(), revision.clone()),
        };
        let noted =
            [(SKETCH_KEY, self.sketch().to_text()), (ARCHITECTURE_KEY, self.architecture().to_text())];
        let metadata = noted.into_iter().map(|(key, text)| (key.to_string(), text)).collect();
        Ok(peft::Origin { base, revision, fingerprint: Some(self.fingerprint()?), metadata })
    }

    /// Returns some of its numbers, by which the same weights in another type are recognised.
    pub fn sketch(&self) -> Sketch {
        Sketch::of(&*self.source, &self.spec)
    }

    /// Returns the text of its `config.json`; empty if it cannot be read.
    pub fn config_json(&self) -> String {
        match &self.place {
            Place::Directory(directory) => {
                std::fs::read_to_string(directory.join("config.json")).unwrap_or_default()
            }
            Place::Gguf(files) => serde_json::Value::Object(files.config.clone()).to_string(),
        }
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or no matrix holds a number other than 0.
    pub fn decoder(&self) -> Result<Decoder> {
        let (spec, source) = (self.spec.clone(), &*self.source);
        checks::hold_numbers(&spec, source, self.forced)?;
        let mut decoder = if self.four_bit {
            let (decoder, outcome) = Decoder::load_in_4bit(spec, source, self.dtype)?;
            log::info!("{}", outcome.described()?);
            decoder
        } else {
            Decoder::load(spec, source, self.dtype)?
        };
        decoder.place_on(self.backend.clone());
        Ok(decoder)
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn tokenizer(&self, chat_template: Option<&str>) -> Result<ChatTokenizer> {
        match &self.place {
            Place::Directory(directory) => ChatTokenizer::load(directory, chat_template),
            Place::Gguf(files) => files.tokenizer.load(chat_template),
        }
    }

    /// Preference pairs of a file, a glob, a directory or a data set of the Hub (`hub:owner/name`), as token ids of this
    /// base. Nothing is cut.
    ///
    /// # Errors
    /// If a file is missing, a record is broken, or its tokens do not fit the model.
    pub fn pairs(&self, source: &str) -> Result<Pairs> {
        self.read(&uncut(source.into()))
    }

    /// Returns the pairs of the first `limit` records of `source`.
    ///
    /// # Errors
    /// As [`Base::pairs`].
    pub fn first_pairs(&self, source: &str, limit: usize) -> Result<Pairs> {
        self.read(&DataConfig { limit: Some(limit), ..uncut(source.into()) })
    }

    fn read(&self, config: &DataConfig) -> Result<Pairs> {
        Reader { spec: &self.spec, tokenizer: &self.tokenizer(None)? }.read(&config.train, config)
    }

    /// The same of records that the program has itself.
    ///
    /// # Errors
    /// As [`Base::pairs`].
    pub fn tokenize(&self, records: &[Record]) -> Result<Pairs> {
        let tokenizer = self.tokenizer(None)?;
        Reader { spec: &self.spec, tokenizer: &tokenizer }.tokenize(records, &uncut("memory".into()))
    }

    /// Returns the fingerprint of its weights.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        fingerprint::fingerprint(&*self.source)
    }

    /// Settings of its generation that transformers' `generate` would apply, and that are not applied here.
    pub fn unapplied_settings(&self) -> Vec<String> {
        let Place::Directory(directory) = &self.place else { return Vec::new() };
        let config = generation_config(directory);
        let applied = |(key, neutral): &&(&str, Option<f64>)| {
            let value = &config[*key];
            !value.is_null() && (neutral.is_none() || value.as_f64() != *neutral)
        };
        let shown = |(key, _): &(&str, Option<f64>)| format!("{key} {}", config[*key]);
        PROCESSORS.iter().filter(applied).map(shown).collect()
    }

    /// Tokens that end a completion: the tokenizer's and those of `generation_config.json`.
    pub fn eos(&self, tokenizer: &ChatTokenizer) -> Vec<u32> {
        let directory = match &self.place {
            Place::Directory(directory) => directory,
            Place::Gguf(files) => return files.ends.clone(),
        };
        let config = generation_config(directory);
        // For a model with images, the text part's value where the top level has none.
        let said = Some(&config["eos_token_id"]).filter(|ids| !ids.is_null());
        let listed = match said.unwrap_or(&config["text_config"]["eos_token_id"]) {
            serde_json::Value::Array(ids) => ids.clone(),
            one => vec![one.clone()],
        };
        let mut eos: Vec<u32> = listed
            .iter()
            .filter_map(|id| u32::try_from(id.as_u64()?).ok())
            .chain(tokenizer.eos_id())
            .collect();
        eos.sort_unstable();
        eos.dedup();
        eos
    }
}

/// The settings of generation. As in transformers, those in `config.json` apply where there are no others.
fn generation_config(directory: &Path) -> serde_json::Value {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    let text = ["generation_config.json", "config.json"].into_iter().find_map(read).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Returns a base's directory; `None` if it is not on this machine.
fn locate(name: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(Some(path.to_path_buf()));
    }
    if let Some(embedded) = embedded::path(name)? {
        return Ok(Some(embedded));
    }
    if hub::is_gguf(path) {
        let near = hub::near(name).map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Err(Error::Config(format!("there is no file {name}{near}")));
    }
    if path.exists() {
        return Err(Error::Config(format!(
            "{name} is a file; a base is a directory with config.json, tokenizer.json and safetensors weights, or a \
             .gguf file"
        )));
    }
    Ok(None)
}

/// Settings without any limit of length.
fn uncut(sources: Sources) -> DataConfig {
    DataConfig { max_length: None, ..DataConfig::new(sources) }
}
