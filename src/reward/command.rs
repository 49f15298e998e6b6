//! A program that scores completions: JSON lines in, one score per line out.
//!
//! Each call starts the program once. It reads one object per line, `{"prompt": ..., "completion": ...}`, until the end of
//! its standard input, and writes one line for each, in order: a number, or an object with a number under `reward` or
//! `score`.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::{Reward, Sample};
use crate::data::show::harmless;
use crate::error::{Error, Result};

/// Bytes of output that are read for each completion, and besides.
const OUTPUT: u64 = 4096;
/// Bytes of standard error of which the last line is shown.
const ERRORS: u64 = 1 << 20;
/// How often a running program is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// A program and its arguments.
#[derive(Debug)]
pub struct Command {
    text: String,
    words: Vec<String>,
    timeout: Duration,
    /// The option or key that sets `timeout`.
    limit: &'static str,
}

/// One line of the program's input.
#[derive(Serialize)]
struct Line<'a> {
    prompt: &'a str,
    completion: &'a str,
}

impl Command {
    /// Splits `text` into a program and its arguments as a shell does, without variables and wildcards. A call that takes
    /// longer than `timeout` fails.
    ///
    /// # Errors
    /// If a quote is not closed, or there is no program.
    pub fn new(text: &str, timeout: Duration) -> Result<Self> {
        let words = shlex::split(text).unwrap_or_default();
        if words.is_empty() {
            return Err(Error::Config(format!(
                "the reward command:{text} names no program; write command:PROGRAM ARGUMENTS with closed quotes"
            )));
        }
        Ok(Self { text: text.into(), words, timeout, limit: "--reward-timeout" })
    }

    /// Names the option or key that sets the time limit, for messages; without it, `--reward-timeout`.
    #[must_use]
    pub fn limited_by(self, limit: &'static str) -> Self {
        Self { limit, ..self }
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::Data(format!("the reward command {:?} {what}", self.text))
    }

    fn start(&self) -> Result<Child> {
        std::process::Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Error::Config(format!("the reward command {:?} cannot be started: {error}", self.text))
            })
    }

    /// Waits for the program to end.
    fn wait(&self, child: &mut Child, until: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let ended =
                child.try_wait().map_err(|error| self.error(format!("cannot be watched: {error}")))?;
            if ended.is_some() || Instant::now() >= until {
                return Ok(ended);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Reads the scores of `count` completions from the program's output.
    fn scores(&self, output: &[u8], count: usize) -> Result<Vec<f64>> {
        let text = std::str::from_utf8(output).map_err(|_| self.error("wrote text that is not UTF-8"))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let scores = lines.map(|(i, line)| self.score(i + 1, line)).collect::<Result<Vec<_>>>()?;
        if scores.len() != count {
            return Err(self.error(format!(
                "wrote {} scores for {count} completions; it must write one line for each, in order",
                scores.len()
            )));
        }
        Ok(scores)
    }

    fn score(&self, number: usize, line: &str) -> Result<f64> {
        let value: Value = serde_json::from_str(line).unwrap_or(Value::Null);
        let found = match &value {
            Value::Object(fields) => fields.get("reward").or_else(|| fields.get("score")),
            other => Some(other),
        };
        found.and_then(Value::as_f64).filter(|score| score.is_finite()).ok_or_else(|| {
            let shown: String = line.chars().take(80).collect();
            self.error(format!(
                "wrote {shown:?} in line {number}, which is not a score; write a number, or an object with a number \
                 under reward"
            ))
        })
    }
}

impl Reward for Command {
    fn name(&self) -> String {
        format!("command:{}", self.text)
    }

    fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        let mut input = Vec::new();
        for Sample { prompt, completion, .. } in samples {
            serde_json::to_writer(&mut input, &Line { prompt, completion })
                .map_err(|error| Error::Data(error.to_string()))?;
            input.push(b'\n');
        }
        let until = Instant::now() + self.timeout;
        let mut child = self.start()?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(self.error("has no standard streams"));
        };
        feed(stdin, input);
        let most = OUTPUT * (samples.len() as u64 + 1);
        let (output, errors) = (gather(stdout, most), last_line(stderr));
        let Some(status) = self.wait(&mut child, until)? else {
            // It may have ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            return Err(self.error(format!(
                "did not finish within {} s for {} completions and was stopped; raise {} if it needs longer",
                self.timeout.as_secs_f64(),
                samples.len(),
                self.limit
            )));
        };
        if !status.success() {
            let said = errors.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
            let said = if said.is_empty() { String::new() } else { format!(": {}", harmless(&said)) };
            return Err(self.error(format!("failed ({status}){said}")));
        }
        // A program that it started may hold the pipe open.
        let rest = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let output = output.recv_timeout(rest).map_err(|_| self.error("ended, but its output did not"))?;
        if output.len() as u64 >= most {
            return Err(self.error(format!("wrote more than {most} bytes for {} completions", samples.len())));
        }
        self.scores(&output, samples.len())
    }
}

/// Writes the input from a thread of its own: the program may write before it has read everything.
fn feed(mut to: ChildStdin, input: Vec<u8>) {
    // A program that stops reading says what is wrong by its output and its exit code.
    std::thread::spawn(move || drop(to.write_all(&input)));
}

/// Reads the output, at most `most` bytes, in a thread of its own.
fn gather(from: ChildStdout, most: u64) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let _ = from.take(most).read_to_end(&mut output);
        let _ = send.send(output);
    });
    receive
}

/// Reads standard error in a thread of its own and returns its last line that is not empty.
fn last_line(from: ChildStderr) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut last = String::new();
        let mut reader = BufReader::new(from.take(ERRORS));
        for line in reader.by_ref().split(b'\n').map_while(std::io::Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if !line.trim().is_empty() {
                last = line.trim().chars().take(400).collect();
            }
        }
        // A program that writes more must not fail for it.
        let _ = std::io::copy(&mut reader.into_inner().into_inner(), &mut std::io::sink());
        let _ = send.send(last);
    });
    receive
}
