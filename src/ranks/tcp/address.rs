//! Addresses of ranks: names, IPv4 and IPv6.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Reads the address of rank 0: a name, an IPv4 or an IPv6 address, and a port if there is one: `node-a`, `node-a:7000`,
/// `10.0.0.1`, `fd00::1`, `[fd00::1]`, `[fd00::1]:7000`. `variable` is where it stands.
///
/// # Errors
/// If it is none.
pub(in crate::ranks) fn parsed(text: &str, variable: &str) -> Result<(String, Option<u16>)> {
    let invalid = |why: &str| {
        Error::Config(format!(
            "the environment variable {variable} is {text:?}: {why}; write a name or an address, such as node-a, 10.0.0.1, fd00::1, \
             or, with a port, node-a:29500 or [fd00::1]:29500"
        ))
    };
    let number = |port: &str| match port.parse() {
        Ok(0) | Err(_) => Err(invalid(&format!("{port:?} is not a port"))),
        Ok(port) => Ok(Some(port)),
    };
    let whole = text.trim();
    let (host, port) = if let Some(rest) = whole.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| invalid("a bracket is not closed"))?;
        // An interface may follow a link-local address: fe80::1%eth0.
        if host.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().is_err() {
            return Err(invalid("only an IPv6 address stands in brackets"));
        }
        match (rest, rest.strip_prefix(':')) {
            ("", _) => (host, None),
            (_, Some(port)) => (host, number(port)?),
            (_, None) => return Err(invalid("only a port may follow the bracket")),
        }
    } else {
        match whole.split_once(':') {
            // With several colons it is an IPv6 address.
            Some((host, port)) if !port.contains(':') => (host, number(port)?),
            _ => (whole, None),
        }
    };
    if host.is_empty() {
        return Err(invalid("it names no machine"));
    }
    Ok((host.into(), port))
}

/// Listens for IPv6 and IPv4 at all addresses of this machine.
pub(super) struct Listeners {
    all: Vec<TcpListener>,
    /// The port.
    pub port: u16,
}

impl Listeners {
    /// Listens at this port; 0 lets the system choose one.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(port: u16) -> std::io::Result<Self> {
        let six = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
            Ok(six) => Some(six),
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
                return Err(e);
            }
            // The machine has no IPv6.
            Err(_) => None,
        };
        let port = six.as_ref().map_or(Ok(port), |six| six.local_addr().map(|at| at.port()))?;
        // Where a listener of IPv6 takes IPv4 as well, as on Linux, a second one is refused and not needed.
        let four = match (TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)), &six) {
            (Err(e), None) => return Err(e),
            (found, _) => found.ok(),
        };
        let all: Vec<TcpListener> = six.into_iter().chain(four).collect();
        all.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        let port = all.first().map_or(Ok(port), |listener| listener.local_addr().map(|at| at.port()))?;
        Ok(Self { all, port })
    }

    /// Returns the next connection and where it comes from, without waiting.
    ///
    /// # Errors
    /// If one cannot be accepted.
    pub fn accept(&self) -> Result<Option<(TcpStream, IpAddr)>> {
        for listener in &self.all {
            match listener.accept() {
                // IPv4 at a listener of IPv6 is written as ::ffff:10.0.0.1.
                Ok((stream, from)) => return Ok(Some((stream, from.ip().to_canonical()))),
                Err(e) if is_later(&e) => {}
                Err(e) => return Err(Error::Ranks(format!("a rank cannot be accepted: {e}"))),
            }
        }
        Ok(None)
    }
}

/// Whether it may succeed later: it is no failure.
pub(super) fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

