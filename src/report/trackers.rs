//! Trackers: programs that collect the figures of runs. They are told in a thread of their own, so that a slow server does
//! not slow a step.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::mlflow::Server;
use super::mlflow_files::Store;
use super::tracker::{Described, Ended, Tracker};
use super::trackio::Inbox;
use super::wandb::Offline;
use super::{Event, Sink};
use crate::error::{Error, Result};

/// Messages that may wait for a server.
const WAITING: usize = 4096;

/// How long the end of a run waits for what is not sent yet.
const PATIENCE: Duration = Duration::from_secs(20);

/// The trackers of `train.report_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackerName {
    /// An MLflow server, or MLflow's files.
    Mlflow,
    /// The files of an offline run of Weights & Biases, for `wandb sync`.
    Wandb,
    /// The files that trackio's dashboard takes in.
    Trackio,
}

impl TrackerName {
    /// Reads a name.
    ///
    /// # Errors
    /// What can be done instead, for a tracker that is known and not written.
    pub fn parse(name: &str) -> std::result::Result<Self, String> {
        match name {
            "mlflow" => Ok(Self::Mlflow),
            "tensorboard" => Err("every run writes TensorBoard's files anyway; leave tensorboard out".into()),
            "wandb" => Ok(Self::Wandb),
            "trackio" => Ok(Self::Trackio),
            other => Err(format!("{other:?} is not a known tracker; there are mlflow, trackio and wandb")),
        }
    }
}

/// Opens a tracker as the environment says.
///
/// # Errors
/// [`Error::Config`] if the environment names a place that is not supported.
pub fn open_tracker(name: TrackerName, run: Described) -> Result<Box<dyn Sink>> {
    let shown = match name {
        TrackerName::Mlflow => "mlflow",
        TrackerName::Wandb => "wandb",
        TrackerName::Trackio => "trackio",
    };
    Ok(Box::new(Background::new(shown, made(name)?, run)))
}

/// Checks the settings of a tracker, before a run has a directory.
///
/// # Errors
/// As [`open_tracker`].
pub fn check_tracker(name: TrackerName) -> Result<()> {
    made(name).map(drop)
}

fn made(name: TrackerName) -> Result<Box<dyn Tracker>> {
    let lookup = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    match name {
        TrackerName::Mlflow => mlflow(&lookup),
        TrackerName::Wandb => Ok(Box::new(Offline::from_env(&lookup)?)),
        TrackerName::Trackio => Ok(Box::new(Inbox::from_env(&lookup, std::env::home_dir())?)),
    }
}

