//! What goes elsewhere: trackers, the live report, the Hub. Servers are on 127.0.0.1.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::common::http::Server;
use crate::common::program::{Place, finish};

/// A server that answers as MLflow 2 and 3 do.
fn mlflow(knows_the_experiment: bool) -> Server {
    Server::start(move |request, _| {
        let method = request.path.strip_prefix("/api/2.0/mlflow/").unwrap_or_default();
        match method.split('?').next().unwrap_or_default() {
            "experiments/get-by-name" if knows_the_experiment => {
                (200, json!({"experiment": {"experiment_id": "7"}}))
            }
            "experiments/get-by-name" => (404, json!({"error_code": "RESOURCE_DOES_NOT_EXIST"})),
            "experiments/create" => (200, json!({"experiment_id": "8"})),
            "runs/create" => (200, json!({"run": {"info": {"run_id": "abc"}}})),
            "runs/log-batch" | "runs/update" => (200, json!({})),
            _ => (404, json!({})),
        }
    })
}

/// Every file below a directory, as bytes.
fn all_files(directory: &std::path::Path) -> Vec<u8> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { all_files(&path) } else { std::fs::read(&path).unwrap() })
        .collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_run_is_sent_to_mlflow_and_goes_on_there() {
    let place = Place::new();
    let server = mlflow(false);
    place.llama_recipe(&[("train.report_to", json!("mlflow")), ("train.save_steps", json!(3))]);
    let run = |more: &[&str]| {
        let mut command = place.command(&[&["train", "-c", "run.yaml"], more].concat());
        command.env("MLFLOW_TRACKING_URI", server.url()).env("MLFLOW_TRACKING_TOKEN", "top-secret-key");
        finish(command.spawn().unwrap())
    };
    let ran = run(&[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.headers["authorization"] == "Bearer top-secret-key"));
    let of = |method: &str| -> Vec<Value> {
        requests
            .iter()
            .filter(|request| request.path.ends_with(method))
            .map(|request| request.json())
            .collect()
    };
    assert_eq!(of("runs/create")[0]["experiment_id"], "8");
    assert_eq!(of("runs/create")[0]["run_name"], "run");
    let batches = of("runs/log-batch");
    let params: Vec<&Value> =
        batches.iter().filter_map(|batch| batch["params"].as_array()).flatten().collect();
    assert!(params.contains(&&json!({"key": "lora.r", "value": "3"})), "{params:?}");
    let logged = place.metrics("run");
    for (i, batch) in batches.iter().filter(|batch| batch["metrics"].is_array()).enumerate() {
        for metric in batch["metrics"].as_array().unwrap() {
            assert_eq!(metric["step"], logged[i]["step"]);
            let name = metric["key"].as_str().unwrap();
            if let Some(value) = logged[i].get(name) {
                assert_eq!(&metric["value"], value, "{name}");
            }
        }
    }
    assert_eq!(batches.iter().filter(|batch| batch["metrics"].is_array()).count(), 6);
    assert_eq!(of("runs/update").last().unwrap()["status"], "FINISHED");
    // The key is nowhere.
    assert!(
        !holds(&all_files(&place.path("run")), "top-secret-key") && !ran.stderr.contains("top-secret-key")
    );
    // A resumed run is the same one there.
    let resumed = run(&["--resume", "--set", "train.max_steps=8"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(server.requests().iter().filter(|request| request.path.ends_with("runs/create")).count(), 1);
    assert_eq!(server.requests().last().unwrap().json()["status"], "FINISHED");
}

#[test]
fn a_server_that_refuses_ends_no_run_and_what_is_not_supported_is_named() {
    let place = Place::new();
    place.llama_recipe(&[("train.report_to", json!(["mlflow"])), ("train.max_steps", json!(2))]);
    let mut command = place.command(&["train", "-c", "run.yaml"]);
    let ran = finish(command.env("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db").spawn().unwrap());
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(!place.path("run").exists(), "the corrected command begins the run");
    let server = Server::start(|_, _| (403, json!({"message": "not you"})));
    let mut command = place.command(&["train", "-c", "run.yaml"]);
    let ran = finish(command.env("MLFLOW_TRACKING_URI", server.url()).spawn().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in ["mlflow: ", "answers 403", "not you", "set MLFLOW_TRACKING_TOKEN", "continues without it"] {
        assert!(ran.stderr.contains(words), "{words:?} in {}", ran.stderr);
    }
    assert_eq!(ran.stderr.matches("answers 403").count(), 1, "{}", ran.stderr);
    for (set, words) in [
        ("train.report_to=[mlflow, comet]", "is not a known tracker"),
        ("train.report_to=comet", "is not a known tracker"),
        ("train.report_to=tensorboard", "anyway"),
    ] {
        let ran = place.run(&["train", "-c", "run.yaml", "--overwrite", "--set", set]);
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{set}: {}", ran.stderr);
    }
    // Without a server the files are MLflow's own.
    place.run(&["train", "-c", "run.yaml", "--overwrite", "--set", "train.run_name=polite"]).ok();
    let experiment = std::fs::read_dir(place.path("mlruns")).unwrap().next().unwrap().unwrap().path();
    let runs = std::fs::read_dir(experiment).unwrap().map(|entry| entry.unwrap().path());
    let run = runs.into_iter().find(|path| path.is_dir()).unwrap();
    assert_eq!(std::fs::read_to_string(run.join("tags/mlflow.runName")).unwrap(), "polite");
    assert_eq!(std::fs::read_to_string(run.join("metrics/rewards/margins")).unwrap().lines().count(), 2);
}

/// Gets a path of a server; returns the status line and the body.
fn get(address: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_string(), body.to_string())
}

#[test]
fn the_report_is_served_while_the_run_lasts() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(100_000)), ("data.eval", json!(0.3))]);
    let mut child = place.command(&["train", "-c", "run.yaml", "--serve", ":0"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).unwrap() > 0, "the run ended");
        if let Some(rest) = line.split("http://").nth(1) {
            break rest.split('/').next().unwrap().to_string();
        }
    };
    // Standard error must be read, or the run waits for a reader.
    let drain = std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let figures = loop {
        let (status, body) = get(&address, "/figures.json", &address);
        assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
        let figures: Value = serde_json::from_str(&body).unwrap();
        if figures["runs"][0]["curves"]["loss"].as_array().is_some_and(|points| points.len() > 3) {
            break figures;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(figures["runs"][0]["samples"].as_array().unwrap().len(), 3);
    let (_, page) = get(&address, "/", &format!("localhost:{}", address.split(':').nth(1).unwrap()));
    assert!(page.contains("fetch(\"figures.json\")") && page.contains("rewards/margins"));
    assert_eq!(get(&address, "/", "evil.example").0, "HTTP/1.1 403 Forbidden");
    assert_eq!(get(&address, "/config.yaml", &address).0, "HTTP/1.1 404 Not Found");
    let taken = place.run(&["train", "-c", "run.yaml", "--set", "output_dir=other", "--serve", &address]);
    assert!(taken.code == Some(2) && taken.stderr.contains("another port"), "{}", taken.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    drain.join().unwrap().unwrap();
}

/// A Hub that takes uploads; files with weights go to its storage, which is the same server.
fn hub() -> Server {
    Server::start(|request, address| {
        let url = |path: &str| format!("http://{address}{path}");
        match request.path.as_str() {
            "/api/repos/create" => (409, json!({"error": "You already created this model repo"})),
            "/api/models/me/polite/preupload/main" => {
                let mode = |file: &Value| {
                    let large = file["path"].as_str().unwrap().ends_with(".safetensors");
                    json!({"path": file["path"], "uploadMode": if large { "lfs" } else { "regular" }})
                };
                let body = request.json();
                (
                    200,
                    json!({"files": body["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()}),
                )
            }
            "/me/polite.git/info/lfs/objects/batch" => {
                let body = request.json();
                let object = |object: &Value| {
                    let oid = object["oid"].as_str().unwrap();
                    json!({"oid": oid, "size": object["size"], "actions": {
                        "upload": {"href": url(&format!("/storage/{oid}?signature=x")), "header": {"x-amz-acl": "private"}},
                        "verify": {"href": url("/verify"), "header": {}},
                    }})
                };
                (
                    200,
                    json!({"objects": body["objects"].as_array().unwrap().iter().map(object).collect::<Vec<_>>()}),
                )
            }
            "/verify" => (200, json!({})),
            "/api/models/me/polite/commit/main" => {
                (200, json!({"success": true, "commitUrl": url("/me/polite")}))
            }
            path if path.starts_with("/storage/") => (200, json!({})),
            _ => (404, json!({"error": "no such page"})),
        }
    })
}

#[test]
fn an_adapter_is_pushed_with_its_card_and_curves() {
    let place = Place::new();
    place.llama_recipe(&[("data.eval", json!(0.3)), ("model.base_name", json!("someone/base"))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let server = hub();
    place.write("run/adapter/.env", b"HF_TOKEN=hf_secret");
    let push = |args: &[&str], token: Option<&str>| {
        let mut command = place.command(&[&["push"], args].concat());
        command.env("HF_ENDPOINT", server.url()).env("HF_HOME", place.path("hf")).env_remove("HF_TOKEN");
        token.iter().for_each(|token| {
            command.env("HF_TOKEN", token);
        });
        finish(command.spawn().unwrap())
    };
    let ran = push(&["run", "me/polite", "--message", "First"], Some("hf_secret"));
    assert_eq!(
        (ran.code, ran.stdout.trim()),
        (Some(0), format!("{}/me/polite", server.url()).as_str()),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("warning") && ran.stderr.contains(": .env\n"), "{}", ran.stderr);
    let requests = server.requests();
    let find = |words: &str| requests.iter().find(|request| request.path.contains(words)).unwrap();
    let created = find("repos/create").json();
    assert_eq!((&created["name"], &created["organization"]), (&json!("polite"), &json!("me")));
    // The weights are stored under their hash, byte by byte.
    let weights = place.read("run/adapter/adapter_model.safetensors");
    let oid: String = digest(&SHA256, &weights).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let stored = find("/storage/");
    assert!(stored.method == "PUT" && stored.path.contains(&oid) && stored.body == weights);
    assert_eq!(stored.headers["x-amz-acl"], "private");
    assert_eq!(find("/verify").json()["oid"], oid.as_str());
    // The rest is in the commit.
    let commit = find("/commit/main");
    assert_eq!(commit.headers["authorization"], "Bearer hf_secret");
    let lines: Vec<Value> =
        commit.body.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(lines[0]["value"]["summary"], "First");
    let mut files = BTreeMap::new();
    for line in &lines[1..] {
        let value = &line["value"];
        let name = value["path"].as_str().unwrap().to_string();
        match line["key"].as_str().unwrap() {
            "file" => files.insert(name, STANDARD.decode(value["content"].as_str().unwrap()).unwrap()),
            _ => files.insert(name, value["oid"].as_str().unwrap().as_bytes().to_vec()),
        };
    }
    assert!(!files.contains_key(".env"));
    assert_eq!(files["adapter_model.safetensors"], oid.as_bytes());
    assert_eq!(files["adapter_config.json"], place.read("run/adapter/adapter_config.json"));
    let card = String::from_utf8(files["README.md"].clone()).unwrap();
    assert!(card.starts_with(&String::from_utf8(place.read("run/adapter/README.md")).unwrap()));
    assert!(
        card.contains("## Curves") && card.contains("| training loss | ") && card.contains('█'),
        "{card}"
    );
    // Wrong input is refused before anything is sent.
    let sent = server.requests().len();
    for (args, token, words) in [
        (vec!["run", "me/polite"], None, "HF_TOKEN"),
        (vec!["run", "polite"], Some("t"), "write owner/name"),
        (vec!["none", "me/polite"], Some("t"), "there is no adapter none"),
    ] {
        let ran = push(&args, token);
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(push(&["run", "me/polite", "--dry-run"], None).stdout.lines().count(), files.len());
    assert_eq!(server.requests().len(), sent);
    // A Hub that refuses says why.
    let refused = push(&["run", "me/other"], Some("hf_secret"));
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("answers 404: no such page") && !refused.stderr.contains("hf_secret"),
        "{}",
        refused.stderr
    );
}
