//! How ranks find each other. All connect to rank 0, which tells each where the one before it listens. When each has that
//! connection, too, it says so, and rank 0 lets all begin. Until then a rank that ends or fails is noticed by rank 0, which
//! tells the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::post::Joined;
use super::Tcp;
use super::address::{Listeners, connected, is_later, seen_from_here};
use crate::error::{Error, Result};

/// Where ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The number of this rank.
    pub rank: usize,
    /// The number of ranks.
    pub size: usize,
    /// Name or address of rank 0.
    pub host: String,
    /// The port at which rank 0 listens.
    pub port: u16,
}

impl Meeting {
    /// Address and port of rank 0, for messages.
    fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The first bytes of a connection; the digit is the version of the protocol.
const MAGIC: &[u8; 8] = b"dporank2";

/// Bytes with which a rank introduces itself: [`MAGIC`], its number, the number of ranks, its port.
const HELLO: usize = 8 + 4 + 4 + 2;

/// Time for a stranger to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// The longest line that ranks tell each other while they meet.
const LONGEST: usize = 4096;

/// Begins a line that tells why the ranks cannot meet.
const FAILED: char = '!';

struct Hello {
    rank: usize,
    size: usize,
    port: u16,
}

impl Hello {
    fn written(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&(self.rank as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.size as u32).to_le_bytes());
        bytes[16..].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }

    /// Reads who connects; `None` if it is no rank.
    ///
    /// # Errors
    /// If it is a rank of another version of this program.
    fn read(stream: &mut TcpStream, from: &str) -> Result<Option<Self>> {
        let mut bytes = [0; HELLO];
        let read = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(INTRODUCTION)))
            .and_then(|()| stream.read_exact(&mut bytes));
        if read.is_err() || bytes[..7] != MAGIC[..7] {
            return Ok(None);
        }
        let number = |at: usize| bytes[at..].first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize);
        let (Some(rank), Some(size)) = (number(8), number(12)) else { return Ok(None) };
        if bytes[7] != MAGIC[7] {
            return Err(Error::Ranks(format!(
                "rank {rank} of {size}, which came from {from}, is of another version of this program; start every rank with the same"
            )));
        }
        Ok(bytes[16..].first_chunk::<2>().map(|b| Self { rank, size, port: u16::from_le_bytes(*b) }))
    }
}

/// Connects a rank with the others; it waits for them for at most `wait`.
///
/// # Errors
/// If they do not all come, or an address is invalid.
pub(in crate::ranks) fn join(meeting: &Meeting, wait: Duration) -> Result<Joined> {
    let until = Instant::now() + wait;
    let streams = match meeting.rank {
        0 => as_first(meeting, until),
        _ => as_other(meeting, until),
    }?;
    let wire = Tcp::new(streams).map_err(|e| Error::Ranks(format!("the connections of the ranks: {e}")))?;
    Ok((Box::new(wire), meeting.rank, meeting.size))
}

/// Those that have come to rank 0.
struct Guests {
    streams: Vec<Option<TcpStream>>,
    /// Where each listens.
    places: Vec<Option<SocketAddr>>,
}

/// Accepts all others, tells each the address of the one before it, and waits until they have that connection.
fn as_first(meeting: &Meeting, until: Instant) -> Result<Vec<Option<TcpStream>>> {
    let failed = |e: std::io::Error| {
        Error::Ranks(format!(
            "rank 0 cannot listen at port {}: {e}; set MASTER_PORT to another",
            meeting.port
        ))
    };
    let listeners = Listeners::bind(meeting.port).map_err(failed)?;
    let streams = (0..meeting.size).map(|_| None).collect();
    let mut guests = Guests { streams, places: vec![None; meeting.size] };
    let met = guests.come(meeting, &listeners, until).and_then(|()| guests.connect(until));
    let last = match &met {
        Ok(()) => "\n".to_string(),
        Err(error) => failure(error),
    };
    for stream in guests.streams.iter_mut().flatten() {
        // One that is gone is noticed later.
        let _ = tell(stream, &last);
    }
    met.map(|()| guests.streams)
}

