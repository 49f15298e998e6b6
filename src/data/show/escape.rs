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
    }
}
