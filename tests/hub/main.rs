//! Tests the Hub's client with a Hub on this machine; nothing leaves 127.0.0.1.
#![allow(missing_docs, clippy::unwrap_used)]

mod server;
mod transfers;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpo_lora::hub::{Content, DatasetRef, Hub, HubId, Progress, Settings, Snapshot, Token, Upload};
use server::{FakeHub, NEW, OLD, Quirk, Reply, Request, Server, sha1, sha256};
use tempfile::TempDir;

const WEIGHTS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const MODEL: [(&str, &[u8]); 6] = [
    ("README.md", b"# text"),
    ("config.json", b"{}"),
    ("model.safetensors", WEIGHTS),
    ("onnx/model.onnx", b"large"),
    ("pytorch_model.bin", b"pickle"),
    ("tokenizer.json", b"{\"a\": 1}"),
];

fn settings(fake: &FakeHub, cache: &Path) -> Settings {
    Settings {
        endpoint: fake.hub.url(),
        attempts: 3,
        backoff: Duration::from_millis(1),
        timeout: Duration::from_secs(5),
        ..Settings::new(cache)
    }
}

fn hub(fake: &FakeHub, cache: &TempDir) -> Hub {
    Hub::new(settings(fake, cache.path())).unwrap()
}

fn offline(fake: &FakeHub, cache: &TempDir) -> Hub {
    Hub::new(Settings { offline: true, ..settings(fake, cache.path()) }).unwrap()
}

fn id(text: &str) -> HubId {
    HubId::parse(text).unwrap()
}

fn main() -> HubId {
    id("owner/name")
}

fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn failure<T: std::fmt::Debug>(result: dpo_lora::error::Result<T>, parts: &[&str]) -> String {
    let error = result.unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    error
}

