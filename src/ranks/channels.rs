//! Ranks that are threads of one process, for tests of what ranks do together.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use super::wire::{Lost, Wire};

type Sent = (usize, Vec<u8>);

/// A rank that is a thread.
pub(super) struct Channels {
    rank: usize,
    to: Vec<Sender<Sent>>,
    from: Receiver<Sent>,
}

impl Channels {
    /// Connects so many ranks.
    pub fn connected(size: usize) -> Vec<Self> {
        let (to, from): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
        from.into_iter().enumerate().map(|(rank, from)| Self { rank, to: to.clone(), from }).collect()
    }
}

impl Wire for Channels {
    fn send(&mut self, to: usize, frame: Vec<u8>) -> Result<(), Lost> {
        let lost = || Lost { rank: to, why: "its thread has ended".into() };
        self.to.get(to).ok_or_else(lost)?.send((self.rank, frame)).map_err(|_| lost())
    }

    fn poll(&mut self) -> Result<Option<Sent>, Lost> {
        match self.from.try_recv() {
            Ok(sent) => Ok(Some(sent)),
            // This rank holds a sender of its own channel.
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(None),
        }
    }

    fn is_flushed(&self) -> bool {
        true
    }

    fn close(&mut self, _: bool) {}
}
