//! Records as a model sees them, for people: which text is scored, and where the special tokens are.
//!
//! [`Shown`] is a record or an example in pieces. [`Shown::text`] writes it for a file or a terminal, [`html::page`] as a
//! page of its own.

mod escape;
pub mod html;
mod shown;
mod text;

pub use escape::harmless;
pub use shown::Shown;
pub use text::Form;

use super::example::Example;
use super::tokenizer::ChatTokenizer;
use crate::error::Result;

/// How an example is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// How text is marked.
    pub form: Form,
    /// Tokens of a prompt or completion; of longer ones the middle is left out. `None`: all.
    pub most_tokens: Option<usize>,
}

/// Shows one example: its origin, its prompt and its completions.
///
/// # Errors
/// If the tokenizer's decoder fails.
pub fn example(tokenizer: &ChatTokenizer, example: &Example, style: Style) -> Result<String> {
    Ok(Shown::tokens(tokenizer, example, style.most_tokens)?.text(style.form))
}

#[cfg(test)]
mod tests {
    use super::text::BACKGROUNDS;
    use super::*;
    use crate::data::tokenizer::tests::{CONFIG, tokenizer};
    use crate::data::{Kind, Origin};

    fn pair() -> Example {
        Example {
            prompt: vec![0, 6, 5],
            completions: vec![vec![4, 6, 1], vec![4, 1]],
            kind: Kind::pair(0.75),
            origin: Origin::new("p.jsonl", 3),
        }
    }

    #[test]
    fn scored_and_special_tokens_are_marked() {
        let tokenizer = tokenizer(true, CONFIG);
        let style = Style { form: Form::Plain, most_tokens: None };
        assert_eq!(
            example(&tokenizer, &pair(), style).unwrap(),
            "p.jsonl:3 (pair, label 0.75)\nprompt, 3 tokens:\n{<s>}ab \nchosen, 3 tokens, 3 of them scored:\n\
             [c][ab][{</s>}]\nrejected, 2 tokens, 2 of them scored:\n[c][{</s>}]\n"
        );
        let coloured =
            example(&tokenizer, &pair(), Style { form: Form::Terminal, most_tokens: None }).unwrap();
        let [a, b] = BACKGROUNDS;
        assert!(
            coloured.contains(&format!("{a}c\x1b[0m{b}ab\x1b[0m{a}\x1b[7m</s>\x1b[0m\n")),
            "{coloured:?}"
        );
        assert!(coloured.contains("\x1b[2m\x1b[7m<s>\x1b[0m\x1b[2mab\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn the_first_token_behind_an_empty_prompt_is_not_scored() {
        let alone = Example { prompt: Vec::new(), ..pair() };
        let shown = Shown::tokens(&tokenizer(true, CONFIG), &alone, None).unwrap().text(Form::Plain);
        assert!(shown.contains("chosen, 3 tokens, 2 of them scored:\nc[ab][{</s>}]\n"), "{shown}");
    }

    #[test]
    fn the_middle_of_a_long_sequence_is_left_out() {
        let long = Example {
            prompt: vec![0, 4, 4, 4, 4, 4, 6],
            completions: vec![vec![4, 6, 6, 1]],
            kind: Kind::Text,
            ..pair()
        };
        let shown = Shown::tokens(&tokenizer(true, CONFIG), &long, Some(3)).unwrap();
        assert_eq!(
            shown.text(Form::Plain),
            "p.jsonl:3 (text)\nprompt, 7 tokens:\n{<s>}c\n... 4 tokens ...\nab\ncompletion, 4 tokens, 4 of them scored:\n\
             [c][ab]\n... 1 token ...\n[{</s>}]\n"
        );
        let page = html::page(&[shown]);
        assert!(page.contains("<span class=\"special\" title=\"0\">&lt;s&gt;</span>"), "{page}");
        assert!(
            page.contains("<span class=\"a\" title=\"4\">c</span><span class=\"b\" title=\"6\">ab</span>"),
            "{page}"
        );
        assert!(
            page.contains("... 1 token ...\n<span class=\"a special\" title=\"1\">&lt;/s&gt;</span>"),
            "{page}"
        );
    }
}
