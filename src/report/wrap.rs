//! Text for people in lines of whole words that fit a terminal. A terminal itself breaks lines within words.

use super::screen::width;

/// A second column begins within so many characters, or it is none.
const LABEL: usize = 24;

/// Breaks lines that have more than `columns` columns between two words. What follows is indented as the text of its line is. A
/// command at the end of a line stays whole, so that it can be copied.
pub(super) fn wrapped(text: &str, columns: usize) -> String {
    text.split('\n').map(|line| wrapped_line(line, columns)).collect::<Vec<_>>().join("\n")
}

fn wrapped_line(line: &str, columns: usize) -> String {
    // Escape sequences take no columns, and text with colours is laid out already.
    if taken(line) <= columns || line.contains('\x1b') {
        return line.to_string();
    }
    let (prose, command) = line.split_at(command_at(line).unwrap_or(line.len()));
    let indent = indentation(line).min(columns / 2);
    let mut lines = vec![String::new()];
    let words = prose.trim_end_matches(' ').split(' ').chain((!command.is_empty()).then_some(command));
    for (i, word) in words.enumerate() {
        let Some(last) = lines.last_mut() else { continue };
        let begins = last.chars().all(|letter| letter == ' ');
        if !begins && taken(last) + 1 + taken(word) > columns {
            lines.push(" ".repeat(indent) + word);
        } else {
            last.push_str(if i == 0 { "" } else { " " });
            last.push_str(word);
        }
    }
    lines.join("\n")
}

/// Where the command begins with which a line ends: `continue with: dpo-lora train ...`.
fn command_at(line: &str) -> Option<usize> {
    let start = "dpo-lora ";
    if line.trim_start().starts_with(start) {
        return Some(line.len() - line.trim_start().len());
    }
    line.rfind(": dpo-lora ").map(|at| at + 2)
}

/// The columns before the text of a line: blanks, a name in a table, or `before:` after blanks.
fn indentation(line: &str) -> usize {
    let blanks = line.len() - line.trim_start_matches(' ').len();
    let letters: Vec<char> = line.chars().collect();
    let is_blank = |i: usize| letters.get(i) == Some(&' ');
    let second = (blanks..letters.len().min(LABEL))
        .rev()
        .find(|i| *i >= blanks + 2 && !is_blank(*i) && is_blank(i - 1) && is_blank(i - 2));
    let label = letters[blanks..]
        .iter()
        .position(|letter| *letter == ' ')
        .filter(|at| blanks > 0 && *at > 0 && letters[blanks + at - 1] == ':' && blanks + at < LABEL);
    second.or(label.map(|at| blanks + at + 1)).unwrap_or(blanks)
}

fn taken(text: &str) -> usize {
    text.chars().map(width).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_under_their_text() {
        for (line, expected) in [
            ("short", "short"),
            ("one two three four five", "one two three\nfour five"),
            ("  before: one two three four", "  before: one\n          two\n          three\n          four"),
            ("/save   one two three", "/save   one\n        two\n        three"),
            ("a\nbb cc dd ee ff gg hh ii", "a\nbb cc dd ee ff\ngg hh ii"),
            ("映画は 最高 でした ね", "映画は 最高\nでした ね"),
            ("averyverylongwordthatnobodyknows here", "averyverylongwordthatnobodyknows\nhere"),
        ] {
            assert_eq!(wrapped(line, 15), expected);
        }
    }

    #[test]
    fn commands_and_colours_stay_whole() {
        let next = "  dpo-lora eval --base tiny-reviews --adapter run";
        assert_eq!(wrapped(next, 20), next);
        assert_eq!(
            wrapped("it is kept; continue with: dpo-lora train --resume 'a b'", 30),
            "it is kept; continue with:\ndpo-lora train --resume 'a b'"
        );
        assert_eq!(wrapped("one `dpo-lora eval` two three", 15), "one `dpo-lora\neval` two three");
        let coloured = "\x1b[33mone two three\x1b[0m four five";
        assert_eq!(wrapped(coloured, 10), coloured);
    }

    #[test]
    fn nothing_is_lost_whatever_the_width() {
        let text = "  a:  b c   d  e: f\n\n g\tπ 最高 `x` h  ";
        for columns in 0..40 {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(squeezed(&wrapped(text, columns)), squeezed(text), "{columns}");
        }
    }
}
