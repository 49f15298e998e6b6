//! Characters that would act on a terminal, or not be seen, made visible.

/// Whether a character has no shape of its own: it controls, or it changes the direction of its neighbours.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// For plain text: hidden characters as `\n`, `\t` or `\u{1b}`, and a `\` before what marks tokens.
pub(super) fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '[' | ']' | '{' | '}' | '\\' => escaped.extend(['\\', c]),
            c if is_hidden(c) => escaped.extend(c.escape_default()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// For plain text that marks no tokens: as [`plain`] without the `\` before brackets and braces.
pub(super) fn titled(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// For a terminal: a text with its line breaks and tabs, and with what would control the terminal or turn the direction of what
/// follows made visible, as `\u{1b}`. The marks U+200E and U+200F of ordinary Arabic and Hebrew stay.
pub fn harmless(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => shown.push(c),
            // Alone it would let what follows stand over what came before.
            '\r' if chars.peek() == Some(&'\n') => shown.push(c),
            c if c.is_control() || turns(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// For what is marked by colours: hidden characters as their picture (`␊`) or as `⟨U+202E⟩`.
pub(super) fn pictured(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0'..='\x1f' => shown.extend(char::from_u32(0x2400 + u32::from(c))),
            '\x7f' => shown.push('␡'),
            c if is_hidden(c) => shown.push_str(&format!("⟨U+{:04X}⟩", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_a_terminal() {
        assert_eq!(plain("a[b]{c}\\n\n\t\x1b[0m"), "a\\[b\\]\\{c\\}\\\\n\\n\\t\\u{1b}\\[0m");
        assert_eq!(pictured("a\n\x1b[0m\x7f\u{9b}\u{202e}é"), "a␊␛[0m␡⟨U+009B⟩⟨U+202E⟩é");
        assert_eq!(plain("\u{202e}é"), "\\u{202e}é");
        assert_eq!(titled("completions[0]\x1b[0m"), "completions[0]\\u{1b}[0m");
        assert_eq!(
            harmless("a\n\tb\r\x1b[2J\u{9b}\u{202e}é👩\u{200d}🚀"),
            "a\n\tb\\r\\u{1b}[2J\\u{9b}\\u{202e}é👩\u{200d}🚀"
        );
        assert_eq!(harmless("a\r\nb\r\r\nc\r"), "a\r\nb\\r\r\nc\\r");
        assert_eq!(harmless("א\u{200f}!\u{200e} \u{2067}"), "א\u{200f}!\u{200e} \\u{2067}");
    }
}
