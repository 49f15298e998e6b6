//! The chat template that adapters were trained with, and whether the tokenizer beside them is the base's.

use std::path::{Path, PathBuf};

use super::super::Base;
use super::super::records::{Pairs, Reader};
use super::{DataSettings, TrainedWith};
use crate::adapter::merge::templates;
use crate::adapter::read;
use crate::data::{ChatTemplate, ChatTokenizer, DataConfig, Sources};
use crate::error::Result;

/// A chat template that is not the base's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnTemplate {
    /// Its text.
    pub text: String,
    /// The adapter that was trained with it.
    pub adapter: PathBuf,
}

impl Base {
    /// Returns the chat template of the adapter that was trained last, if it is not the base's: the one that it notes, else,
    /// for an adapter of another program, the one beside it. Warns if the tokenizer beside that has other tokens.
    ///
    /// # Errors
    /// If the adapter's metadata are damaged, or the template cannot be read.
    pub(crate) fn template_of(&self, adapters: &[PathBuf]) -> Result<Option<OwnTemplate>> {
        let Some((adapter, trained)) = TrainedWith::last_of(adapters, None)? else { return Ok(None) };
        let tokenizer = self.tokenizer(None).ok();
        let own = match (&trained.data.chat_template, &trained.objective) {
            (Some(setting), _) => self.named_template(setting, &adapter)?,
            (None, Some(_)) => None,
            (None, None) => {
                let others = tokenizer.as_ref().and_then(|tokenizer| other_tokens(&adapter, tokenizer));
                others.iter().for_each(|warning| log::warn!("{warning}"));
                beside(&adapter)?
            }
        };
        let bases = tokenizer.as_ref().and_then(ChatTokenizer::template).map(ChatTemplate::source);
        let is_other = |text: &String| bases.is_none_or(|bases| rendered(bases) != rendered(text));
        Ok(own.filter(is_other).map(|text| OwnTemplate { text, adapter }))
    }

    /// Returns the names and contents of the tokenizer's files that stand beside one adapter made of these, with the template
    /// of the one that was trained last.
    ///
    /// # Errors
    /// As [`Base::template_of`] and [`Base::tokenizer_files`].
    pub(crate) fn tokenizer_beside(&self, adapters: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>> {
        let own = self.template_of(adapters)?;
        self.tokenizer_files(own.as_ref().map(|own| own.text.as_str()))
    }

    /// The text of a template that a run named.
    fn named_template(&self, setting: &str, adapter: &Path) -> Result<Option<String>> {
        match self.tokenizer(Some(setting)) {
            Ok(tokenizer) => Ok(tokenizer.template().map(|template| template.source().to_string())),
            // A base without a tokenizer.
            Err(error) => beside(adapter)?.map(Some).ok_or(error),
        }
    }

    /// Returns the pairs of the first `limit` records of `source`, in the template of this tokenizer. Nothing is cut.
    ///
    /// # Errors
    /// As [`Base::pairs`].
    pub(crate) fn first_pairs_in(
        &self,
        tokenizer: &ChatTokenizer,
        source: &str,
        limit: usize,
    ) -> Result<Pairs> {
        let uncut = DataSettings::default().reading(Sources::from(source));
        let config = DataConfig { limit: Some(limit), ..uncut };
        Reader { spec: &self.spec, tokenizer }.read(&config.train, &config)
    }
}

/// The part of a template that is rendered: Jinja leaves out a last line feed.
fn rendered(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// The default template of the tokenizer beside an adapter.
fn beside(adapter: &Path) -> Result<Option<String>> {
    let place = read::located(adapter)?;
    if !place.is_dir() {
        return Ok(None);
    }
    Ok(templates::of(&place)?.remove(templates::DEFAULT))
}

/// Says that the tokenizer beside an adapter has tokens that the base's has not.
fn other_tokens(adapter: &Path, base: &ChatTokenizer) -> Option<String> {
    // An adapter without a tokenizer, or with one that cannot be read, has the base's.
    let its = read::located(adapter).ok().and_then(|place| ChatTokenizer::load(place, None).ok())?;
    let ids = 0..u32::try_from(its.vocab_size()).unwrap_or(u32::MAX);
    let differs = |id: &u32| its.token(*id).is_some_and(|token| base.token(*id).as_ref() != Some(&token));
    let others: Vec<u32> = ids.filter(differs).collect();
    let first = *others.first()?;
    Some(format!(
        "the tokenizer beside {} has {} that the base's has not (the first is {:?}, id {first}), and what is written gets \
         the base's; if the adapter was trained with the other one, copy that over it",
        adapter.display(),
        if others.len() == 1 { "a token".to_string() } else { format!("{} tokens", others.len()) },
        its.token(first).unwrap_or_default()
    ))
}
