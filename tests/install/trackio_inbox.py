"""Has trackio's own dashboard read a run of `train.report_to: trackio`, and compares what it shows with what was logged.

    pip install trackio                    # tested with 0.43
    python3 tests/install/trackio_inbox.py target/release/dpo-lora

The run is trained for 8 steps and resumed to 12; the dashboard serves on 127.0.0.1 and takes the run in from its inbox.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=pathlib.Path)
    program = parser.parse_args().program.resolve()
    with tempfile.TemporaryDirectory() as place:
        # trackio reads the environment when it is imported.
        os.environ.update(TRACKIO_DIR=place + "/trackio", TRACKIO_PROJECT="mine", TRACKIO_INBOX_POLL_INTERVAL="5", HF_HUB_OFFLINE="1")
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            os.environ.pop(name, None)
        train = [str(program), "train", "--set", "train.report_to=[trackio]", "--set", "train.logging_steps=1", "--set", "train.save_steps=4",
                 "--set", "output_dir=run"]
        for more in (["--set", "train.max_steps=8"], ["--resume", "--set", "train.max_steps=12"]):
            trained = subprocess.run([*train, *more], cwd=place, env={**os.environ, "XDG_CACHE_HOME": place + "/cache"},
                                     capture_output=True, text=True)
            assert trained.returncode == 0, trained.stderr
        inbox = pathlib.Path(place, "trackio/inbox")
        assert list(inbox.rglob("*.jsonl"))
        import trackio
        from trackio.sqlite_storage import SQLiteStorage
        trackio.show(project="mine", open_browser=False, block_thread=False)
        until = time.monotonic() + 60
        while list(inbox.rglob("*.jsonl")) and time.monotonic() < until:
            time.sleep(1)
        runs = list(trackio.Api().runs("mine"))
        assert [run.name for run in runs] == ["run"], runs
        assert runs[0].config["lora.r"] == 16 and runs[0].config["model.base"] == "tiny-reviews", runs[0].config
        shown = SQLiteStorage.get_logs("mine", "run", run_id=runs[0].id)
        logged = [json.loads(line) for line in pathlib.Path(place, "run/metrics.jsonl").read_text().splitlines()]
    kind = lambda line: (line["step"], any(name.startswith("eval_") for name in line))
    by_kind = {kind(line): line for line in shown}
    assert len(by_kind) == len(shown), "a line is there twice"
    values = 0
    for line in logged:
        found = by_kind[kind(line)]
        for name, value in line.items():
            if name in ("step", "epoch", "time"):
                continue
            # The times of steps that were repeated after the resume are those of their first run.
            if name not in ("step_seconds", "tokens_per_second", "memory_gb", "peak_memory_gb"):
                assert found[name] == value, (line["step"], name, found[name], value)
            values += 1
    print(f"{len(shown)} log lines with {values} figures and {len(runs[0].config)} settings are shown as they were logged")


if __name__ == "__main__":
    main()