/// MLflow at `MLFLOW_TRACKING_URI`: a server, or a directory, which is `mlruns` if nothing is named.
fn mlflow(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Box<dyn Tracker>> {
    let experiment = lookup("MLFLOW_EXPERIMENT_NAME").unwrap_or_else(|| "dpo-lora".into());
    let Some(uri) = lookup("MLFLOW_TRACKING_URI") else {
        return Ok(Box::new(Store::new(Path::new("mlruns"), experiment)));
    };
    if uri.starts_with("http://") || uri.starts_with("https://") {
        return Ok(Box::new(Server::new(&uri, experiment, lookup)?));
    }
    let path = uri.strip_prefix("file://").or_else(|| uri.strip_prefix("file:")).unwrap_or(&uri);
    if path.contains(':') {
        let scheme = path.split(':').next().unwrap_or_default();
        return Err(Error::Config(format!(
            "MLFLOW_TRACKING_URI begins with {scheme}:, which is not supported; name a server (http://HOST:PORT, as `mlflow \
             server` gives one) or a directory"
        )));
    }
    Ok(Box::new(Store::new(Path::new(path), experiment)))
}

enum Message {
    Metrics { step: u64, values: Vec<(String, f64)>, time: u64 },
    End(Ended, u64),
}

/// Passes figures to a tracker in a thread of its own.
struct Background {
    name: &'static str,
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<String>>>,
    /// Whether the end was told.
    ended: bool,
}

impl Background {
    fn new(name: &'static str, tracker: Box<dyn Tracker>, run: Described) -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        let failure = Arc::new(Mutex::new(None));
        let told = failure.clone();
        let thread = std::thread::spawn(move || work(tracker, &run, &receiver, &told));
        Self { name, sender: Some(sender), thread: Some(thread), failure, ended: false }
    }

    fn send(&mut self, message: Message) -> Result<()> {
        let sent = self.sender.as_ref().map_or(Ok(()), |sender| sender.try_send(message));
        // The thread's own words are better than those about its absence.
        let failed = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (failed, sent) {
            (Some(failure), _) => Err(Error::Data(failure)),
            (None, Err(TrySendError::Full(_))) => {
                Err(Error::Data(format!("{WAITING} messages wait for an answer; later ones are dropped")))
            }
            (None, Ok(()) | Err(TrySendError::Disconnected(_))) => Ok(()),
        }
    }

    /// Waits for the thread, but not for ever.
    fn join(&mut self) -> Result<()> {
        self.sender = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let since = Instant::now();
        while !thread.is_finished() && since.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let failed = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failed {
            Some(failure) => Err(Error::Data(failure)),
            None if thread.is_finished() => Ok(()),
            None => Err(Error::Data(format!(
                "no answer within {} s; the last figures may be missing there",
                PATIENCE.as_secs()
            ))),
        }
    }
}

/// Tells the tracker everything, until it fails for good.
fn work(
    mut tracker: Box<dyn Tracker>,
    run: &Described,
    messages: &Receiver<Message>,
    failure: &Mutex<Option<String>>,
) {
    let mut told = tracker.begin(run, now());
    while told.is_ok() {
        told = match messages.recv() {
            Ok(Message::Metrics { step, values, time }) => tracker.log(step, &values, time),
            Ok(Message::End(how, time)) => tracker.end(how, time),
            Err(_) => return,
        };
    }
    if let Err(error) = told {
        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Sink for Background {
    fn name(&self) -> &str {
        self.name
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Metrics { step, values, .. } => {
                let finite = values.iter().filter(|(_, value)| value.is_finite());
                let values = finite.map(|(name, value)| ((*name).to_string(), *value)).collect();
                self.send(Message::Metrics { step: *step, values, time: now() })
            }
            Event::End { interrupted } => {
                self.ended = true;
                let how = if *interrupted { Ended::Killed } else { Ended::Finished };
                self.send(Message::End(how, now()))?;
                self.join()
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Background {
    /// A run that does not come to its end has failed.
    fn drop(&mut self) {
        if !self.ended {
            // There is nobody left to tell.
            let _ = self.send(Message::End(Ended::Failed, now()));
            let _ = self.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_are_not_supported_are_named() {
        let open = |uri: &str| {
            let uri = uri.to_string();
            mlflow(&move |name: &str| (name == "MLFLOW_TRACKING_URI").then(|| uri.clone()))
        };
        for (uri, words) in [
            ("sqlite:///mlflow.db", "begins with sqlite:"),
            ("databricks://profile", "begins with databricks:"),
            ("http://me:secret@host", "MLFLOW_TRACKING_USERNAME"),
        ] {
            let error = open(uri).err().unwrap();
            assert!(error.exit_code() == 2 && error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for uri in ["http://127.0.0.1:5000", "file:///tmp/mlruns", "mlruns"] {
            assert!(open(uri).is_ok(), "{uri}");
        }
        assert_eq!(TrackerName::parse("trackio"), Ok(TrackerName::Trackio));
        assert_eq!(TrackerName::parse("wandb"), Ok(TrackerName::Wandb));
        assert!(TrackerName::parse("x").is_err() && TrackerName::parse("mlflow").is_ok());
    }

    struct Slow(Arc<Mutex<Vec<String>>>);
    impl Tracker for Slow {
        fn begin(&mut self, run: &Described, _: u64) -> Result<()> {
            self.0.lock().unwrap().push(format!("begin {}", run.name));
            Ok(())
        }
        fn log(&mut self, step: u64, values: &[(String, f64)], _: u64) -> Result<()> {
            std::thread::sleep(Duration::from_millis(20));
            self.0.lock().unwrap().push(format!("{step} {values:?}"));
            if step == 9 { Err(Error::Data("full".into())) } else { Ok(()) }
        }
        fn end(&mut self, how: Ended, _: u64) -> Result<()> {
            self.0.lock().unwrap().push(format!("{how:?}"));
            Ok(())
        }
    }

    #[test]
    fn steps_do_not_wait_and_everything_arrives_in_order() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let open = || {
            let run = Described { name: "r".into(), ..Described::default() };
            Background::new("slow", Box::new(Slow(told.clone())), run)
        };
        let mut sink = open();
        let since = Instant::now();
        for step in 1..=3 {
            let values = [("loss", 0.5), ("bad", f64::NAN)];
            sink.record(&Event::Metrics { step, epoch: 0.1, values: &values }).unwrap();
        }
        assert!(since.elapsed() < Duration::from_millis(40));
        sink.record(&Event::End { interrupted: false }).unwrap();
        let all = std::mem::take(&mut *told.lock().unwrap());
        let metric = |step: u64| format!("{step} [(\"loss\", 0.5)]");
        assert_eq!(all, ["begin r".to_string(), metric(1), metric(2), metric(3), "Finished".into()]);
        // A failure is told once, with the end at the latest.
        let mut sink = open();
        sink.record(&Event::Metrics { step: 9, epoch: 0.1, values: &[("loss", 0.5)] }).unwrap();
        let error = sink.record(&Event::End { interrupted: true }).unwrap_err().to_string();
        assert!(error.contains("full"), "{error}");
        told.lock().unwrap().clear();
        drop(open());
        assert_eq!(told.lock().unwrap().last().unwrap(), "Failed");
    }
}
