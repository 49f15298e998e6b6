//! The events of a run as JSON Lines, for a program that follows it.

use std::io::{ErrorKind, Write};

use serde_json::{Map, Value, json};

use super::{Event, Sink};
use crate::error::{Error, Result};

/// Writes a line for each event that says something about the run: an object whose `event` names it.
pub struct Lines<W> {
    output: W,
    /// The stage of a run of several that the events are of.
    stage: Option<String>,
}

impl<W: Write> Lines<W> {
    /// Writes to `output`, and flushes after each line.
    pub fn new(output: W) -> Self {
        Self { output, stage: None }
    }

    /// Names a stage in every line.
    #[must_use]
    pub fn of_stage(self, stage: Option<&str>) -> Self {
        Self { stage: stage.map(String::from), ..self }
    }
}

impl<W: Write + Send> Sink for Lines<W> {
    fn name(&self) -> &str {
        "standard output"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        let Some(mut line) = line(event) else { return Ok(()) };
        if let Some(stage) = &self.stage {
            line["stage"] = json!(stage);
        }
        match writeln!(self.output, "{line}").and_then(|()| self.output.flush()) {
            // Nobody reads on; the run does not depend on it.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Error::write("standard output")(error)),
            Ok(()) => Ok(()),
        }
    }
}

/// The object of an event, if it has one.
fn line(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Start { step, total_steps } => {
            json!({"event": "start", "step": step, "total_steps": total_steps})
        }
        Event::Progress { step, loss, accuracy, tokens_per_second } => json!({
            "event": "progress", "step": step, "loss": loss, "accuracy": accuracy, "tokens_per_second": tokens_per_second
        }),
        Event::Metrics { step, epoch, values } => {
            // A value that is no number in JSON is null.
            let values: Map<String, Value> =
                values.iter().map(|(name, value)| ((*name).to_string(), json!(value))).collect();
            json!({"event": "metrics", "step": step, "epoch": epoch, "values": values})
        }
        Event::Note(text) => json!({"event": "note", "text": text}),
        Event::Warning(text) => json!({"event": "warning", "text": text}),
        Event::Sample { step, number, prompt, completion } => json!({
            "event": "sample", "step": step, "number": number, "prompt": prompt, "completion": completion
        }),
        Event::Saved { step, bytes } => json!({"event": "checkpoint", "step": step, "bytes": bytes}),
        Event::Evaluation { .. } | Event::HeldOut(_) | Event::Checkpoint | Event::End { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_an_object_with_a_name() {
        let mut bytes = Vec::new();
        let mut lines = Lines::new(&mut bytes);
        let values = [("loss", 0.5), ("eval_kl", f64::NAN)];
        lines.record(&Event::Start { step: 0, total_steps: 3 }).unwrap();
        lines.record(&Event::Metrics { step: 1, epoch: 0.5, values: &values }).unwrap();
        lines.record(&Event::Warning("two\nlines")).unwrap();
        lines.record(&Event::Checkpoint).unwrap();
        let expected = "{\"event\":\"start\",\"step\":0,\"total_steps\":3}\n\
                        {\"event\":\"metrics\",\"step\":1,\"epoch\":0.5,\"values\":{\"loss\":0.5,\"eval_kl\":null}}\n\
                        {\"event\":\"warning\",\"text\":\"two\\nlines\"}\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn the_events_of_a_stage_name_it() {
        let mut bytes = Vec::new();
        let mut lines = Lines::new(&mut bytes).of_stage(Some("dpo"));
        lines.record(&Event::Metrics { step: 1, epoch: 0.5, values: &[("loss", 0.5)] }).unwrap();
        let expected =
            "{\"event\":\"metrics\",\"step\":1,\"epoch\":0.5,\"values\":{\"loss\":0.5},\"stage\":\"dpo\"}\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_failure() {
        Lines::new(Closed).record(&Event::Note("on")).unwrap();
    }
}
