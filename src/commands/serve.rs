//! The report of a run while it lasts, over HTTP/1.1: `GET /` is the page, `GET /figures.json` what it shows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::output::say;
use super::report::shown;
use crate::error::{Error, Result};
use crate::report::html::{Shown, figures, live_page};

/// Bytes of a request's head, at most.
const MOST_BYTES: u64 = 16 << 10;

/// Connections at a time.
const MOST_CONNECTIONS: usize = 32;

/// How long a connection may be silent.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Begins to serve the runs in these directories, those of them that have begun, until the process ends. Says where.
///
/// # Errors
/// [`Error::Config`] if the port is taken or may not be used.
pub(super) fn start(at: SocketAddr, runs: Vec<PathBuf>) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::Config(format!(
            "--serve: cannot listen at {at}: {e}; take another port, or :0 for any that is free"
        ))
    };
    let listener = TcpListener::bind(at).map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let shown =
        if at.ip().is_unspecified() { "this machine's addresses".to_string() } else { at.to_string() };
    say(&format!(
        "live report: http://{at}/ (as long as the run lasts{})",
        match at.ip().is_loopback() {
            true => String::new(),
            false => format!("; anyone who can reach {shown} can read the settings and samples"),
        }
    ));
    let served = Arc::new(Served { runs, is_local: at.ip().is_loopback(), open: AtomicUsize::new(0) });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let served = served.clone();
            if served.open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
                served.open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            std::thread::spawn(move || {
                // A client that goes away is nobody's failure.
                let _ = served.answer(&stream);
                served.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(())
}

struct Served {
    runs: Vec<PathBuf>,
    /// Whether only this machine is served.
    is_local: bool,
    open: AtomicUsize,
}

/// Status line, type and body.
type Answer = (&'static str, &'static str, String);

impl Served {
    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let Some((method, target, host)) = head(stream)? else { return Ok(()) };
        let (status, kind, body) = self.found(&method, &target, host.as_deref());
        let sent = if method == "HEAD" { "" } else { body.as_str() };
        let mut out = stream;
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{sent}",
            body.len()
        )?;
        out.flush()
    }

    fn found(&self, method: &str, target: &str, host: Option<&str>) -> Answer {
        let plain = "text/plain";
        if self.is_local && !host.is_some_and(is_this_machine) {
            // A page from elsewhere whose name was made to point here must not read the run.
            return ("403 Forbidden", plain, "this report is served to localhost only\n".into());
        }
        if !["GET", "HEAD"].contains(&method) {
            return ("405 Method Not Allowed", plain, "GET and HEAD only\n".into());
        }
        let page = match target.split('?').next() {
            Some("/") => true,
            Some("/figures.json") => false,
            _ => return ("404 Not Found", plain, "there is / and /figures.json\n".into()),
        };
        match self.shown() {
            Ok(runs) if page => ("200 OK", "text/html", live_page(&runs)),
            Ok(runs) => ("200 OK", "application/json", figures(&runs).to_string()),
            Err(error) => ("500 Internal Server Error", plain, format!("{error}\n")),
        }
    }

    fn shown(&self) -> Result<Vec<Shown>> {
        let has_begun = |run: &&PathBuf| run.join("metrics.jsonl").is_file();
        let begun: Vec<&Path> = self.runs.iter().filter(has_begun).map(PathBuf::as_path).collect();
        if begun.is_empty() {
            // The run is about to begin.
            let name = self.runs.first().map(|run| run.display().to_string()).unwrap_or_default();
            return Ok(vec![Shown { name, ..Shown::default() }]);
        }
        begun.into_iter().map(shown).collect()
    }
}

/// Method, target and host of a request; `None` if it is none.
fn head(stream: &TcpStream) -> std::io::Result<Option<(String, String, Option<String>)>> {
    let mut lines = BufReader::new(stream.take(MOST_BYTES)).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    if !version.starts_with("HTTP/1.") {
        return Ok(None);
    }
    let mut host = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            return Ok(Some((method.to_string(), target.to_string(), host)));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("host")
        {
            host = Some(value.trim().to_string());
        }
    }
    Ok(None)
}

/// Whether a `Host` header names this machine by an address of its own.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_names_are_its_own() {
        for host in
            ["localhost", "localhost:80", "LOCALHOST:8080", "127.0.0.1:1", "127.0.0.1", "[::1]:80", "[::1]"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1:80", ":80"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let served = Served { runs: vec!["none".into()], is_local: true, open: AtomicUsize::new(0) };
        let status = |method, target, host| served.found(method, target, host).0;
        assert_eq!(status("GET", "/?a", Some("localhost")), "200 OK");
        assert_eq!(status("GET", "/", Some("evil.example")), "403 Forbidden");
        assert_eq!(status("GET", "/", None), "403 Forbidden");
        assert_eq!(status("POST", "/", Some("localhost")), "405 Method Not Allowed");
        assert_eq!(status("GET", "/../config.yaml", Some("localhost")), "404 Not Found");
    }
}
