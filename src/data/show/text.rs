//! For a file and for a terminal.

use super::escape::{pictured, plain, titled};
use super::shown::{Section, Shown, Span, counted};

/// How text is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Scored tokens as `[tok]`, special ones as `{<s>}`. `[`, `]`, `{`, `}` and `\` of the text have a `\` before them.
    Plain,
    /// With the colours of a terminal: a dim prompt, scored tokens on alternating backgrounds, special ones in reverse
    /// video.
    Terminal,
}

/// Black on two pale colours, legible on a dark and on a bright terminal.
pub(super) const BACKGROUNDS: [&str; 2] = ["\x1b[30;48;5;152m", "\x1b[30;48;5;187m"];

impl Shown {
    /// Writes it, with a line break at its end.
    pub fn text(&self, form: Form) -> String {
        written(self, form)
    }
}

fn written(shown: &Shown, form: Form) -> String {
    let mut text = match form {
        Form::Plain => format!("{}\n", titled(&shown.title)),
        Form::Terminal => format!("\x1b[1m{}\x1b[0m\n", pictured(&shown.title)),
    };
    for section in &shown.sections {
        let title = match form {
            Form::Plain => titled(&section.title),
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
