//! Two answers side by side.

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
        let padding = " ".repeat(width.saturating_sub(l.chars().count()));
        format!("{l}{padding}{GAP}{r}").trim_end().to_string() + "\n"
    };
    (0..left.len().max(right.len())).map(row).collect()
}

fn with_heading(heading: &str, lines: Vec<String>) -> Vec<String> {
    std::iter::once(heading.to_string()).chain(lines).collect()
}

/// Breaks a text into lines of at most `width` characters, at blanks where there are any. What would move the cursor is
/// shown as `�`.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut lines = Vec::new();
    for paragraph in text.trim().replace('\t', "    ").lines() {
        let mut line = String::new();
        let mut length = 0;
        for word in paragraph.split(' ') {
            let mut word: Vec<char> = word.chars().map(shown).collect();
            if length > 0 && length + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            while word.len() > width {
                let rest = word.split_off(width);
                lines.push(word.into_iter().collect());
                word = rest;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            length += word.len();
            line.extend(word);
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
        assert_eq!(wrapped("a\u{1b}[2Jb", 20), ["a\u{fffd}[2Jb"]);
        assert!(wrapped("", 5).is_empty());
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
