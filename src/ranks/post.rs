//! The thread of a rank that sends, receives and watches whether the others live, while the main thread computes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::state::{OnFailure, Shared, State};
use super::topic::Topic;
use super::wire::{Frame, Lost, Wire};
use crate::error::{Error, Result};

/// Time that the main thread has to notice a failure before the process ends without it.
const GRACE: Duration = Duration::from_secs(3);

/// Time that the last frames of a rank have to leave.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A rank's wire, its number and the number of ranks.
pub(super) type Joined = (Box<dyn Wire>, usize, usize);

enum Order {
    Send(usize, Vec<u8>),
    Fail(String),
    Leave,
}

/// The connection of this rank's main thread with its thread.
pub(super) struct Post {
    pub rank: usize,
    pub size: usize,
    /// Whether all ranks compute the same: the work has begun.
    pub has_begun: Arc<AtomicBool>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Post {
    /// Starts the thread, which connects by `join`.
    ///
    /// # Errors
    /// Those of `join`.
    pub fn start(join: impl FnOnce() -> Result<Joined> + Send + 'static, patience: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            patience: AtomicU64::new(patience.as_millis() as u64),
            waited: AtomicU64::new(0),
        });
        let (orders, received) = channel();
        let (told, joined) = channel();
        let of_thread = shared.clone();
        let run = move || match join() {
            Ok((wire, rank, size)) => {
                of_thread.state().inbox.resize_with(size, VecDeque::new);
                let _ = told.send(Ok((rank, size)));
                Carrier::new(wire, (rank, size), of_thread).run(&received);
            }
            Err(error) => drop(told.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("ranks".into()).spawn(run);
        let thread = thread.map_err(|e| Error::Ranks(format!("the thread of the ranks: {e}")))?;
        let ended = |_| Error::Ranks("the thread of the ranks has ended".into());
        let (rank, size) = joined.recv().map_err(ended)??;
        let (has_begun, thread) = (Arc::default(), Mutex::new(Some(thread)));
        Ok(Self { rank, size, has_begun, shared, orders, thread })
    }

    /// Gives up ranks that are silent for so long.
    pub fn set_patience(&self, patience: Duration) {
        self.shared.patience.store(patience.as_millis() as u64, Ordering::Relaxed);
    }

    /// Tells where the ranks run, for messages.
    pub fn set_places(&self, places: Vec<String>) {
        self.shared.state().places = places;
    }

    /// Names a rank and where it runs.
    pub fn named(&self, rank: usize) -> String {
        self.shared.named(rank)
    }

    /// From now on a failure ends the process by this, if the main thread has not ended it before.
    pub fn on_failure(&self, end: OnFailure) {
        self.shared.state().on_failure = Some(end);
    }

    /// Time that the main thread has waited for others.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.shared.waited.load(Ordering::Relaxed))
    }

    /// Sends bytes to a rank.
    pub fn send(&self, to: usize, topic: u8, bytes: Vec<u8>) {
        // The thread ends only after `Leave`.
        let _ = self.orders.send(Order::Send(to, Frame::Data(topic, bytes).encoded()));
    }

