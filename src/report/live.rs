//! What a terminal shows above the progress bar while a run goes on: curves, and the last completion.

use std::time::{Duration, Instant};

use super::Event;
use super::screen::{self, Bar};
use super::sparkline::sparkline;

/// Characters of a curve, at most, and those beside it.
const CURVE: usize = 48;
const BESIDE: usize = 30;

/// The columns that stay free for a key that the terminal echoes.
const MARGIN: usize = 4;

/// Terminals with fewer rows show the bar alone.
const ROWS: usize = 12;

/// Time between two drawings.
const PACE: Duration = Duration::from_millis(200);

/// The figures of a run so far.
#[derive(Default)]
pub(super) struct Live {
    losses: Vec<f64>,
    margins: Vec<f64>,
    sample: Option<(String, String)>,
    drawn: Option<(Bar, Instant)>,
}

impl Live {
    /// Takes an event, and draws what is new above `bar`.
    pub fn record(&mut self, event: &Event, bar: &Bar) {
        match event {
            Event::Progress { loss, .. } if loss.is_finite() => self.losses.push(*loss),
            Event::Metrics { values, .. } => {
                let margin = values.iter().find(|(name, _)| *name == "rewards/margins");
                self.margins.extend(margin.map(|(_, value)| *value));
            }
            Event::Sample { number: 0, prompt, completion, .. } => {
                self.sample = Some(((*prompt).to_string(), (*completion).to_string()));
            }
            _ => return,
        }
        let due = self.drawn.as_ref().is_none_or(|(_, at)| at.elapsed() >= PACE);
        if !due || screen::rows() < ROWS {
            return;
        }
        let text = self.text(screen::columns());
        if text.is_empty() {
            return;
        }
        let (shown, at) = self.drawn.get_or_insert_with(|| (bar.above("{msg}"), Instant::now()));
        shown.counters().set_message(text);
        *at = Instant::now();
    }

    /// At most four lines of less than so many characters.
    fn text(&self, columns: usize) -> String {
        let width = CURVE.min(columns.saturating_sub(BESIDE));
        let curve = |name: &str, values: &[f64], digits: usize| {
            let (first, last) = (values.first()?, values.last()?);
            (values.len() > 1).then(|| {
                format!("{name:<7} {}  {first:.digits$} → {last:.digits$}", sparkline(values, width))
            })
        };
        let mut lines: Vec<String> = [curve("loss", &self.losses, 4), curve("margin", &self.margins, 3)]
            .into_iter()
            .flatten()
            .collect();
        if let Some((prompt, completion)) = &self.sample {
            let room = columns.saturating_sub(MARGIN);
            lines.push(format!("> {}", last(prompt, room.saturating_sub(2))));
            lines.push(format!("  {}", first(completion, room.saturating_sub(2))));
        }
        lines.join("\n")
    }
}

/// A text in one line.
fn line(text: &str) -> Vec<char> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).collect()
}

/// The beginning of a text, as far as it fits so many columns.
fn first(text: &str, columns: usize) -> String {
    let letters = line(text);
    let kept = fitting(letters.iter(), columns);
    let more = if kept < letters.len() { "…" } else { "" };
    letters[..kept].iter().collect::<String>() + more
}

/// The end of a text: that of a prompt is what is answered.
fn last(text: &str, columns: usize) -> String {
    let letters = line(text);
    let kept = fitting(letters.iter().rev(), columns);
    let more = if kept < letters.len() { "…" } else { "" };
    more.to_string() + &letters[letters.len() - kept..].iter().collect::<String>()
}

/// How many letters fit, with an ellipsis if not all of them do.
fn fitting<'a>(letters: impl Iterator<Item = &'a char> + Clone, columns: usize) -> usize {
    let all: usize = letters.clone().map(|letter| screen::width(*letter)).sum();
    let room = if all <= columns { columns } else { columns.saturating_sub(1) };
    let mut taken = 0;
    let fits = letters.take_while(|letter| {
        taken += screen::width(**letter);
        taken <= room
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal() {
        let mut live = Live { losses: vec![0.7], ..Live::default() };
        assert_eq!(live.text(80), "");
        live.losses = (0..500).map(|i| 0.7 - f64::from(i) / 1000.0).collect();
        live.margins = vec![0.0, 0.5, 1.25];
        live.sample = Some(("The beginning ".repeat(20) + "end", "words\n and ".repeat(20)));
        for columns in [40, 80, 140] {
            let text = live.text(columns);
            assert_eq!(text.lines().count(), 4, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= columns - 4), "{columns}: {text}");
        }
        let text = live.text(80);
        assert!(text.contains("0.7000 → 0.2010") && text.contains("0.000 → 1.250"), "{text}");
        assert!(
            text.lines().nth(2).is_some_and(|line| line.starts_with("> …") && line.ends_with("end")),
            "{text}"
        );
        assert!(text.ends_with('…'));
        // Characters of two columns each.
        assert_eq!(
            (first("映画は最高", 10), first("映画は最高", 8)),
            ("映画は最高".into(), "映画は…".into())
        );
        assert_eq!((last("映画は最高", 9), last("ab", 2)), ("…画は最高".to_string(), "ab".into()));
    }
}