/// Returns every file and link below `dir`, relative to it.
fn tree(dir: &Path) -> Vec<String> {
    fn walk(base: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                walk(base, &path, found);
            } else {
                found.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

fn read(snapshot: &Snapshot, name: &str) -> Vec<u8> {
    fs::read(snapshot.directory.join(name)).unwrap()
}

fn incomplete(cache: &TempDir) -> PathBuf {
    cache.path().join(format!("models--owner--name/blobs/{}.incomplete", sha256(WEIGHTS)))
}

fn gets(requests: &[Request]) -> Vec<&Request> {
    requests.iter().filter(|request| request.method == "GET").collect()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Progress for Log {
    fn begin(&self, file: &str, size: Option<u64>, have: u64) {
        self.add(format!("begin {file} {size:?} {have}"));
    }
    fn advance(&self, bytes: u64) {
        self.add(format!("advance {bytes}"));
    }
    fn end(&self) {
        self.add("end".into());
    }
    fn note(&self, message: &str) {
        self.add(format!("note {message}"));
    }
}

#[test]
fn a_model_is_downloaded_once_and_laid_out_as_python_does() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    let snapshot = hub(&fake, &cache).model(&main()).unwrap();
    assert_eq!(snapshot.commit, OLD);
    assert_eq!(snapshot.directory, cache.path().join(format!("models--owner--name/snapshots/{OLD}")));
    assert_eq!(read(&snapshot, "model.safetensors"), WEIGHTS);
    assert_eq!(tree(&snapshot.directory), ["config.json", "model.safetensors", "tokenizer.json"]);
    let link = fs::read_link(snapshot.directory.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(WEIGHTS)));
    assert_eq!(fs::read_to_string(cache.path().join("models--owner--name/refs/main")).unwrap(), OLD);

    // The second time only the branch is looked up, and the third time (with a commit) nothing is.
    fake.requests();
    assert_eq!(hub(&fake, &cache).model(&main()).unwrap(), snapshot);
    let (to_hub, to_storage) = fake.requests();
    assert_eq!((to_hub.len(), to_storage.len()), (1, 0));
    assert_eq!(hub(&fake, &cache).model(&id(&format!("owner/name@{OLD}"))).unwrap(), snapshot);
    assert!(fake.requests().0.is_empty());
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    fake.state.lock().unwrap().token = Some("hf_secret".into());
    let error = failure(
        hub(&fake, &cache).model(&main()),
        &["owner/name does not exist or may not be read", "HF_TOKEN"],
    );
    assert!(error.contains("no token is set"), "{error}");
    let with = |token: &str| {
        let token = Token::parse(token, "test").unwrap();
        Hub::new(Settings { token, ..settings(&fake, cache.path()) }).unwrap()
    };
    let error = failure(with("hf_wrong").model(&main()), &["the token that is set may not read it"]);
    assert!(!error.contains("hf_wrong"), "{error}");
    fake.requests();
    with("hf_secret").model(&main()).unwrap();
    let (to_hub, to_storage) = fake.requests();
    assert!(to_hub.iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
    assert_eq!(gets(&to_storage).len(), 1);
    assert!(to_storage.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn refusals_say_what_to_do() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    failure(hub(&fake, &cache).model(&id("owner/other")), &["owner/other", "mind the spelling"]);
    failure(hub(&fake, &cache).model(&id("owner/name@v9")), &["no revision `v9`", "/owner/name"]);
    failure(
        hub(&fake, &cache).adapter(&main()),
        &["no adapter_config.json and no adapter_model.safetensors"],
    );
    for (status, code, part) in [
        (403, "GatedRepo", "accept its terms at http://127.0.0.1"),
        (401, "GatedRepo", "HF_TOKEN"),
        (403, "", "may not be read"),
        (410, "", "answers 410"),
    ] {
        fake.state.lock().unwrap().refusal = Some((status, code));
        failure(hub(&fake, &cache).model(&main()), &["owner/name", part]);
    }
    assert!(!cache.path().join("models--owner--name/snapshots").exists());
}

/// A Hub at `server` that may be written to.
fn writable(server: &Server, cache: &TempDir) -> Hub {
    let settings = Settings { endpoint: server.url(), attempts: 1, ..Settings::new(cache.path()) };
    Hub::new(Settings { token: Token::parse("hf_secret", "test").unwrap(), ..settings }).unwrap()
}

fn upload(hub: &Hub) -> dpo_lora::error::Result<String> {
    let card = Upload { name: "README.md".into(), content: Content::Bytes(b"# text".to_vec()) };
    hub.upload(&main(), &[card], "message", false)
}

#[test]
fn a_page_instead_of_an_answer_names_the_address() {
    let cache = cache();
    let page = || Reply { status: 200, body: b"<!DOCTYPE html><p>Sign in".to_vec(), ..Reply::default() };
    let server = Server::start(move |_| page().with("Content-Type", "text/html"));
    let hub = writable(&server, &cache);
    let url = format!("{}/api/models/owner/name/revision/main does not answer as a Hub does", server.url());
    failure(hub.model(&main()), &["owner/name", &url, "HF_ENDPOINT"]);
    failure(upload(&hub), &[&format!("{}/api/repos/create does not answer", server.url()), "HF_ENDPOINT"]);
}

#[test]
fn a_push_that_another_one_came_before_says_so() {
    let cache = cache();
    let server = Server::start(|request| {
        let (status, body) = match request.path.as_str() {
            "/api/repos/create" => (409, r#"{"error": "You already created this model repo"}"#),
            "/api/models/owner/name/preupload/main" => {
                (200, r#"{"files": [{"path": "README.md", "uploadMode": "regular"}]}"#)
            }
            _ => (412, r#"{"error": "A commit has happened since. Please refresh and try again."}"#),
        };
        assert!(request.method == "POST" && !request.body.is_empty());
        Reply { status, body: body.into(), ..Reply::default() }
    });
    let words =
        "answers 412: A commit has happened since. Please refresh and try again.; somebody else has pushed";
    failure(upload(&writable(&server, &cache)), &[words, "run it again"]);
}

#[test]
fn an_index_brings_its_shards_and_may_not_name_others() {
    let index = br#"{"weight_map": {"a": "s-2.safetensors", "b": "s-1.safetensors"}}"#;
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("s-1.safetensors", b"1"),
        ("s-3.safetensors", b"3"),
    ];
    let (fake, cache) = (FakeHub::new(&files), cache());
    failure(hub(&fake, &cache).model(&main()), &["s-2.safetensors", "does not have it"]);
    files.push(("s-2.safetensors", b"2"));
    fake.commit(NEW, &files);
    let snapshot = hub(&fake, &cache).model(&main()).unwrap();
    assert_eq!(read(&snapshot, "s-2.safetensors"), b"2");
    assert!(!snapshot.directory.join("s-3.safetensors").exists());
    fs::remove_file(snapshot.directory.join("s-1.safetensors")).unwrap();
    failure(offline(&fake, &cache).model(&main()), &["lacks s-1.safetensors", "HF_HUB_OFFLINE"]);
}

#[test]
fn offline_the_cache_is_enough_or_what_is_missing_is_named() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    failure(offline(&fake, &cache).model(&main()), &["owner/name is not in the cache", "HF_HUB_OFFLINE"]);
    let snapshot = hub(&fake, &cache).model(&main()).unwrap();
    fake.requests();
    assert_eq!(offline(&fake, &cache).model(&main()).unwrap(), snapshot);
    fs::remove_file(snapshot.directory.join("tokenizer.json")).unwrap();
    failure(offline(&fake, &cache).model(&main()), &["lacks tokenizer.json of owner/name"]);
    // A cache written by Python, without our listing: the files that every model needs are still found missing.
    fs::remove_dir_all(cache.path().join("models--owner--name/.dpo-lora")).unwrap();
    fs::remove_file(snapshot.directory.join("model.safetensors")).unwrap();
    failure(offline(&fake, &cache).model(&main()), &["no model.safetensors", "HF_HUB_OFFLINE"]);
    assert!(fake.requests().0.is_empty());
}

#[test]
fn a_branch_moves_and_the_old_commit_stays() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    let old = hub(&fake, &cache).model(&main()).unwrap();
    let files = [("config.json", b"{\"new\": 1}".as_slice()), ("model.safetensors", WEIGHTS)];
    fake.commit(NEW, &files);
    fake.requests();
    let new = hub(&fake, &cache).model(&main()).unwrap();
    assert_eq!((new.commit.as_str(), read(&new, "config.json")), (NEW, b"{\"new\": 1}".to_vec()));
    assert!(
        fake.requests().1.iter().all(|request| request.method == "HEAD"),
        "the weights are the same blob"
    );
    fake.state.lock().unwrap().commits.clear();
    assert_eq!(hub(&fake, &cache).model(&id(&format!("owner/name@{OLD}"))).unwrap(), old);
    assert_eq!(read(&old, "config.json"), b"{}");
    assert_eq!(offline(&fake, &cache).model(&main()).unwrap(), new);
}

#[test]
fn an_interrupted_update_leaves_the_old_commit_usable_offline() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    let old = hub(&fake, &cache).model(&main()).unwrap();
    fake.commit(NEW, &[("config.json", b"{}"), ("model.safetensors", b"other")]);
    fake.quirk("model.safetensors", Quirk::Cut(0), 9);
    hub(&fake, &cache).model(&main()).unwrap_err();
    assert_eq!(offline(&fake, &cache).model(&main()).unwrap(), old);
}

#[test]
fn a_hub_out_of_reach_falls_back_on_the_cache() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    let there = hub(&fake, &cache).model(&main()).unwrap();
    fake.state.lock().unwrap().refusal = Some((503, ""));
    let log = Log::default();
    assert_eq!(hub(&fake, &cache).with_progress(log.clone()).model(&main()).unwrap(), there);
    assert!(log.take()[0].contains("from the cache"));
    let mut settings = settings(&fake, cache.path());
    drop(fake);
    assert_eq!(Hub::new(settings.clone()).unwrap().model(&main()).unwrap(), there);
    settings.cache = cache.path().join("empty");
    failure(Hub::new(settings).unwrap().model(&main()), &["attempt 3 of 3", "HF_HUB_OFFLINE=1"]);
}

#[test]
fn two_at_once_download_once() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    std::thread::scope(|scope| {
        let run = || hub(&fake, &cache).model(&main()).unwrap();
        let threads = [scope.spawn(run), scope.spawn(run)];
        let [a, b] = threads.map(|thread| thread.join().unwrap());
        assert_eq!(a, b);
    });
    assert_eq!(gets(&fake.requests().1).len(), 1);
}

