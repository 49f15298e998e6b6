//! Two answers side by side, measured in columns of the terminal: some characters take two, some none.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::data::show::harmless;

/// Columns between the two answers.
const GAP: &str = "  |  ";

/// Terminals that are narrower show one answer above the other.
const NARROW: usize = 60;

/// Returns two texts beside each other in so many columns.
pub(super) fn side_by_side(left: &str, right: &str, columns: usize) -> String {
    if columns < NARROW {
        return format!(
            "[1]\n{}\n\n[2]\n{}\n",
            wrapped(left, columns).join("\n"),
            wrapped(right, columns).join("\n")
        );
    }
    let width = (columns - GAP.len()) / 2;
    let (left, right) = (wrapped(left, width), wrapped(right, width));
    let (left, right) = (with_heading("[1]", left), with_heading("[2]", right));
    let blank = String::new();
    let row = |i: usize| {
        let (l, r) = (left.get(i).unwrap_or(&blank), right.get(i).unwrap_or(&blank));
        let padding = " ".repeat(width.saturating_sub(l.width()));
        format!("{l}{padding}{GAP}{r}").trim_end().to_string() + "\n"
    };
    (0..left.len().max(right.len())).map(row).collect()
}

fn with_heading(heading: &str, lines: Vec<String>) -> Vec<String> {
    std::iter::once(heading.to_string()).chain(lines).collect()
}

/// Breaks a text into lines of at most `width` columns, at blanks where there are any. Nothing in them acts on the terminal.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.trim().replace('\t', "    ").lines() {
        let (mut line, mut length) = (String::new(), 0);
        for word in paragraph.split(' ') {
            let word = harmless(word);
            if length > 0 && length + 1 + word.width() > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            for c in word.chars() {
                let columns = c.width().unwrap_or(0);
                if length > 0 && length + columns > width {
                    lines.push(std::mem::take(&mut line));
                    length = 0;
                }
                line.push(c);
                length += columns;
            }
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_blanks_and_long_words_anywhere() {
        assert_eq!(wrapped("one two three\n\nfour", 8), ["one two", "three", "", "four"]);
        assert_eq!(wrapped("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrapped("a\u{1b}[2Jb\u{202e}c", 20), ["a\\u{1b}[2Jb\\u{202e}c"]);
        assert!(wrapped("", 5).is_empty());
    }

    #[test]
    fn wide_characters_take_two_columns_and_accents_none() {
        assert_eq!(wrapped("日本語の文", 4), ["日本", "語の", "文"]);
        assert_eq!(wrapped("e\u{301}e\u{301}e\u{301} e\u{301}", 3), ["e\u{301}e\u{301}e\u{301}", "e\u{301}"]);
        assert_eq!(wrapped("日", 1), ["日"]);
        let rows = side_by_side("日本", "c", 61);
        assert!(rows.ends_with(&format!("日本{}  |  c\n", " ".repeat(24))), "{rows}");
    }

    #[test]
    fn answers_stand_beside_each_other() {
        let shown = side_by_side("a b", "c", 61);
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows[0], format!("[1]{}  |  [2]", " ".repeat(25)));
        assert_eq!(rows[1], format!("a b{}  |  c", " ".repeat(25)));
        assert_eq!(side_by_side("a", "b", 30), "[1]\na\n\n[2]\nb\n");
    }
}
