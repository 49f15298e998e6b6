//! SIGINT and SIGTERM. A training run finishes its step and writes a checkpoint at the first one, and says so at once; the
//! second stops it. Every other command stops at the first. Temporary files are removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::files;
use crate::report::{Event, Sink, screen};
use crate::train::{checkpoint, run_dir};

/// What a signal would interrupt.
static INTERRUPTED: Mutex<Interrupted> = Mutex::new(Interrupted::Command("interrupted"));

enum Interrupted {
    /// A command that ends at once, with these words.
    Command(&'static str),
    /// A training run.
    Run(Training),
    /// A conversation.
    Chat(Arc<Chat>),
    /// A rank of a training run that writes nothing. The first signal, which becomes the exit code of all ranks, lets the step
    /// finish.
    Rank(Arc<AtomicU8>),
}

/// What a conversation is doing.
#[derive(Default)]
pub(super) struct Chat {
    /// Whether an answer is being written.
    answering: AtomicBool,
    /// Whether it should stop.
    stop: AtomicBool,
    /// Whether the last thing that happened was a press while nothing was written.
    asked: AtomicBool,
}

impl Chat {
    /// Runs `answer`; a press during it stops it.
    pub fn during<T>(&self, answer: impl FnOnce() -> T) -> T {
        self.stop.store(false, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
        let found = answer();
        self.answering.store(false, Ordering::Relaxed);
        found
    }

    /// Whether the answer should stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The answer to a press; `None` to leave.
    fn pressed(&self) -> Option<&'static str> {
        if self.answering.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
            return Some("");
        }
        (!self.asked.swap(true, Ordering::Relaxed)).then_some("press again to leave, or write /quit")
    }
}

/// From now on SIGINT stops an answer, and a second one in a row leaves.
pub(super) fn converse() -> Arc<Chat> {
    let chat = Arc::new(Chat::default());
    *interrupted() = Interrupted::Chat(chat.clone());
    chat
}

struct Training {
    /// Becomes the exit code when the run should stop.
    stop: Arc<AtomicU8>,
    directory: PathBuf,
    total_steps: u64,
    doing: Doing,
}

#[derive(Clone, Copy)]
enum Doing {
    /// Nothing of this process would be lost.
    Starting,
    Step(u64),
    /// The evaluation after a step.
    Evaluating(u64),
    /// The checkpoint of a step.
    Saving(u64),
    Over,
}

fn interrupted() -> MutexGuard<'static, Interrupted> {
    // Every change is one assignment.
    INTERRUPTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on signals end the process cleanly, with these words.
///
/// # Errors
/// If the handlers cannot be installed.
pub(super) fn watch(words: &'static str) -> Result<()> {
    *interrupted() = Interrupted::Command(words);
    listen().map_err(|e| Error::Config(format!("a signal handler cannot be installed: {e}")))
}

/// Answers signals in a thread of its own.
#[cfg(unix)]
fn listen() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
    // A file that outgrows `ulimit -f` is then an error of the write, and not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || signals.forever().for_each(received));
    Ok(())
}

/// Answers Ctrl-C in a thread of its own. Windows has no pipe that a handler may write to, so the thread looks at a flag.
#[cfg(not(unix))]
fn listen() -> std::io::Result<()> {
    use signal_hook::consts::SIGINT;
    const PACE: std::time::Duration = std::time::Duration::from_millis(50);
    let pressed = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, pressed.clone())?;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(PACE);
            if pressed.swap(false, Ordering::Relaxed) {
                received(SIGINT);
            }
        }
    });
    Ok(())
}

/// From now on a signal lets this run finish its step: `stop` becomes the exit code. Returns what follows the run.
pub(super) fn let_finish(stop: &Arc<AtomicU8>, directory: &Path) -> Whereabouts {
    *interrupted() = Interrupted::Run(Training {
        stop: stop.clone(),
        directory: directory.to_path_buf(),
        total_steps: 0,
        doing: Doing::Starting,
    });
    Whereabouts
}

/// As [`let_finish`], of a rank that writes nothing and does not answer.
pub(super) fn let_all_finish(stop: &Arc<AtomicU8>) {
    *interrupted() = Interrupted::Rank(stop.clone());
}

/// Follows a run, so that a signal can be answered with what it is doing.
pub(super) struct Whereabouts;

