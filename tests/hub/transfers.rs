//! Transfers that are cut, resumed or corrupted, and names that would leave the cache.

use super::*;

#[test]
fn a_cut_transfer_goes_on_where_it_was_cut() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    fake.quirk("model.safetensors", Quirk::Cut(10), 2);
    let log = Log::default();
    let snapshot = hub(&fake, &cache).with_progress(log.clone()).model(&main()).unwrap();
    assert_eq!(read(&snapshot, "model.safetensors"), WEIGHTS);
    let (_, to_storage) = fake.requests();
    let ranges: Vec<_> = gets(&to_storage).iter().map(|r| r.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=10-".into()), Some("bytes=20-".into())]);
    let lines: Vec<String> = log.take().into_iter().filter(|line| !line.contains(".json")).collect();
    assert!(lines.contains(&"begin model.safetensors Some(36) 20".into()), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("note model.safetensors of owner/name was cut at byte 10"))
    );
    assert!(!incomplete(&cache).exists());
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    fake.quirk("model.safetensors", Quirk::Cut(10), 1);
    let once = Hub::new(Settings { attempts: 1, ..settings(&fake, cache.path()) }).unwrap();
    failure(once.model(&main()), &["was cut at byte 10", "run it again"]);
    assert_eq!(fs::read(incomplete(&cache)).unwrap(), &WEIGHTS[..10]);
    fake.requests();
    assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "model.safetensors"), WEIGHTS);
    let (_, to_storage) = fake.requests();
    assert_eq!(gets(&to_storage)[0].headers["range"], "bytes=10-");
}

#[test]
fn a_server_that_does_not_resume_is_read_from_the_start() {
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    fs::create_dir_all(incomplete(&cache).parent().unwrap()).unwrap();
    fs::write(incomplete(&cache), &WEIGHTS[..10]).unwrap();
    fake.quirk("model.safetensors", Quirk::IgnoreRange, 9);
    assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "model.safetensors"), WEIGHTS);
}

#[test]
fn leftovers_that_are_complete_or_too_long_are_handled() {
    for (leftover, requests) in [(WEIGHTS.to_vec(), 0), ([WEIGHTS, b"x"].concat(), 1)] {
        let (fake, cache) = (FakeHub::new(&MODEL), cache());
        fs::create_dir_all(incomplete(&cache).parent().unwrap()).unwrap();
        fs::write(incomplete(&cache), leftover).unwrap();
        assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "model.safetensors"), WEIGHTS);
        assert_eq!(gets(&fake.requests().1).len(), requests);
    }
}

#[test]
fn endless_cuts_and_errors_end() {
    for quirk in [Quirk::Cut(0), Quirk::Status(503)] {
        let (fake, cache) = (FakeHub::new(&MODEL), cache());
        fake.quirk("model.safetensors", quirk, usize::MAX);
        failure(hub(&fake, &cache).model(&main()), &["attempt 3 of 3"]);
        assert_eq!(gets(&fake.requests().1).len(), 3);
        fake.quirk("model.safetensors", quirk, 2);
        assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "model.safetensors"), WEIGHTS);
    }
}

#[test]
fn wrong_lengths_and_wrong_bytes_are_not_kept() {
    for (quirk, part) in [
        (Quirk::Longer, "should be 36 bytes, but the server sends 40"),
        (Quirk::Shorter, "should be 36 bytes, but the server sends 32"),
        (Quirk::Corrupt, "has the SHA-256"),
    ] {
        let (fake, cache) = (FakeHub::new(&MODEL), cache());
        fake.quirk("model.safetensors", quirk, 1);
        failure(hub(&fake, &cache).model(&main()), &["model.safetensors of owner/name", part]);
        assert!(
            !tree(cache.path())
                .iter()
                .any(|name| name.contains(&sha256(WEIGHTS)) && !name.ends_with(".lock"))
        );
        assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "model.safetensors"), WEIGHTS);
    }
}

#[test]
fn wrong_bytes_of_a_small_file_are_not_kept() {
    for (is_plain, part) in [(false, "has the Git hash"), (true, "instead of")] {
        let (fake, cache) = (FakeHub::new(&MODEL), cache());
        if is_plain {
            fake.state.lock().unwrap().small_etag = Some(sha1);
        }
        fake.quirk("config.json", Quirk::Corrupt, 1);
        failure(hub(&fake, &cache).model(&main()), &["config.json of owner/name", part, "try again"]);
        assert!(!tree(cache.path()).iter().any(|name| name.contains("snapshots")));
        assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "config.json"), b"{}");
    }
    // Another mirror's ETag is no hash.
    let (fake, cache) = (FakeHub::new(&MODEL), cache());
    fake.state.lock().unwrap().small_etag = Some(|bytes: &[u8]| format!("{:x}-5f", bytes.len()));
    assert_eq!(read(&hub(&fake, &cache).model(&main()).unwrap(), "config.json"), b"{}");
}

#[test]
fn an_etag_cannot_name_a_file_elsewhere() {
    for etag in ["../../../escaped", "/tmp/escaped", "", "..", "a b"] {
        let (fake, cache) = (FakeHub::new(&MODEL), cache());
        fake.state.lock().unwrap().etag = Some(etag.into());
        failure(hub(&fake, &cache).model(&main()), &["ETag", "cannot name a file"]);
        assert!(!tree(cache.path()).iter().any(|name| name.contains("escaped")));
    }
}

#[test]
fn names_from_the_hub_cannot_leave_the_cache() {
    let outer = cache();
    let inner = outer.path().join("a/b/c/d/e/f");
    fs::create_dir_all(&inner).unwrap();
    let index = br#"{"weight_map": {"a": "../../../../escaped.safetensors"}}"#;
    let fake = FakeHub::new(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("pairs.jsonl", b"{}\n"),
    ]);
    fake.state.lock().unwrap().siblings =
        vec!["../../../../escaped.safetensors".into(), "../../../../escaped.jsonl".into()];
    let hub = Hub::new(settings(&fake, &inner)).unwrap();
    failure(hub.model(&main()), &["../../../../escaped.safetensors", "beside the index"]);
    failure(hub.dataset(&DatasetRef::parse("owner/name").unwrap()), &["escaped.jsonl", "not fetched"]);
    assert!(
        tree(outer.path()).iter().all(|name| name.starts_with("a/b/c/d/e/f/") && !name.contains("escaped"))
    );
}
