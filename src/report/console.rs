//! Standard error: lines and below them a progress bar on a terminal, lines with every metric elsewhere, warnings only with
//! `-q`.

use std::io::Write;

use super::live::Live;
use super::screen::{self, Bar};
use super::{Event, Sink};
use crate::error::{Error, Result};

/// How much is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// `-q`: warnings only.
    Quiet,
    /// Progress and notes.
    #[default]
    Normal,
    /// `-v`: also what is written and when, and every metric on a terminal.
    Verbose,
}

/// Shows the progress of a run to a person.
pub struct Console {
    verbosity: Verbosity,
    output: Output,
    /// Steps of the whole run.
    total_steps: u64,
    /// What is shown above the bar; dropped before it.
    live: Live,
    bar: Option<Bar>,
}

enum Output {
    /// A terminal with bars, so many columns wide.
    Terminal { coloured: bool, columns: fn() -> usize },
    /// Standard error that is no terminal.
    Plain,
    /// Another stream.
    Stream(Box<dyn Write + Send>),
}

impl Console {
    /// On standard error, with a bar if that is a terminal. Colours unless `NO_COLOR` is set (<https://no-color.org>).
    pub fn stderr(verbosity: Verbosity) -> Self {
        let output = if screen::is_terminal() {
            Output::Terminal { coloured: screen::is_coloured(), columns: screen::columns }
        } else {
            Output::Plain
        };
        Self { verbosity, output, total_steps: 0, live: Live::default(), bar: None }
    }

    /// Plain lines to `output`.
    pub fn plain(verbosity: Verbosity, output: impl Write + Send + 'static) -> Self {
        Self {
            verbosity,
            output: Output::Stream(Box::new(output)),
            total_steps: 0,
            live: Live::default(),
            bar: None,
        }
    }

    fn line(&mut self, text: &str) -> Result<()> {
        let written = match &mut self.output {
            Output::Stream(output) => writeln!(output, "{text}").and_then(|()| output.flush()),
            Output::Terminal { .. } | Output::Plain => screen::line(text),
        };
        written.map_err(Error::write("standard error"))
    }

    /// The line of an event, if it has one.
    fn text(&self, event: &Event) -> Option<String> {
        let coloured = matches!(self.output, Output::Terminal { coloured: true, .. });
        match (event, self.verbosity) {
            (Event::Warning(text), _) if coloured => {
                // Colours hide how wide a line is.
                let fitted = screen::fitted(&format!("warning: {text}"));
                Some(fitted.replacen("warning:", "\x1b[33mwarning:\x1b[0m", 1))
            }
            (Event::Warning(text), _) => Some(format!("warning: {text}")),
            (_, Verbosity::Quiet) => None,
            (Event::Note(text), _) => Some((*text).to_string()),
            (Event::Saved { step, bytes }, Verbosity::Verbose) => {
                Some(format!("step {step}  checkpoint written, {:.1} MB", *bytes as f64 / 1e6))
            }
            (Event::Metrics { step, epoch, values }, verbosity) => Some(match (&self.output, verbosity) {
                (Output::Terminal { columns, .. }, Verbosity::Normal) => {
                    short((*step, self.total_steps), values, columns())
                }
                _ => metrics(*step, *epoch, values),
            }),
            (
                Event::Start { .. }
                | Event::Progress { .. }
                | Event::Evaluation { .. }
                | Event::HeldOut(_)
                | Event::Sample { .. }
                | Event::Checkpoint
                | Event::Saved { .. }
                | Event::End { .. },
                _,
            ) => None,
        }
    }

    /// Moves the bar.
    fn advance(&mut self, event: &Event) {
        let Output::Terminal { coloured, .. } = self.output else { return };
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        match (*event, &self.bar) {
            (Event::Start { step, total_steps }, _) => {
                let bar = Bar::new(total_steps, template(coloured));
                bar.counters().set_position(step);
                // Steps done before a resume took no time in this process.
                bar.counters().reset_eta();
                bar.counters().reset_elapsed();
                self.bar = Some(bar);
            }
            (Event::Progress { step, loss, accuracy, tokens_per_second }, Some(bar)) => {
                let accuracy = accuracy.map_or_else(String::new, |share| format!("  acc {share:.2}"));
                bar.counters().set_message(format!("loss {loss:.4}{accuracy}  {tokens_per_second:.0} tok/s"));
                bar.counters().set_position(step);
            }
            (Event::Evaluation { .. }, Some(bar)) => bar.counters().set_message("evaluating"),
            (Event::Checkpoint, Some(bar)) => bar.counters().set_message("writing a checkpoint"),
            (Event::End { .. }, _) => {
                self.live = Live::default();
                self.bar = None;
            }
            _ => {}
        }
        if let Some(bar) = &self.bar {
            self.live.record(event, bar);
        }
    }
}

impl Sink for Console {
    fn name(&self) -> &str {
        "standard error"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        if let Event::Start { total_steps, .. } = event {
            self.total_steps = *total_steps;
        }
        self.advance(event);
        self.text(event).map_or(Ok(()), |text| self.line(&text))
    }
}