impl Sink for Whereabouts {
    fn name(&self) -> &str {
        "signals"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        let Interrupted::Run(run) = &mut *interrupted() else { return Ok(()) };
        match *event {
            Event::Start { step, total_steps } => {
                run.total_steps = total_steps;
                run.doing = run.after(step);
            }
            Event::Progress { step, .. } | Event::Saved { step, .. } => run.doing = run.after(step),
            Event::Evaluation { step: 0 } => run.doing = Doing::Starting,
            Event::Evaluation { step } => run.doing = Doing::Evaluating(step),
            Event::Metrics { step, .. } => run.doing = run.after(step),
            Event::Checkpoint => {
                if let Doing::Step(next) = run.doing {
                    run.doing = Doing::Saving(next - 1);
                }
            }
            Event::End { .. } => run.doing = Doing::Over,
            Event::Note(_) | Event::Warning(_) | Event::Sample { .. } | Event::HeldOut(_) => {}
        }
        Ok(())
    }
}

impl Training {
    /// What follows a step.
    fn after(&self, step: u64) -> Doing {
        if step < self.total_steps { Doing::Step(step + 1) } else { Doing::Saving(step) }
    }

    /// The answer to the first signal.
    fn finishing(&self) -> Option<String> {
        Some(match self.doing {
            Doing::Step(step) => format!("finishing step {step}, then saving"),
            Doing::Evaluating(step) => format!("finishing the evaluation after step {step}, then saving"),
            Doing::Saving(step) => format!("saving step {step}"),
            Doing::Starting | Doing::Over => return None,
        })
    }

    /// What a run that is stopped at once leaves.
    fn kept(&self) -> String {
        let whole = run_dir::whole_of(&self.directory);
        let has_stages = whole.is_some() || !run_dir::stages(&self.directory).is_empty();
        let run = files::shell_word(whole.as_deref().unwrap_or(&self.directory));
        match checkpoint::newest(&self.directory).0 {
            _ if has_stages && matches!(self.doing, Doing::Over) => {
                format!("interrupted after a stage; continue with: dpo-lora train --resume {run}")
            }
            _ if matches!(self.doing, Doing::Over) => {
                format!("interrupted after the last step; {run} keeps what was written")
            }
            Some((path, state)) => format!(
                "stopped; {} is kept, later steps are lost; continue after step {} with: dpo-lora train --resume {run}",
                path.display(),
                state.step
            ),
            None if has_stages => format!(
                "stopped before the first checkpoint of a stage; finished stages are kept; continue with: \
                 dpo-lora train --resume {run}"
            ),
            None => format!(
                "stopped before the first checkpoint: nothing was trained that can be kept; {run} can be used again with \
                 --overwrite"
            ),
        }
    }
}

/// The exit code of a process that SIGINT ends.
const SIGINT: u8 = 130;

/// Answers a signal.
fn received(signal: i32) {
    let code = u8::try_from(128 + signal).unwrap_or(1);
    let words = match &*interrupted() {
        Interrupted::Command(words) => (*words).to_string(),
        Interrupted::Chat(chat) => match chat.pressed().filter(|_| code == SIGINT) {
            Some(words) => {
                if !words.is_empty() {
                    let _ = screen::line_after_key(words);
                }
                return;
            }
            None => "left".into(),
        },
        Interrupted::Rank(stop) => {
            if stop.swap(code, Ordering::Relaxed) == 0 {
                return;
            }
            "stopped".into()
        }
        Interrupted::Run(run) => {
            let again = run.stop.load(Ordering::Relaxed) != 0;
            match run.finishing().filter(|_| !again) {
                Some(finishing) => {
                    // First the answer, then the request: a short step would overtake it. Standard error may be closed; the run
                    // stops all the same.
                    let _ = screen::line_after_key(&format!("{finishing}; press again to stop now"));
                    run.stop.store(code, Ordering::Relaxed);
                    return;
                }
                None => run.kept(),
            }
        }
    };
    files::remove_temporaries();
    let _ = screen::line_after_key(&words);
    exit(code);
}

/// Ends the process at once.
#[cfg(unix)]
pub(super) fn exit(code: u8) {
    signal_hook::low_level::exit(i32::from(code));
}

/// Ends the process at once.
#[cfg(not(unix))]
pub(super) fn exit(code: u8) {
    std::process::exit(i32::from(code));
}
