//! For a file and for a terminal.

use super::escape::{pictured, plain};
use super::{Form, Section, Shown, Span, counted};

/// Black on two pale colours, legible on a dark and on a bright terminal.
const BACKGROUNDS: [&str; 2] = ["\x1b[30;48;5;152m", "\x1b[30;48;5;187m"];

/// Writes a record.
pub(super) fn written(shown: &Shown, form: Form) -> String {
    let mut text = match form {
        Form::Plain => format!("{}\n", plain(&shown.title)),
        Form::Terminal => format!("\x1b[1m{}\x1b[0m\n", pictured(&shown.title)),
    };
    for section in &shown.sections {
        let title = match form {
            Form::Plain => plain(&section.title),
            Form::Terminal => pictured(&section.title),
        };
        text.push_str(&format!("{title}:\n{}\n", body(section, form).trim_end_matches('\n')));
    }
    text
}

fn body(section: &Section, form: Form) -> String {
    let (mut text, mut scored) = (String::new(), 0);
    let gap = |at: usize, text: &mut String| {
        if let Some((_, count)) = section.gap.filter(|(before, _)| *before == at) {
            text.push_str(&format!("\n... {} ...\n", counted(count)));
        }
    };
    for (index, span) in section.spans.iter().enumerate() {
        gap(index, &mut text);
        match form {
            Form::Plain => text.push_str(&marked(span)),
            Form::Terminal => text.push_str(&coloured(span, BACKGROUNDS[scored % 2])),
        }
        scored += usize::from(span.is_scored);
        if span.text.ends_with('\n') {
            text.push('\n');
        }
    }
    gap(section.spans.len(), &mut text);
    text
}

fn marked(span: &Span) -> String {
    let text = plain(&span.text);
    let text = if span.is_special { format!("{{{text}}}") } else { text };
    if span.is_scored { format!("[{text}]") } else { text }
}

fn coloured(span: &Span, background: &str) -> String {
    let text = pictured(&span.text);
    let on = if span.is_scored { background } else { "\x1b[2m" };
    let reverse = if span.is_special { "\x1b[7m" } else { "" };
    format!("{on}{reverse}{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::super::{Example, Shown, Style, example};
    use super::*;
    use crate::data::show::html;
    use crate::data::tokenizer::tests::{CONFIG, tokenizer};
    use crate::data::{Kind, Origin};

    fn pair() -> Example {
        Example {
            prompt: vec![0, 6, 5],
            completions: vec![vec![4, 6, 1], vec![4, 1]],
            kind: Kind::Pair { label: 0.75 },
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
