//! Splits a sequence of tokens into the text of each, for display.

use std::collections::BTreeMap;

use super::ChatTokenizer;
use crate::error::Result;

/// The largest number of tokens that share a character: a space, then four bytes of UTF-8 with a token each.
const LONGEST: usize = 5;

/// Consecutive tokens and their text. There are several tokens only if a character is split into bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The ids of the tokens.
    pub ids: Vec<u32>,
    /// The text that they add; for a special token, its name in the vocabulary.
    pub text: String,
    /// Whether it is a special token.
    pub is_special: bool,
}

impl ChatTokenizer {
    /// Returns the special tokens by id: the added tokens that are marked as special, and those that
    /// `tokenizer_config.json` names.
    pub fn special_tokens(&self) -> BTreeMap<u32, String> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let marked = added.into_iter().filter(|(_, token)| token.special);
        let named = self.special_tokens.values();
        let named = named.filter_map(|text| Some((self.token_id(text)?, text.clone())));
        marked.map(|(id, token)| (id, token.content)).chain(named).collect()
    }

    /// Splits a sequence of tokens into the text of each. The concatenated texts are the text of the sequence,
    /// including leading spaces that some decoders leave out.
    ///
    /// # Errors
    /// Fails if the tokenizer's decoder fails.
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<Piece>> {
        let special = self.special_tokens();
        let before = Before::new(self);
        let (mut pieces, mut rest) = (Vec::new(), ids);
        while let Some(id) = rest.first() {
            let (piece, len) = match special.get(id) {
                Some(text) => (Piece { ids: vec![*id], text: text.clone(), is_special: true }, 1),
                None => {
                    let run = rest.iter().take(LONGEST).take_while(|id| !special.contains_key(id)).count();
                    let (text, len) = self.character(&before, &rest[..run])?;
                    (Piece { ids: rest[..len].to_vec(), text, is_special: false }, len)
                }
            };
            pieces.push(piece);
            rest = &rest[len..];
        }
        Ok(pieces)
    }

    /// Returns the text of the fewest leading tokens that form whole characters, and their number.
    fn character(&self, before: &Before, ids: &[u32]) -> Result<(String, usize)> {
        for len in 1..=ids.len() {
            let text = self.after(before, &ids[..len])?;
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                return Ok((text, len));
            }
        }
        // Invalid UTF-8, or the replacement character itself.
        Ok((self.after(before, &ids[..ids.len().min(1)])?, 1))
    }

    /// Returns the text that `ids` add to the text before them.
    fn after(&self, before: &Before, ids: &[u32]) -> Result<String> {
        let whole = self.decode(&[&before.ids, ids].concat(), false)?;
        match whole.strip_prefix(&before.text) {
            Some(text) => Ok(text.to_string()),
            None => self.decode(ids, false),
        }
    }
}

/// A text before the tokens, because SentencePiece's decoder leaves out a space at the very beginning.
struct Before {
    ids: Vec<u32>,
    text: String,
}

impl Before {
    fn new(tokenizer: &ChatTokenizer) -> Self {
        let ids = tokenizer.encode("a", false).unwrap_or_default();
        let text = tokenizer.decode(&ids, false).unwrap_or_default();
        Self { ids, text }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CONFIG, tokenizer};

    #[test]
    fn every_token_has_its_text_and_special_ones_their_name() {
        let tokenizer = tokenizer(true, CONFIG);
        let pieces = tokenizer.pieces(&[0, 6, 5, 4, 1]).unwrap();
        let shown: Vec<_> = pieces.iter().map(|p| (p.text.as_str(), p.is_special)).collect();
        assert_eq!(shown, [("<s>", true), ("ab", false), (" ", false), ("c", false), ("</s>", true)]);
        assert_eq!(tokenizer.special_tokens(), [(0, "<s>".into()), (1, "</s>".into())].into());
        assert!(tokenizer.pieces(&[]).unwrap().is_empty());
    }
}