/// A bar that fits 80 columns, with room for the key that the terminal echoes behind it.
fn template(coloured: bool) -> &'static str {
    if coloured {
        "{bar:14.cyan/black} {pos}/{len}  {elapsed} < {eta}  {msg:34!}"
    } else {
        "{bar:14} {pos}/{len}  {elapsed} < {eta}  {msg:34!}"
    }
}

/// What a line of a terminal shows of the metrics, the most important first, as long as it fits.
const SHORT: &[(&str, &str)] = &[
    ("loss", "loss"),
    ("rewards/margins", "margin"),
    ("logps/accuracies", "likelier"),
    ("rewards/accuracies", "accuracy"),
    ("learning_rate", "lr"),
    ("grad_norm", "grad"),
    ("tokens_per_second", "tokens/s"),
    ("rewards/chosen", "chosen"),
    ("rewards/rejected", "rejected"),
    ("kl", "kl"),
    ("logps/chosen", "log π chosen"),
    ("logps/rejected", "log π rejected"),
];

/// The metrics in one line of at most `columns` characters.
fn short((step, total): (u64, u64), values: &[(&str, f64)], columns: usize) -> String {
    let width = total.to_string().len();
    let held_out = values.iter().any(|(name, _)| name.starts_with("eval_"));
    let mut line = format!("step {step:>width$}{}", if held_out { "  held out:" } else { "" });
    for (name, shown) in SHORT {
        let of = |(key, _): &&(&str, f64)| key.strip_prefix("eval_").unwrap_or(key) == *name;
        let Some((_, value)) = values.iter().find(of) else { continue };
        let part = format!("  {shown} {}", number(*value));
        if line.chars().count() + part.chars().count() < columns {
            line.push_str(&part);
        }
    }
    line
}

fn metrics(step: u64, epoch: f64, values: &[(&str, f64)]) -> String {
    let values: Vec<String> =
        values.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    format!("step {step}  epoch {epoch:.2}  {}", values.join("  "))
}

/// Four significant digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        // Not -0, which a divergence of nothing is.
        "0".into()
    } else if !value.is_finite() {
        format!("{value}")
    } else if size < 1e-3 {
        format!("{value:.3e}")
    } else if size < 1e3 {
        format!("{value:.4}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn said(verbosity: Verbosity) -> String {
        let shared = Shared::default();
        let mut console = Console::plain(verbosity, shared.clone());
        let values = [("loss", 0.61234), ("learning_rate", 5e-5), ("tokens_per_second", 12345.6)];
        for event in [
            Event::Start { step: 0, total_steps: 20 },
            Event::Note("512 pairs"),
            Event::Progress { step: 10, loss: 0.7, accuracy: Some(0.5), tokens_per_second: 9.0 },
            Event::Metrics { step: 10, epoch: 0.5, values: &values },
            Event::Warning("3 pairs were dropped"),
            Event::End { interrupted: false },
        ] {
            console.record(&event).unwrap();
        }
        String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn plain_lines_without_a_terminal() {
        assert_eq!(
            said(Verbosity::Normal),
            "512 pairs\n\
             step 10  epoch 0.50  loss 0.6123  learning_rate 5.000e-5  tokens_per_second 12346\n\
             warning: 3 pairs were dropped\n"
        );
    }

    #[test]
    fn quiet_still_warns() {
        assert_eq!(said(Verbosity::Quiet), "warning: 3 pairs were dropped\n");
    }

    #[test]
    fn a_closed_standard_error_is_an_error_not_a_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        assert!(Console::plain(Verbosity::Normal, Closed).record(&Event::Note("x")).is_err());
    }

    #[test]
    fn both_bars_are_valid_templates_of_less_than_80_columns() {
        for coloured in [true, false] {
            assert!(indicatif::ProgressStyle::with_template(template(coloured)).is_ok());
        }
        let widest = "12345/12345".len() + "59m < 59m".len() + 14 + 34 + 5;
        assert!(widest < 77, "{widest}");
    }

    #[test]
    fn a_line_of_a_terminal_fits_it() {
        let values = [
            ("loss", 0.61234),
            ("rewards/chosen", 0.1234),
            ("rewards/rejected", -0.4567),
            ("rewards/margins", 0.5801),
            ("rewards/accuracies", 0.625),
            ("logps/chosen", -123.4567),
            ("logps/rejected", -234.5678),
            ("grad_norm", 1.2345),
            ("learning_rate", 5e-5),
            ("tokens_per_second", 12345.6),
        ];
        let narrow = short((7, 400), &values, 80);
        assert_eq!(narrow, "step   7  loss 0.6123  margin 0.5801  accuracy 0.6250  lr 5.000e-5  grad 1.2345");
        let wide = short((7, 400), &values, 140);
        assert!(wide.contains("rejected -0.4567") && wide.chars().count() < 140, "{wide}");
        let held_out = short((7, 7), &[("eval_loss", 0.5), ("eval_kl", -0.0)], 80);
        assert_eq!(held_out, "step 7  held out:  loss 0.5000  kl 0");
    }
}
