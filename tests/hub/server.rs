//! A small Hub and its storage on 127.0.0.1: two servers and therefore two origins, as in reality.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::json;

/// A request as received; header names are in lower case.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// The response: `body` cut after `sent` bytes, whatever `content-length` says.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub sent: Option<usize>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server, which ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // Clients that disconnect in the middle are part of the tests.
                drop(stream.and_then(|stream| serve(&stream, &answer)));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(stream: &TcpStream, answer: &impl Fn(&Request) -> Reply) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let request = Request { method, path, headers, body };
    let reply = answer(&request);
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.sent.unwrap_or(usize::MAX).min(reply.body.len())])?;
    }
    stream.flush()
}

/// The fault of a file, for a number of `GET`s of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// The connection ends after that many bytes.
    Cut(usize),
    /// `Range` is ignored.
    IgnoreRange,
    /// The file is some bytes longer than announced.
    Longer,
    /// The file is some bytes shorter than announced.
    Shorter,
    /// One byte is different.
    Corrupt,
    /// An error of the server.
    Status(u16),
}

pub const OLD: &str = "0000000000000000000000000000000000000a01";
pub const NEW: &str = "0000000000000000000000000000000000000b02";

/// The contents of the Hub: one repository, `owner/name`, as a model and as a data set.
#[derive(Default)]
pub struct State {
    /// The commit of each branch.
    pub branches: BTreeMap<String, String>,
    /// The files of each commit.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Names in the listing in addition to the files.
    pub siblings: Vec<String>,
    /// The quirk of a file, and how often it occurs.
    pub quirks: BTreeMap<String, (Quirk, usize)>,
    /// Sent instead of a file's ETag.
    pub etag: Option<String>,
    /// The ETag of a small file instead of Git's hash.
    pub small_etag: Option<fn(&[u8]) -> String>,
    /// The token that every request of the repository must have.
    pub token: Option<String>,
    /// The response to every request.
    pub refusal: Option<(u16, &'static str)>,
    pub to_hub: Vec<Request>,
    pub to_storage: Vec<Request>,
}

/// The two servers.
pub struct FakeHub {
    pub hub: Server,
    _storage: Server,
    pub state: Arc<Mutex<State>>,
}

impl FakeHub {
    /// Creates a Hub whose `main` is at [`OLD`] with these files.
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let storage = Server::start(move |request| shared.lock().unwrap().storage(request));
        let (shared, base) = (state.clone(), storage.url());
        let hub = Server::start(move |request| shared.lock().unwrap().hub(request, &base));
        let fake = Self { hub, _storage: storage, state };
        fake.commit(OLD, files);
        fake
    }

    /// Moves `main` to `commit`, which has these files.
    pub fn commit(&self, commit: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let mut state = self.state.lock().unwrap();
        state.commits.insert(commit.into(), files);
        state.branches.insert("main".into(), commit.into());
    }

    pub fn quirk(&self, file: &str, quirk: Quirk, times: usize) {
        self.state.lock().unwrap().quirks.insert(file.into(), (quirk, times));
    }

