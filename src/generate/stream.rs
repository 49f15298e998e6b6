//! A completion shown while it grows.

use super::completion::{Completion, Limits, Request};
use super::growing::{Growing, room};
use super::sequences::{Model, Sequences};
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// Completes a prompt and passes every piece of the text to `show` as soon as it is certain. The pieces together are the
/// completion's text, which is that of [`super::complete`].
///
/// # Errors
/// As [`super::complete`], or the error of `show`.
pub fn complete_streaming(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    request: &Request,
    (policy, pass): (&Policy, Pass),
    limits: &Limits,
    show: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Completion> {
    let most = room(decoder, (policy, pass), &request.prompt, limits)?;
    let mut growing = Growing::new((0, 0), request.prompt.len(), &request.sampling, most);
    let (mut sequences, model) = (Sequences::new(decoder), Model { decoder, policy, pass });
    let place = sequences.open(decoder);
    let mut shown = Shown::default();
    let mut logits = sequences.step(&[(place, &request.prompt)], model)?;
    loop {
        if let Some(completion) = growing.take(&logits, tokenizer, limits)? {
            show(shown.rest(&completion.text))?;
            return Ok(completion);
        }
        let text = tokenizer.decode(growing.tokens(), true)?;
        let piece = shown.certain(&text, &limits.stop);
        if !piece.is_empty() {
            show(piece)?;
        }
        logits = sequences.step(&[(place, growing.next())], model)?;
    }
}

/// How much of a growing text has been shown.
#[derive(Default)]
struct Shown(String);

impl Shown {
    /// The next piece that later tokens will not change: no incomplete character, and nothing that may become a stop text.
    fn certain<'a>(&mut self, text: &'a str, stop: &[String]) -> &'a str {
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let begins_stop = |tail: &str| stop.iter().any(|stop| stop.starts_with(tail));
        let end = whole.char_indices().map(|(at, _)| at).find(|at| begins_stop(&whole[*at..]));
        self.piece(&whole[..end.unwrap_or(whole.len())])
    }

    /// What is left of the final text.
    fn rest<'a>(&mut self, text: &'a str) -> &'a str {
        self.piece(text)
    }

    /// What a text has more than was shown. Some tokenizers change the end of a text when a token follows; what was shown
    /// of it stays.
    fn piece<'a>(&mut self, text: &'a str) -> &'a str {
        let same = self.0.chars().zip(text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
        let same: usize = same.sum();
        if text.len() <= self.0.len() && same == text.len() {
            return "";
        }
        self.0 = text.to_string();
        &text[same..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_certain_and_complete() {
        let mut shown = Shown::default();
        let stop = ["END".to_string()];
        let mut pieces = Vec::new();
        for text in ["A", "A film\u{fffd}", "A filmé E", "A filmé EN", "A filmé ENOUGH"] {
            pieces.push(shown.certain(text, &stop).to_string());
        }
        assert_eq!(pieces, ["A", " film", "é ", "", "ENOUGH"]);
        // Cut at a stop text that the last token completed.
        assert_eq!(shown.rest("A filmé ENOUGH"), "");
        assert_eq!(shown.rest("A filmé ENOUGH."), ".");
    }
}
