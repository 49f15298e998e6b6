//! How ranks find each other: all connect to rank 0, which tells each where the one before it listens.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::post::Joined;
use super::Tcp;
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

/// The first bytes of a connection; the digit is the version of the protocol.
const MAGIC: &[u8; 8] = b"dporank1";

/// Bytes with which a rank introduces itself: [`MAGIC`], its number, the number of ranks, its port.
const HELLO: usize = 8 + 4 + 4 + 2;

/// Time for a stranger to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(5);

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
    fn read(stream: &mut TcpStream) -> Option<Self> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(INTRODUCTION)).ok()?;
        let mut bytes = [0; HELLO];
        stream.read_exact(&mut bytes).ok()?;
        let number = |at: usize| bytes[at..].first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize);
        let port = bytes[16..].first_chunk::<2>().map(|b| u16::from_le_bytes(*b))?;
        (bytes[..8] == *MAGIC).then_some(Self { rank: number(8)?, size: number(12)?, port })
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

/// Accepts all others, and tells each the address of the one before it.
fn as_first(meeting: &Meeting, until: Instant) -> Result<Vec<Option<TcpStream>>> {
    let failed = |e: std::io::Error| {
        Error::Ranks(format!(
            "rank 0 cannot listen at port {}: {e}; set MASTER_PORT to another",
            meeting.port
        ))
    };
    let listener = TcpListener::bind(("0.0.0.0", meeting.port)).map_err(failed)?;
    let mut streams: Vec<Option<TcpStream>> = (0..meeting.size).map(|_| None).collect();
    let mut places: Vec<Option<SocketAddr>> = vec![None; meeting.size];
    listener.set_nonblocking(true).map_err(failed)?;
    while streams.iter().skip(1).any(Option::is_none) {
        let Some((mut stream, address)) = accepted(&listener, until)? else {
            let missing: Vec<String> = (1..meeting.size)
                .filter(|rank| streams[*rank].is_none())
                .map(|rank| rank.to_string())
                .collect();
            return Err(Error::Ranks(format!(
                "of {} ranks {} did not come to port {} in time: were they started, and can they reach {}?",
                meeting.size,
                missing.join(", "),
                meeting.port,
                meeting.host
            )));
        };
        // A stranger, such as a scan of ports, is ignored.
        let Some(hello) = Hello::read(&mut stream) else { continue };
        if hello.size != meeting.size || hello.rank == 0 || hello.rank >= meeting.size {
            return Err(Error::Ranks(format!(
                "rank {} of {} came from {}, and this is rank 0 of {}; two runs use port {}: set MASTER_PORT to another",
                hello.rank,
                hello.size,
                address.ip(),
                meeting.size,
                meeting.port
            )));
        }
        if streams[hello.rank].is_some() {
            return Err(Error::Ranks(format!("there are two processes with rank {}", hello.rank)));
        }
        places[hello.rank] = Some(SocketAddr::new(address.ip(), hello.port));
        streams[hello.rank] = Some(stream);
    }
    for rank in 1..meeting.size {
        let before = places[rank - 1].map_or_else(String::new, |place| place.to_string());
        let mut line = before.into_bytes();
        line.push(b'\n');
        if let Some(stream) = &mut streams[rank] {
            stream.write_all(&line).map_err(|e| Error::Ranks(format!("rank {rank} is gone already: {e}")))?;
        }
    }
    Ok(streams)
}

fn as_other(meeting: &Meeting, until: Instant) -> Result<Vec<Option<TcpStream>>> {
    let failed = |e: std::io::Error| Error::Ranks(format!("rank {} cannot listen: {e}", meeting.rank));
    let listener = TcpListener::bind(("0.0.0.0", 0)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let hello = Hello { rank: meeting.rank, size: meeting.size, port }.written();
    let mut streams: Vec<Option<TcpStream>> = (0..meeting.size).map(|_| None).collect();
    let mut first = connected(&(meeting.host.clone(), meeting.port), &meeting.host, until)?;
    let lost = |e: std::io::Error| {
        Error::Ranks(format!(
            "rank 0 at {}:{} does not answer: {e}; did all ranks start?",
            meeting.host, meeting.port
        ))
    };
    first.write_all(&hello).map_err(lost)?;
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    first.set_read_timeout(Some(left)).map_err(lost)?;
    let before = line(&mut first).map_err(lost)?;
    if meeting.rank > 1 {
        let mut place: SocketAddr = before.parse().map_err(|_| {
            Error::Ranks(format!("rank 0 tells the address {before:?} of rank {}", meeting.rank - 1))
        })?;
        // One that came to rank 0 on the same machine is where rank 0 is.
        if place.ip().is_loopback() {
            place.set_ip(first.peer_addr().map_err(lost)?.ip());
        }
        let name = format!("rank {} at {place}", meeting.rank - 1);
        let mut stream = connected(&place, &name, until)?;
        stream.write_all(&hello).map_err(|e| Error::Ranks(format!("{name} is gone already: {e}")))?;
        streams[meeting.rank - 1] = Some(stream);
    }
    streams[0] = Some(first);
    listener.set_nonblocking(true).map_err(failed)?;
    while meeting.rank + 1 < meeting.size && streams[meeting.rank + 1].is_none() {
        let Some((mut stream, _)) = accepted(&listener, until)? else {
            return Err(Error::Ranks(format!(
                "rank {} did not come to rank {} at port {port} in time; ranks must reach each other",
                meeting.rank + 1,
                meeting.rank
            )));
        };
        let hello = Hello::read(&mut stream).filter(|hello| hello.rank == meeting.rank + 1);
        streams[meeting.rank + 1] = hello.map(|_| stream);
    }
    Ok(streams)
}

/// Waits for a connection; `None` if there is none in time.
fn accepted(listener: &TcpListener, until: Instant) -> Result<Option<(TcpStream, SocketAddr)>> {
    while Instant::now() < until {
        match listener.accept() {
            Ok(found) => return Ok(Some(found)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(Error::Ranks(format!("a rank cannot be accepted: {e}"))),
        }
    }
    Ok(None)
}

/// Connects to a rank, which may start later.
fn connected(to: &impl ToSocketAddrs, name: &str, until: Instant) -> Result<TcpStream> {
    let mut why = String::from("no address");
    loop {
        match to.to_socket_addrs() {
            Ok(addresses) => {
                for address in addresses {
                    match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                        Ok(stream) => return Ok(stream),
                        Err(e) => why = e.to_string(),
                    }
                }
            }
            Err(e) => why = e.to_string(),
        }
        if Instant::now() >= until {
            return Err(Error::Ranks(format!("{name} cannot be reached: {why}")));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Reads a short line.
fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = Vec::new();
    while text.len() < 64 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        text.push(byte[0]);
    }
    Err(std::io::Error::other("it sends no address"))
}
