"""Syncs a run of `train.report_to: wandb` with wandb's own program to a server on this machine, and compares what arrives.

    pip install wandb                      # tested with 0.31
    python3 tests/install/wandb_sync.py target/release/dpo-lora

The server answers what `wandb sync` asks, as far as it asks for this: the run, its upload addresses and its file stream.
"""

import argparse
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

KEY = "0123456789abcdef0123456789abcdef01234567"


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked, streamed, runs = [], [], []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip
            body = gzip.decompress(body)
        asked = json.loads(body or b"{}")
        if self.path.endswith("/graphql"):
            self.answer({"data": self.data(asked)})
        else:
            if self.path.endswith("file_stream"):
                self.streamed.append(asked)
            self.answer({})

    def data(self, asked):
        query, variables = asked["query"], asked.get("variables") or {}
        self.asked.append(query)
        if "upsertBucket" in query:
            self.runs.append(variables)
            name = variables.get("name") or variables.get("id")
            project = variables.get("project")
            bucket = {
                "id": "UnVuOg==", "name": name, "displayName": variables.get("displayName"), "description": None, "config": "{}",
                "sweepName": None, "historyLineCount": 0,
                "project": {"id": "UA==", "name": project, "entity": {"id": "RQ==", "name": "me"}},
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"http://127.0.0.1:{self.server.server_port}/put/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "UnVuOg==", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "Vg==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "__type" in query or "__schema" in query:
            return {"__type": {"name": "none", "fields": [], "inputFields": []}}
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None, "features": []}, "model": None, "entity": None}

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def lines(name):
    """The lines of a streamed file by their number."""
    found = {}
    for part in Server.streamed:
        file = (part.get("files") or {}).get(name)
        if file:
            found.update({file["offset"] + i: json.loads(line) for i, line in enumerate(file["content"])})
    return [found[number] for number in sorted(found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=pathlib.Path)
    program = parser.parse_args().program.resolve()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as place:
        environment = {
            **os.environ, "XDG_CACHE_HOME": place + "/cache", "HOME": place, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "WANDB_API_KEY": KEY, "WANDB_PROJECT": "mine", "WANDB_ERROR_REPORTING": "false",
        }
        run = lambda *command: subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        train = ["train", "--set", "train.report_to=[wandb]", "--set", "train.logging_steps=1", "--set", "train.save_steps=4", "--set", "output_dir=run"]
        for more in (["--set", "train.max_steps=8"], ["--resume", "--set", "train.max_steps=12"]):
            trained = run(str(program), *train, *more)
            assert trained.returncode == 0, trained.stderr
        whole = sorted(pathlib.Path(place).glob("wandb/offline-run-*"))[-1]
        synced = run(sys.executable, "-m", "wandb", "sync", str(whole))
        print(synced.stdout + synced.stderr)
        assert synced.returncode == 0, [query[:200] for query in Server.asked]
        logged = {}
        for line in pathlib.Path(place, "run/metrics.jsonl").read_text().splitlines():
            line = json.loads(line)
            # A step has the time of its first line.
            step, time = line.pop("step"), line.pop("time")
            logged.setdefault(step, {"time": time}).update(line)
    arrived = {line["_step"]: line for line in lines("wandb-history.jsonl")}
    assert sorted(arrived) == sorted(logged), (sorted(arrived), sorted(logged))
    values = 0
    for step, figures in logged.items():
        # Steps of the first process keep its times.
        assert abs(arrived[step]["_timestamp"] - figures["time"]) < 1, (step, figures["time"], arrived[step])
        for name, value in figures.items():
            if name not in ("epoch", "time"):
                assert arrived[step][name] == value, (step, name, value, arrived[step])
                values += 1
    summary = lines("wandb-summary.json")[-1]
    assert summary["loss"] == logged[max(logged)]["loss"], summary
    config = json.loads(Server.runs[-1]["config"])
    assert config["lora.r"]["value"] > 0 and config["model.base"]["value"] == "tiny-reviews", config
    assert {run.get("project") for run in Server.runs} == {"mine"} and Server.runs[0].get("displayName") == "run"
    codes = {part["exitcode"] for part in Server.streamed if part.get("complete")}
    assert codes == {0}, codes
    print(f"{len(arrived)} steps with {values} figures, {len(config)} settings and the exit code arrived as they were logged")


if __name__ == "__main__":
    main()
