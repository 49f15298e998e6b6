//! Standard error: a progress bar on a terminal, plain lines elsewhere, warnings only with `-q`.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
}

/// Shows the progress of a run to a person.
pub struct Console {
    verbosity: Verbosity,
    color: bool,
    bar: Option<ProgressBar>,
    output: Box<dyn Write + Send>,
}

impl Console {
    /// On standard error, with a bar if that is a terminal. Colours unless `NO_COLOR` is set (<https://no-color.org>).
    pub fn stderr(verbosity: Verbosity) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let bar = (terminal && verbosity == Verbosity::Normal).then(|| {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(color))
        });
        Self { verbosity, color, bar, output: Box::new(std::io::stderr()) }
    }

    /// Plain lines to `output`.
    pub fn plain(verbosity: Verbosity, output: impl Write + Send + 'static) -> Self {
        Self { verbosity, color: false, bar: None, output: Box::new(output) }
    }

    fn line(&mut self, text: &str) -> Result<()> {
        let Self { bar, output, .. } = self;
        let mut write = || writeln!(output, "{text}").and_then(|()| output.flush());
        let written = match bar {
            // Remove the bar, write the line, draw the bar again.
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        written.map_err(Error::write("standard error"))
    }
}

impl Sink for Console {
    fn name(&self) -> &str {
        "standard error"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        if let Some(bar) = &self.bar {
            advance(bar, event);
        }
        let text = match (event, self.verbosity) {
            (Event::Warning(text), _) if self.color => Some(format!("\x1b[33mwarning:\x1b[0m {text}")),
            (Event::Warning(text), _) => Some(format!("warning: {text}")),
            (_, Verbosity::Quiet) => None,
            (Event::Note(text), _) => Some((*text).to_string()),
            // The bar shows the figures of training; those of an evaluation scroll by above it.
            (Event::Metrics { values, .. }, _) if self.bar.is_some() && !is_evaluation(values) => None,
            (Event::Metrics { step, epoch, values }, _) => Some(metrics(*step, *epoch, values)),
            (Event::Start { .. } | Event::Progress { .. } | Event::Checkpoint | Event::End, _) => None,
        };
        text.map_or(Ok(()), |text| self.line(&text))
    }
}

fn style(color: bool) -> ProgressStyle {
    let template = if color {
        "{bar:28.cyan/black} {pos}/{len}  {msg}  {elapsed} < {eta}"
    } else {
        "{bar:28} {pos}/{len}  {msg}  {elapsed} < {eta}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn advance(bar: &ProgressBar, event: &Event) {
    match *event {
        Event::Start { step, total_steps } => {
            bar.set_length(total_steps);
            bar.set_position(step);
            // Steps done before a resume took no time in this process.
            bar.reset_eta();
            bar.reset_elapsed();
        }
        Event::Progress { step, loss, accuracy, tokens_per_second } => {
            bar.set_position(step);
            let accuracy = accuracy.map_or_else(String::new, |share| format!("  accuracy {share:.2}"));
            bar.set_message(format!("loss {loss:.4}{accuracy}  {tokens_per_second:.0} tokens/s"));
        }
        Event::End => bar.finish(),
        Event::Metrics { .. } | Event::Note(_) | Event::Warning(_) | Event::Checkpoint => {}
    }
}

fn is_evaluation(values: &[(&str, f64)]) -> bool {
    values.iter().any(|(name, _)| name.starts_with("eval_"))
}

fn metrics(step: u64, epoch: f64, values: &[(&str, f64)]) -> String {
    let values: Vec<String> =
        values.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    format!("step {step}  epoch {epoch:.2}  {}", values.join("  "))
}

/// Four significant digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
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
            Event::End,
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
    fn both_styles_are_valid_templates() {
        // `style` falls back silently; the characters of the bar show that it did not.
        for color in [true, false] {
            let bar =
                ProgressBar::with_draw_target(Some(4), ProgressDrawTarget::hidden()).with_style(style(color));
            advance(&bar, &Event::Start { step: 2, total_steps: 8 });
            assert_eq!((bar.position(), bar.length()), (2, Some(8)));
        }
        assert!(
            ProgressStyle::with_template("{bar:28.cyan/black} {pos}/{len}  {msg}  {elapsed} < {eta}").is_ok()
        );
    }
}
