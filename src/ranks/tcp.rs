//! Ranks connected by TCP. Rank 0 listens at an address that all know, as with PyTorch's `torchrun`; each rank also has a
//! connection with the one before it. Addresses are of IPv4 or IPv6. There is neither encryption nor a password: the network must be trusted.

mod address;
mod meeting;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

pub(super) use self::address::parsed;
pub use self::meeting::Meeting;
pub(super) use self::meeting::join;
use super::wire::{Lost, Wire};

/// The largest frame: a piece of a broadcast or of the gradient, or what all ranks gathered.
const LARGEST: usize = 1 << 30;

/// Time in which the others close their connections, too.
const DRAIN: Duration = Duration::from_secs(1);

/// Bytes that are read at once.
const READ: usize = 1 << 18;

/// The connections of a rank.
pub(super) struct Tcp {
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
    /// The peer that is read next.
    next: usize,
}

struct Peer {
    stream: TcpStream,
    /// Bytes that are still to be sent: lengths and frames.
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first of them that were sent.
    sent: usize,
    arrived: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self { stream, queue: VecDeque::new(), sent: 0, arrived: Vec::new(), frames: VecDeque::new() }
    }

    /// Sends what the connection takes now.
    fn write(&mut self) -> std::io::Result<()> {
        while let Some(first) = self.queue.front() {
            match self.stream.write(&first[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.sent == self.queue.front().map_or(0, Vec::len) {
                self.queue.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// Reads what has arrived, at most so much at once that the other peers have their turn.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.arrived.extend_from_slice(&buffer[..read]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(e) => return Err(e),
        }
        let mut at = 0;
        while let Some((length, rest)) = self.arrived[at..].split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > LARGEST {
                return Err(std::io::Error::other(format!("a message of {length} bytes is announced")));
            }
            let Some(frame) = rest.get(..length) else { break };
            self.frames.push_back(frame.to_vec());
            at += 4 + length;
        }
        self.arrived.drain(..at);
        Ok(())
    }
}

impl Tcp {
    /// Uses these connections, by rank.
    ///
    /// # Errors
    /// The system's.
    fn new(streams: Vec<Option<TcpStream>>) -> std::io::Result<Self> {
        for stream in streams.iter().flatten() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
        }
        let peers = streams.into_iter().map(|stream| stream.map(Peer::new)).collect();
        Ok(Self { peers, buffer: vec![0; READ], next: 0 })
    }

    fn lost(&mut self, rank: usize, error: &std::io::Error) -> Lost {
        if let Some(peer) = self.peers.get_mut(rank) {
            *peer = None;
        }
        let why = match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "its process has ended, or was killed".to_string()
            }
            _ => format!("its connection is broken ({error})"),
        };
        Lost { rank, why }
    }
}

impl Wire for Tcp {
    fn send(&mut self, to: usize, frame: Vec<u8>) -> Result<(), Lost> {
        let Some(Some(peer)) = self.peers.get_mut(to) else { return Ok(()) };
        let length = u32::try_from(frame.len()).ok().filter(|length| *length as usize <= LARGEST);
        let Some(length) = length else {
            return Err(Lost {
                rank: to,
                why: format!("a message of {} bytes is too long for it", frame.len()),
            });
        };
        peer.queue.extend([length.to_le_bytes().to_vec(), frame]);
        // `poll` reports a failure, once it has read what came before.
        let _ = peer.write();
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<(usize, Vec<u8>)>, Lost> {
        for _ in 0..self.peers.len() {
            let rank = self.next;
            self.next = (rank + 1) % self.peers.len();
            let Some(peer) = &mut self.peers[rank] else { continue };
            if let Some(frame) = peer.frames.pop_front() {
                return Ok(Some((rank, frame)));
            }
            // First what has arrived: the last words of a rank come before its end.
            let moved = peer.read(&mut self.buffer).and_then(|()| peer.write());
            if let Some(frame) = peer.frames.pop_front() {
                return Ok(Some((rank, frame)));
            }
            moved.map_err(|error| self.lost(rank, &error))?;
        }
        Ok(None)
    }

    fn is_flushed(&self) -> bool {
        self.peers.iter().flatten().all(|peer| peer.queue.is_empty())
    }

    fn close(&mut self, _: bool) {
        // A connection that is closed with unread bytes is reset, and what was sent last may be lost.
        for peer in self.peers.iter().flatten() {
            let _ = peer.stream.shutdown(Shutdown::Write);
        }
        let start = Instant::now();
        while start.elapsed() < DRAIN && self.peers.iter().any(Option::is_some) {
            for peer in &mut self.peers {
                let read = peer.as_mut().map(|peer| peer.stream.read(&mut self.buffer));
                let is_open =
                    |e: &std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
                if matches!(&read, Some(Ok(0))) || matches!(&read, Some(Err(e)) if !is_open(e)) {
                    *peer = None;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.peers.clear();
    }
}