impl Guests {
    /// Waits until all have come.
    fn come(&mut self, meeting: &Meeting, listeners: &Listeners, until: Instant) -> Result<()> {
        while self.streams.iter().skip(1).any(Option::is_none) {
            if let Some((stream, from)) = listeners.accept()? {
                self.welcome(meeting, stream, from)?;
                continue;
            }
            for (rank, stream) in self.streams.iter().enumerate() {
                if let Some(stream) = stream
                    && has_ended(stream)
                {
                    return Err(gone(rank, self.places[rank]));
                }
            }
            if Instant::now() >= until {
                let missing = (1..meeting.size).filter(|rank| self.streams[*rank].is_none());
                let missing: Vec<String> = missing.map(|rank| rank.to_string()).collect();
                return Err(Error::Ranks(format!(
                    "of {} ranks {} did not come to port {} in time: were they started, and can they reach {}?",
                    meeting.size,
                    missing.join(", "),
                    meeting.port,
                    meeting.host
                )));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Reads who has come. A stranger, such as a scan of ports, is ignored.
    fn welcome(&mut self, meeting: &Meeting, mut stream: TcpStream, from: std::net::IpAddr) -> Result<()> {
        let Some(hello) = Hello::read(&mut stream, &from.to_string())? else { return Ok(()) };
        if hello.size != meeting.size || hello.rank == 0 || hello.rank >= meeting.size {
            return Err(Error::Ranks(format!(
                "rank {} of {} came from {from}, and this is rank 0 of {}; two runs use port {}: set MASTER_PORT to another",
                hello.rank, hello.size, meeting.size, meeting.port
            )));
        }
        if self.streams[hello.rank].is_some() {
            return Err(Error::Ranks(format!("there are two processes with rank {}", hello.rank)));
        }
        self.places[hello.rank] = Some(SocketAddr::new(from, hello.port));
        self.streams[hello.rank] = Some(stream);
        Ok(())
    }

    /// Tells each the address of the one before it, and waits until all have that connection.
    fn connect(&mut self, until: Instant) -> Result<()> {
        for rank in 1..self.streams.len() {
            let before = self.places[rank - 1].map_or_else(String::new, |place| place.to_string());
            if let Some(stream) = &mut self.streams[rank] {
                tell(stream, &format!("{before}\n")).map_err(|_| gone(rank, self.places[rank]))?;
            }
        }
        let mut waiting: Vec<usize> = (1..self.streams.len()).collect();
        while !waiting.is_empty() {
            let mut still = Vec::new();
            for rank in waiting {
                let Some(stream) = &mut self.streams[rank] else { continue };
                if !has_word(stream) {
                    still.push(rank);
                    continue;
                }
                let word = hear(stream, Instant::now() + INTRODUCTION);
                let word = word.map_err(|_| gone(rank, self.places[rank]))?;
                if let Some(why) = word.strip_prefix(FAILED) {
                    return Err(Error::Ranks(format!("rank {rank}: {why}")));
                }
            }
            waiting = still;
            if let (Some(rank), true) = (waiting.first(), Instant::now() >= until) {
                return Err(Error::Ranks(format!(
                    "rank {rank} was not connected with those beside it in time"
                )));
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn gone(rank: usize, place: Option<SocketAddr>) -> Error {
    let from = place.map_or_else(String::new, |place| format!(", which came from {},", place.ip()));
    Error::Ranks(format!("rank {rank}{from} has ended before all ranks were connected"))
}

fn as_other(meeting: &Meeting, until: Instant) -> Result<Vec<Option<TcpStream>>> {
    let failed = |e: std::io::Error| Error::Ranks(format!("rank {} cannot listen: {e}", meeting.rank));
    let listeners = Listeners::bind(0).map_err(failed)?;
    let hello = Hello { rank: meeting.rank, size: meeting.size, port: listeners.port }.written();
    let addresses =
        || Ok((meeting.host.as_str(), meeting.port).to_socket_addrs()?.collect::<Vec<SocketAddr>>());
    let name = format!("rank 0 at {}", meeting.place());
    let mut first = connected(addresses, &name, until, || Ok(()))?;
    let lost = |e: std::io::Error| {
        Error::Ranks(format!("{name} does not answer ({e}): did all ranks start, with the same version?"))
    };
    first.write_all(&hello).map_err(lost)?;
    let before = told(hear(&mut first, until).map_err(lost)?)?;
    let around = neighbours(meeting, &before, (&listeners, &first), &hello, until);
    tell(&mut first, &around.as_ref().map_or_else(failure, |_| "\n".into())).map_err(lost)?;
    // Rank 0 knows which rank has failed.
    told(hear(&mut first, until).map_err(lost)?)?;
    let mut streams = around?;
    streams[0] = Some(first);
    Ok(streams)
}

/// Connects with the rank before, which listens at `before`, and the one behind.
fn neighbours(
    meeting: &Meeting,
    before: &str,
    (listeners, first): (&Listeners, &TcpStream),
    hello: &[u8],
    until: Instant,
) -> Result<Vec<Option<TcpStream>>> {
    let mut streams: Vec<Option<TcpStream>> = (0..meeting.size).map(|_| None).collect();
    // Rank 0 says nothing until all are connected, unless one has failed.
    let check = || match has_word(first) {
        true => Err(Error::Ranks("another rank has ended before all ranks were connected".into())),
        false => Ok(()),
    };
    if meeting.rank > 1 {
        let invalid =
            || Error::Ranks(format!("rank 0 tells the address {before:?} of rank {}", meeting.rank - 1));
        let place = seen_from_here(before.parse().map_err(|_| invalid())?, first).map_err(|_| invalid())?;
        let name = format!("rank {} at {place}", meeting.rank - 1);
        let mut stream = connected(|| Ok(vec![place]), &name, until, check)?;
        stream.write_all(hello).map_err(|e| Error::Ranks(format!("{name} is gone already: {e}")))?;
        streams[meeting.rank - 1] = Some(stream);
    }
    let next = meeting.rank + 1;
    while next < meeting.size && streams[next].is_none() {
        if let Some((mut stream, from)) = listeners.accept()? {
            let hello = Hello::read(&mut stream, &from.to_string())?.filter(|hello| hello.rank == next);
            streams[next] = hello.map(|_| stream);
            continue;
        }
        check()?;
        if Instant::now() >= until {
            return Err(Error::Ranks(format!(
                "rank {next} did not come to rank {} at port {} in time; ranks must reach each other",
                meeting.rank, listeners.port
            )));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(streams)
}

/// A line that tells others why the ranks cannot meet.
fn failure(error: &Error) -> String {
    let text: String = error.to_string().replace('\n', " ").chars().take(LONGEST / 4 - 2).collect();
    format!("{FAILED}{text}\n")
}

/// What another rank has told, unless it is why it failed.
fn told(line: String) -> Result<String> {
    match line.strip_prefix(FAILED) {
        Some(why) => Err(Error::Ranks(why.into())),
        None => Ok(line),
    }
}

/// Whether the other end has closed the connection.
fn has_ended(stream: &TcpStream) -> bool {
    matches!(peek(stream), Ok(0)) || matches!(peek(stream), Err(e) if !is_later(&e))
}

/// Whether the other end has said something, or has closed the connection.
fn has_word(stream: &TcpStream) -> bool {
    has_ended(stream) || peek(stream).is_ok()
}

fn peek(stream: &TcpStream) -> std::io::Result<usize> {
    stream.set_nonblocking(true)?;
    let found = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    found
}

/// Sends a line.
fn tell(stream: &mut TcpStream, line: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(INTRODUCTION))?;
    stream.write_all(line.as_bytes())
}

/// Waits for a short line.
fn hear(stream: &mut TcpStream, until: Instant) -> std::io::Result<String> {
    stream.set_nonblocking(false)?;
    let mut text = Vec::new();
    while text.len() < LONGEST {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        stream.set_read_timeout(Some(left))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        text.push(byte[0]);
    }
    Err(std::io::Error::other("its line does not end"))
}
