//! Text for people in lines of whole words that fit a terminal. A terminal itself breaks lines within words.

/// A second column begins within so many characters, or it is none.
const LABEL: usize = 24;

/// How a command begins.
const COMMAND: &str = "dpo-lora ";

/// Columns that a character takes.
pub fn width(character: char) -> usize {
    unicode_width::UnicodeWidthChar::width(character).unwrap_or(0)
}

/// Breaks lines that have more than `columns` columns between two words. What follows is indented as the text of its line is. A
/// command at the end of a line and what is between backticks stay whole, so that they can be copied.
pub(super) fn wrapped(text: &str, columns: usize) -> String {
    text.split('\n').map(|line| wrapped_line(line, columns)).collect::<Vec<_>>().join("\n")
}

fn wrapped_line(line: &str, columns: usize) -> String {
    // Escape sequences take no columns, and text with colours is laid out already.
    if taken(line) <= columns || line.contains('\x1b') || line.trim_start().starts_with(COMMAND) {
        return line.to_string();
    }
    let (prose, command) = line.split_at(command_at(line).unwrap_or(line.len()));
    let indent = indentation(line).min(columns / 2);
    let mut words = words(prose);
    words.extend((!command.is_empty()).then(|| command.to_string()));
    let (mut lines, mut last) = (Vec::new(), words.remove(0));
    for word in words {
        let begins = last.chars().all(|letter| letter == ' ');
        if begins || taken(&last) + 1 + taken(&word) <= columns {
            last = format!("{last} {word}");
        } else if !word.is_empty() {
            // Blanks at the end of a line are left out.
            lines.push(last);
            last = " ".repeat(indent) + &word;
        }
    }
    lines.push(last);
    lines.join("\n")
}

/// The words of a text, at least one, and empty ones between two blanks. A percent sign stays with its number, and what is between
/// two backticks is one word.
fn words(text: &str) -> Vec<String> {
    let is_open =
        |before: &str| before.matches('`').count() % 2 == 1 && text.matches('`').count().is_multiple_of(2);
    let mut found: Vec<String> = Vec::new();
    for word in text.trim_end_matches(' ').split(' ') {
        match found.last_mut() {
            Some(before) if word.starts_with('%') || is_open(before) => *before = format!("{before} {word}"),
            _ => found.push(word.to_string()),
        }
    }
    found
}

/// Where the command begins with which a line ends: `continue with: dpo-lora train ...`.
fn command_at(line: &str) -> Option<usize> {
    line.rfind(&format!(": {COMMAND}")).map(|at| at + 2)
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
        for (columns, line, expected) in [
            (15, "short", "short"),
            (15, "one two three four five", "one two three\nfour five"),
            (20, "  before: one two three four", "  before: one two\n          three four"),
            (20, "/save   one two three four", "/save   one two\n        three four"),
            (15, "a\nbb cc dd ee ff gg hh ii", "a\nbb cc dd ee ff\ngg hh ii"),
            (15, "before 72 %, after 5 %", "before 72 %,\nafter 5 %"),
            (15, "映画は 最高 でした ね", "映画は 最高\nでした ね"),
            (15, "averyverylongwordthatnobodyknows here", "averyverylongwordthatnobodyknows\nhere"),
        ] {
            assert_eq!(wrapped(line, columns), expected);
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
        assert_eq!(wrapped("one `dpo-lora eval` two three", 15), "one\n`dpo-lora eval`\ntwo three");
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
