//! A judge on 127.0.0.1 that answers by a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request as received.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
    pub at: Instant,
}

impl Request {
    /// The text of the question.
    pub fn question(&self) -> &str {
        self.body["messages"][0]["content"].as_str().unwrap()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A response with this status, further headers and body.
    Send(u16, &'static str, String),
    /// The connection ends without a response.
    HangUp,
    /// The response ends in its middle.
    Cut,
    /// Nothing is sent for this long.
    Silent(Duration),
    /// A byte now and then.
    Trickle(Duration),
}

impl Reply {
    /// A completion with this text.
    pub fn says(text: &str) -> Self {
        let body = json!({
            "id": "x",
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10}
        });
        Self::Send(200, "", body.to_string())
    }

    pub fn verdict(verdict: &str) -> Self {
        Self::says(&json!({"verdict": verdict}).to_string())
    }
}

/// The judge, which ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// The most requests that were served at once.
    pub at_once: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers each request by `answer`, which also gets the number of requests before it.
    pub fn start(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (now, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (stopped, kept, most) = (stop.clone(), requests.clone(), at_once.clone());
        let answer = Arc::new(answer);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, kept, now, most) = (answer.clone(), kept.clone(), now.clone(), most.clone());
                thread::spawn(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Clients that disconnect in the middle are part of the tests.
                    drop(serve(&stream, &kept, &*answer));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, requests, at_once, stop, thread: Some(thread) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
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

fn serve(
    stream: &TcpStream,
    kept: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(usize, &Request) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => authorization = Some(value.trim().to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap();
    let request = Request { path, authorization, body, at: Instant::now() };
    let before = {
        let mut kept = kept.lock().unwrap();
        kept.push(request.clone());
        kept.len() - 1
    };
    send(stream, answer(before, &request))
}

fn send(mut stream: &TcpStream, reply: Reply) -> std::io::Result<()> {
    let head =
        |length: usize| format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    match reply {
        Reply::Send(status, headers, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} Whatever\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
            )
        }
        Reply::HangUp => Ok(()),
        Reply::Cut => write!(stream, "{}{{\"choices\":", head(500)),
        Reply::Silent(time) => {
            thread::sleep(time);
            Ok(())
        }
        Reply::Trickle(time) => {
            let until = Instant::now() + time;
            write!(stream, "{}", head(100_000))?;
            while Instant::now() < until {
                stream.write_all(b" ")?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    }
}