    /// Waits for the next bytes of a rank.
    ///
    /// # Errors
    /// If a rank has failed, or what arrives belongs to something else.
    pub fn receive(&self, from: usize, topic: u8) -> Result<Vec<u8>> {
        let start = Instant::now();
        let mut state = self.shared.state();
        loop {
            if let Some(found) = self.next(&mut state, from, topic)? {
                self.shared.waited.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                return Ok(found);
            }
            state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Post::receive`], but `None` if nothing has arrived yet.
    ///
    /// # Errors
    /// As [`Post::receive`].
    pub fn received(&self, from: usize, topic: u8) -> Result<Option<Vec<u8>>> {
        self.next(&mut self.shared.state(), from, topic)
    }

    fn next(&self, state: &mut State, from: usize, topic: u8) -> Result<Option<Vec<u8>>> {
        match (state.inbox.get_mut(from).and_then(VecDeque::pop_front), &state.failure) {
            (Some((found, bytes)), _) if found == topic => Ok(Some(bytes)),
            (Some((found, _)), _) => Err(Error::Ranks(format!(
                "rank {from} is at another place of the run (it sends {}, and {} is due); start every rank with the same program, \
                 command and files",
                Topic::named(found),
                Topic::named(topic)
            ))),
            (None, Some(failure)) => Err(Error::Ranks(failure.clone())),
            (None, None) => Ok(None),
        }
    }

    /// Tells all ranks that this one has failed.
    pub fn fail(&self, why: &str) {
        let _ = self.orders.send(Order::Fail(why.into()));
    }

    /// Says good-bye, and waits until it is sent.
    pub fn leave(&self) {
        let _ = self.orders.send(Order::Leave);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        // After `leave` nobody reads this.
        let _ = self.orders.send(Order::Fail("it ended before the others".into()));
        self.leave();
    }
}

/// The state of the thread.
struct Carrier {
    wire: Box<dyn Wire>,
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
    /// When each rank was last heard of; `None` if it has said good-bye or is lost.
    heard: Vec<Option<Instant>>,
    /// Ranks with which it exchanges signs of life: rank 0 with all, the others with rank 0 and those beside them, from which
    /// gradients come. A link between two others may be cut while rank 0 reaches both.
    watched: Vec<usize>,
    beaten: Instant,
    failed: Option<Instant>,
    active: Instant,
}

impl Carrier {
    fn new(wire: Box<dyn Wire>, (rank, size): (usize, usize), shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        let is_watched =
            |other: &usize| *other != rank && (rank == 0 || *other == 0 || rank.abs_diff(*other) == 1);
        Self {
            watched: (0..size).filter(is_watched).collect(),
            wire,
            rank,
            size,
            shared,
            heard: vec![Some(now); size],
            beaten: now,
            failed: None,
            active: now,
        }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let order = match orders.recv_timeout(self.pause()) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Order::Leave),
            };
            match order {
                Some(Order::Send(to, frame)) => self.send(to, frame),
                Some(Order::Fail(why)) => self.fail_here(&why),
                Some(Order::Leave) => return self.leave(),
                None => {}
            }
            self.receive();
            self.beat();
            self.watch();
        }
    }

    /// Time to wait for the main thread: little while frames come and go.
    fn pause(&self) -> Duration {
        let idle = self.active.elapsed();
        if !self.wire.is_flushed() || idle < Duration::from_millis(5) {
            Duration::from_micros(50)
        } else if idle < Duration::from_millis(200) {
            Duration::from_micros(200)
        } else {
            Duration::from_millis(1)
        }
    }

    fn send(&mut self, to: usize, frame: Vec<u8>) {
        self.active = Instant::now();
        if let Err(lost) = self.wire.send(to, frame) {
            self.lost(&lost);
        }
    }

    /// Takes everything that has arrived.
    fn receive(&mut self) {
        loop {
            let (from, bytes) = match self.wire.poll() {
                Ok(Some(arrived)) => arrived,
                Ok(None) => return,
                Err(lost) => {
                    self.lost(&lost);
                    // An error that does not go away must not keep this thread from its other work.
                    return;
                }
            };
            self.arrived(from, bytes);
        }
    }

    /// Takes a frame of a rank.
    fn arrived(&mut self, from: usize, bytes: Vec<u8>) {
        let Some(heard) = self.heard.get_mut(from) else { return };
        *heard = Some(Instant::now());
        match Frame::decoded(bytes) {
            Some(Frame::Beat) => {}
            Some(Frame::Data(topic, bytes)) => {
                self.active = Instant::now();
                self.shared.state().inbox[from].push_back((topic, bytes));
                self.shared.arrived.notify_all();
            }
            Some(Frame::Failed(message)) => self.fail(&message),
            Some(Frame::Bye) => *heard = None,
            None => self.lost(&Lost { rank: from, why: "it sends what is no message of a rank".into() }),
        }
    }

    fn beat(&mut self) {
        if self.beaten.elapsed() < (self.shared.patience() / 5).min(Duration::from_secs(1)) {
            return;
        }
        self.beaten = Instant::now();
        for rank in self.watched.clone() {
            if self.heard[rank].is_some()
                && let Err(lost) = self.wire.send(rank, Frame::Beat.encoded())
            {
                self.lost(&lost);
            }
        }
    }

    /// Gives up ranks that are silent, and ends the process if its main thread does not.
    fn watch(&mut self) {
        let patience = self.shared.patience();
        let is_silent = |rank: &usize| self.heard[*rank].is_some_and(|heard| heard.elapsed() > patience);
        let silent: Vec<usize> = self.watched.iter().copied().filter(is_silent).collect();
        if let (Some(first), None) = (silent.first(), self.failed) {
            let others = match silent.len() - 1 {
                0 => String::new(),
                1 => ", and so has 1 other".into(),
                others => format!(", and so have {others} others"),
            };
            self.fail(&format!(
                "{} has given no sign of life for {} s{others}: it hangs, its machine is down, or the network between is cut",
                self.shared.named(*first),
                patience.as_secs_f64().round()
            ));
        }
        if self.failed.is_some_and(|failed| failed.elapsed() > GRACE) {
            let mut state = self.shared.state();
            if let (Some(end), Some(failure)) = (state.on_failure.take(), state.failure.clone()) {
                drop(state);
                self.flush();
                end(&failure);
            }
        }
    }

    fn lost(&mut self, lost: &Lost) {
        if self.heard.get(lost.rank).is_none_or(Option::is_none) {
            return;
        }
        // What it said before may not have been read yet: good-bye, or which rank has failed, for which it ends.
        while let Ok(Some((from, bytes))) = self.wire.poll() {
            self.arrived(from, bytes);
        }
        // One that has said good-bye closes its connections.
        if self.heard[lost.rank].take().is_some() {
            self.fail(&format!("{} is lost: {}", self.shared.named(lost.rank), lost.why));
        }
    }

    fn fail_here(&mut self, why: &str) {
        self.fail(&format!("{} has failed: {why}", self.shared.named(self.rank)));
    }

    /// Records a failure and tells others: rank 0 tells all, the others tell rank 0 and their neighbours, which would only see
    /// that a connection closes.
    fn fail(&mut self, message: &str) {
        if !self.shared.fail(message) {
            return;
        }
        self.failed = Some(Instant::now());
        for rank in self.watched.clone() {
            if self.heard[rank].is_some() {
                // Who cannot be told notices the silence.
                let _ = self.wire.send(rank, Frame::Failed(message.into()).encoded());
            }
        }
    }

    fn flush(&mut self) {
        let start = Instant::now();
        while !self.wire.is_flushed() && start.elapsed() < LAST_WORDS {
            let _ = self.wire.poll();
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn leave(mut self) {
        let clean = self.failed.is_none();
        if clean {
            for rank in (0..self.size).filter(|rank| *rank != self.rank) {
                let _ = self.wire.send(rank, Frame::Bye.encoded());
            }
        }
        self.flush();
        self.wire.close(clean);
    }
}