    /// Returns and forgets the requests so far, of the Hub and of the storage.
    pub fn requests(&self) -> (Vec<Request>, Vec<Request>) {
        let mut state = self.state.lock().unwrap();
        (std::mem::take(&mut state.to_hub), std::mem::take(&mut state.to_storage))
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha1(bytes: &[u8]) -> String {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file in Git.
pub fn git_hash(bytes: &[u8]) -> String {
    sha1(&[format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat())
}

impl State {
    fn hub(&mut self, request: &Request, storage: &str) -> Reply {
        self.to_hub.push(request.clone());
        if let Some((status, code)) = self.refusal {
            return Reply::status(status).with("X-Error-Code", code);
        }
        let sent = request.headers.get("authorization");
        if self.token.as_ref().is_some_and(|token| sent != Some(&format!("Bearer {token}"))) {
            return Reply::status(401).with("X-Error-Message", "Invalid username or password.");
        }
        let path = request.path.replace("/api/datasets/", "/api/models/").replace("/datasets/", "/");
        if let Some(revision) = path.strip_prefix("/api/models/owner/name/revision/") {
            return self.info(&revision.replace("%2F", "/"));
        }
        if let Some(rest) = path.strip_prefix("/cached/") {
            return self.small(rest, request);
        }
        let Some((commit, name)) = path.strip_prefix("/owner/name/resolve/").and_then(|r| r.split_once('/'))
        else {
            return Reply::status(404).with("X-Error-Code", "RepoNotFound");
        };
        let Some(bytes) = self.commits.get(commit).and_then(|files| files.get(name)) else {
            return Reply::status(404).with("X-Error-Code", "EntryNotFound");
        };
        let reply = Reply::status(302).with("X-Repo-Commit", commit);
        if name.ends_with(".safetensors") {
            let etag = self.etag.clone().unwrap_or_else(|| sha256(bytes));
            reply
                .with("X-Linked-Etag", format!("\"{etag}\""))
                .with("X-Linked-Size", bytes.len().to_string())
                .with("Location", format!("{storage}/{commit}/{name}?Signature=secret"))
        } else {
            reply.with("Location", format!("/cached/{commit}/{name}"))
        }
    }

    fn info(&self, revision: &str) -> Reply {
        let commit = self.branches.get(revision).map_or(revision, String::as_str);
        let Some(files) = self.commits.get(commit) else {
            return Reply::status(404).with("X-Error-Code", "RevisionNotFound");
        };
        let names = files.keys().chain(&self.siblings);
        let siblings: Vec<_> = names.map(|name| json!({ "rfilename": name })).collect();
        let body = json!({ "id": "owner/name", "sha": commit, "siblings": siblings }).to_string();
        Reply { status: 200, body: body.into_bytes(), ..Reply::default() }
    }

    fn small(&mut self, rest: &str, request: &Request) -> Reply {
        let (commit, name) = rest.split_once('/').unwrap();
        let bytes = self.commits.get(commit).and_then(|files| files.get(name)).cloned().unwrap_or_default();
        let etag = self.small_etag.map_or_else(|| git_hash(&bytes), |etag| etag(&bytes));
        self.bytes(rest, request).with("ETag", format!("W/\"{etag}\""))
    }

    fn storage(&mut self, request: &Request) -> Reply {
        self.to_storage.push(request.clone());
        let path = request.path.split('?').next().unwrap().trim_start_matches('/').to_owned();
        self.bytes(&path, request).with("ETag", "\"of-the-storage\"")
    }

    fn bytes(&mut self, path: &str, request: &Request) -> Reply {
        let (commit, name) = path.split_once('/').unwrap();
        let Some(mut body) = self.commits.get(commit).and_then(|files| files.get(name)).cloned() else {
            return Reply::status(404);
        };
        let quirk = self.quirks.get_mut(name).filter(|(_, times)| *times > 0 && request.method == "GET");
        let quirk = quirk.map(|(quirk, times)| {
            *times -= 1;
            *quirk
        });
        match quirk {
            Some(Quirk::Status(status)) => return Reply::status(status).with("Retry-After", "0"),
            Some(Quirk::Longer) => body.extend_from_slice(b"more"),
            Some(Quirk::Shorter) => body.truncate(body.len() - 4),
            Some(Quirk::Corrupt) => body[0] ^= 1,
            _ => {}
        }
        let range = request.headers.get("range").filter(|_| quirk != Some(Quirk::IgnoreRange));
        let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let total = body.len();
        let sent = match quirk {
            Some(Quirk::Cut(at)) => Some(at),
            _ => None,
        };
        match start {
            Some(start) if start >= total => Reply::status(416),
            Some(start) => Reply { status: 206, body: body.split_off(start), sent, ..Reply::default() }
                .with("Content-Range", format!("bytes {start}-{}/{total}", total - 1)),
            None => Reply { status: 200, body, sent, ..Reply::default() },
        }
    }
}