/// Connects to a rank, which may start later. A name may have several addresses: each is tried. `check` is called in between.
///
/// # Errors
/// If it cannot be reached in time, or those of `check`.
pub(super) fn connected(
    addresses: impl Fn() -> std::io::Result<Vec<SocketAddr>>,
    name: &str,
    until: Instant,
    check: impl Fn() -> Result<()>,
) -> Result<TcpStream> {
    let mut is_told = false;
    loop {
        let mut why = Vec::new();
        match addresses() {
            Ok(all) => {
                for address in all {
                    match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                        Ok(stream) => return Ok(stream),
                        Err(e) => why.push(format!("{address}: {e}")),
                    }
                }
            }
            Err(e) => {
                // A machine that starts as well may have a name later.
                if !std::mem::replace(&mut is_told, true) {
                    let left = until.saturating_duration_since(Instant::now()).as_secs();
                    log::warn!("{name} is not found ({e}); trying again for {left} s. Is MASTER_ADDR right?");
                }
                why.push(e.to_string());
            }
        }
        check()?;
        if Instant::now() >= until {
            let why = if why.is_empty() { "it has no address".into() } else { why.join(", ") };
            return Err(Error::Ranks(format!("{name} cannot be reached ({why})")));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Where this rank reaches another: `told` is where rank 0 sees it, and `first` where rank 0 is.
pub(super) fn seen_from_here(mut told: SocketAddr, first: &TcpStream) -> std::io::Result<SocketAddr> {
    // One that came to rank 0 on the same machine is where rank 0 is.
    if told.ip().is_loopback() {
        told.set_ip(first.peer_addr()?.ip().to_canonical());
    }
    // The number of an interface means something on one machine only.
    if let (SocketAddr::V6(told), SocketAddr::V6(own)) = (&mut told, first.local_addr()?)
        && told.ip().is_unicast_link_local()
    {
        told.set_scope_id(own.scope_id());
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_from_ports() {
        for (text, host, port) in [
            ("node-a", "node-a", None),
            (" node-a:7000 ", "node-a", Some(7000)),
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:1", "10.0.0.1", Some(1)),
            ("::1", "::1", None),
            ("fd00::a:1", "fd00::a:1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("[::1]", "::1", None),
            ("[fe80::1%eth0]:65535", "fe80::1%eth0", Some(65535)),
        ] {
            assert_eq!(parsed(text, "MASTER_ADDR").unwrap(), (host.to_string(), port), "{text}");
        }
        for (text, why) in [
            ("[::1", "bracket is not closed"),
            ("[node-a]:7000", "only an IPv6 address"),
            ("[::1]7000", "only a port"),
            ("[::1]:", "\"\" is not a port"),
            ("node-a:0", "\"0\" is not a port"),
            ("node-a:70000", "\"70000\" is not a port"),
            ("node-a:x", "\"x\" is not a port"),
            (":7000", "no machine"),
        ] {
            let error = parsed(text, "MASTER_ADDR").unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            assert!(error.contains(why) && error.contains(text) && error.contains("MASTER_ADDR"), "{error}");
        }
    }

    #[test]
    fn one_port_takes_both_families_and_is_taken_by_one_program() {
        let listeners = Listeners::bind(0).unwrap();
        let mut targets: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
            Ok(_) => targets.push(Ipv6Addr::LOCALHOST.into()),
            Err(e) => eprintln!("this machine has no ::1 ({e}): IPv6 is not tested"),
        }
        for target in targets {
            let _stream = TcpStream::connect((target, listeners.port)).unwrap();
            let accepted = (0..200).find_map(|_| {
                sleep(Duration::from_millis(5));
                listeners.accept().unwrap()
            });
            assert_eq!(accepted.unwrap().1, target);
        }
        assert!(Listeners::bind(listeners.port).is_err());
    }

    #[test]
    fn a_neighbour_of_rank_0_is_sought_where_rank_0_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let told = |text: &str| seen_from_here(text.parse().unwrap(), &first).unwrap().to_string();
        assert_eq!(told("127.0.0.5:7000"), "127.0.0.1:7000");
        assert_eq!(told("[::1]:7000"), "127.0.0.1:7000");
        assert_eq!(told("10.1.2.3:7000"), "10.1.2.3:7000");
        assert_eq!(told("[fd00::3]:7000"), "[fd00::3]:7000");
    }
}
