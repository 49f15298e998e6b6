//! Completions before and after training, for a terminal.

use crate::report::{Progressed, screen};

/// Lines of a completion, at most.
const MOST_LINES: usize = 4;

/// A prompt with its completions before and after, as lines that fit the terminal.
pub(super) fn compared(sample: &Progressed) -> Option<String> {
    let (before, after) = sample.before_and_after()?;
    let width = screen::columns().saturating_sub(12);
    let mut text = format!("\n> {}\n", end_of(&sample.prompt, screen::columns().saturating_sub(4)));
    if before == after {
        text.push_str(&indented("both:", before, width));
    } else {
        text.push_str(&indented("before:", before, width));
        text.push_str(&indented("after:", after, width));
    }
    text.truncate(text.trim_end().len());
    Some(text)
}

/// The end of a text in one line of so many characters: the end of a prompt is what is answered.
fn end_of(text: &str, width: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = words.chars().count();
    if length <= width {
        return words;
    }
    let end: String = words.chars().skip(length + 2 - width).collect();
    format!("… {}", end.trim_start())
}

/// A text in a few lines of whole words, behind its name.
fn indented(name: &str, text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    // Some scripts have no spaces.
    let pieces = text.split_whitespace().flat_map(|word| {
        let letters: Vec<char> = word.chars().collect();
        letters.chunks(width.max(1)).map(|piece| piece.iter().collect::<String>()).collect::<Vec<_>>()
    });
    for word in pieces {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(&word);
        }
    }
    if lines.len() > MOST_LINES {
        lines.truncate(MOST_LINES);
        lines.iter_mut().skip(MOST_LINES - 1).for_each(|line| line.push_str(" …"));
    }
    let named = lines.iter().enumerate().map(|(i, line)| {
        let name = if i == 0 { name } else { "" };
        format!("  {name:<8}{}\n", if line.is_empty() { "(nothing)" } else { line })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_lines_that_fit() {
        let text = "a bb ccc dddd ".repeat(30);
        let shown = indented("after:", &text, 20);
        assert_eq!(shown.lines().count(), MOST_LINES);
        assert!(shown.lines().all(|line| line.chars().count() <= 20 + 12), "{shown}");
        assert!(shown.starts_with("  after:  a bb") && shown.trim_end().ends_with('…'), "{shown}");
        assert_eq!(indented("both:", " \n", 20), "  both:   (nothing)\n");
        assert_eq!(end_of("one two\nthree", 20), "one two three");
        assert_eq!(end_of("one two three", 9), "… o three");
    }

    #[test]
    fn equal_completions_are_shown_once() {
        let sample = |after: &str| Progressed {
            prompt: "p".into(),
            completions: vec![(0, "x".into()), (5, after.into())],
        };
        assert_eq!(compared(&sample("x")).unwrap(), "\n> p\n  both:   x");
        assert_eq!(compared(&sample("y")).unwrap(), "\n> p\n  before: x\n  after:  y");
        let one = Progressed { prompt: "p".into(), completions: vec![(0, "x".into())] };
        assert_eq!(compared(&one), None);
    }
}