#[test]
fn data_sets_bring_their_split() {
    let card = b"---\nconfigs:\n- data_files:\n  - split: train\n    path: a b/*.jsonl\n  - split: test\n    path: t.parquet\n---\n";
    let fake = FakeHub::new(&[("README.md", card), ("other.jsonl", b"{}"), ("t.parquet", b"PAR1")]);
    fake.state
        .lock()
        .unwrap()
        .commits
        .get_mut(OLD)
        .unwrap()
        .insert("a%20b/2.jsonl".into(), b"{\"n\": 2}\n".to_vec());
    fake.state.lock().unwrap().siblings = vec!["a b/2.jsonl".into()];
    let cache = cache();
    let wanted = |text: &str| hub(&fake, &cache).dataset(&DatasetRef::parse(text).unwrap());
    let train = wanted("owner/name").unwrap();
    assert_eq!(train.files, [train.snapshot.directory.join("a b/2.jsonl")]);
    assert_eq!(fs::read(&train.files[0]).unwrap(), b"{\"n\": 2}\n");
    assert!(train.snapshot.directory.starts_with(cache.path().join("datasets--owner--name/snapshots")));
    let test = wanted("owner/name:test").unwrap();
    assert_eq!(test.files, [test.snapshot.directory.join("t.parquet")]);
    failure(wanted("owner/name:dev"), &["its splits are: train, test"]);
    let offline = offline(&fake, &cache).dataset(&DatasetRef::parse("owner/name").unwrap()).unwrap();
    assert_eq!(offline, train);
}
