"""Runs dpo-lora on a GPU and measures it: those steps of run.sh that need models. cases.py says what is wanted.

Appends a row a case to OUT/table.tsv (case, verdict, ours, peer, ratio, wanted) and the numbers to OUT/numbers.jsonl.
Seconds a step are those of the steps after the first two, all with a reference pass. Memory is nvidia-smi's peak less
what was in use before, the driver's context included; limits are for what is above that of a tiny model.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import ranks
from cases import CASES, GGUF, LARGE, LONG_1B, LONG_8B, MIDDLE, SMALL, gigabytes, tokens
from processes import HERE, Failed, Missing, NoTime, Peer, execute, tail

COLD = 2  # steps that are left out
STEPS = ["equality", "ranks", "timings", "generation", "plan", "profile"]


class Bench:
    """The program, its models and data, and where results go."""

    def __init__(self, args):
        self.args, self.deadline = args, time.monotonic() + args.seconds
        self.work, self.out = args.work, args.out
        self.medians, self.context, self.peer, self.liger = {}, None, None, True

    # What is written.

    def row(self, case, verdict, ours="", peer="", ratio="", wanted=""):
        with open(self.out / "table.tsv", "a") as file:
            cells = (case, verdict, ours, peer, ratio, wanted)
            file.write("\t".join(re.sub(r"\s+", " ", str(cell)) for cell in cells) + "\n")
        print(f"{case}: {verdict}; {ours}" + (f"; peer {peer}" if peer else ""), flush=True)

    def number(self, case, **values):
        with open(self.out / "numbers.jsonl", "a") as file:
            file.write(json.dumps({"case": case, **values}) + "\n")

    def judge(self, case, checks, ours, peer="", ratio=""):
        """A row by checks: pairs of what is wanted and whether it is so (None: not known)."""
        verdict = "OFF" if any(right is False for _, right in checks) else "ok"
        notes = {None: " (not checked)", False: " (OFF)"}
        wanted = ", ".join(wanted + notes.get(right, "") for wanted, right in checks)
        self.row(case, verdict, ours, peer, ratio, wanted)

    # What is run.

    def limit(self, seconds):
        """Seconds that something may take, and whether the script's end is what limits it."""
        left = self.deadline - time.monotonic()
        if left < 5:
            raise NoTime
        return min(seconds, left), left < seconds

    def execute(self, words, seconds=120, output=None, ready=None, kill=None):
        """Runs dpo-lora; kills it once the path `kill` is there."""
        (seconds, late), log = self.limit(seconds), self.out / "log.txt"
        ran = execute([self.args.binary, *words], seconds, log, output, ready, kill)
        if ran is None and late:
            raise NoTime
        if ran is None:
            raise Failed(f"dpo-lora {words[0]} did not end in {seconds:.0f} s")
        if ran.code and not kill:
            raise Failed(f"dpo-lora {words[0]} failed: {tail(log)}")
        return ran

    def base(self, case):
        return self.args.gguf if case.model == GGUF else self.args.models / case.model

    def data(self, kind):
        return self.work / "data" / f"pairs_{kind}.jsonl"

    def config(self, case, data=None):
        """A run's file and folder."""
        run, path = self.work / "run", self.work / "run.yaml"
        settings = {
            "max_steps": case.steps, "per_device_train_batch_size": case.batch, "learning_rate": 5e-5,
            "lr_scheduler_type": "constant", "shuffle": False, "logging_steps": 1, "reference_cache": "off",
        }
        path.write_text(json.dumps({
            "output_dir": str(run), "model": {"base": str(self.base(case)), "device": "cuda"},
            "lora": {"r": 16, "lora_alpha": 32},
            "data": {"train": str(data or self.data(case.data)), "max_length": 1024}, "train": settings,
        }))
        return ["train", "-c", path, *(word for key in case.sets for word in ("--set", key))], run

    def train(self, case, *words, data=None, kill=None):
        """Trains anew unless `--resume` is among the words; how it went, and its metrics."""
        command, run = self.config(case, data)
        metrics = run / "metrics.jsonl"
        if "--resume" not in words:
            shutil.rmtree(run, ignore_errors=True)
        ran = self.execute([*command, *words], ready=metrics, kill=kill and run / kill)
        rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        return ran, [row for row in rows if "step_seconds" in row]

    # Steps.

    def make(self):
        """Data, and the models that the steps need and that can be made; smaller ones first."""
        source = ["--from", self.args.data] if self.args.data else []
        subprocess.run([sys.executable, HERE / "make_data.py", self.work / "data", *source], check=True)
        needed = {"tiny"}
        needed |= {SMALL} if {"equality", "ranks"} & set(self.args.steps) else set()
        needed |= {MIDDLE} if {"generation", "plan", "profile"} & set(self.args.steps) else set()
        needed |= {case.model for case in self.cases()}
        names = [name for name in ("tiny", SMALL, MIDDLE, LARGE) if name in needed and not self.has(name)]
        if not names:
            return
        tokenizer = ["--tokenizer", self.args.tokenizer] if self.args.tokenizer else []
        log = self.out / "models.txt"
        command = [self.args.python, "-u", HERE / "make_models.py", self.args.models, *names, *tokenizer]
        ran = execute(command, self.limit(180)[0], log)
        print(log.read_text().strip(), flush=True)
        if ran is None or ran.code:
            self.row("models", "left out", f"not all could be made: {tail(log) if ran else 'no time'}")

    def has(self, model):
        return (self.args.models / model / "model.safetensors").exists()

    def cases(self):
        if "timings" not in self.args.steps:
            return []
        chosen = [case for case in CASES if {"all", case.name} & set(self.args.cases)]
        return [case for case in chosen if self.args.gguf or case.model != GGUF]

    def need(self, model):
        if not self.has(model):
            raise Missing(f"there is no model {model}")

    def equality(self):
        """The same bytes from a rerun, and from a run that was killed and resumed."""
        self.need(SMALL)
        case = dataclasses.replace(CASES[0], batch=16, steps=9, sets=("lora.lora_dropout=0.1", "train.save_steps=3"))

        def adapter():
            path = self.work / "run" / "adapter" / "adapter_model.safetensors"
            return hashlib.sha256(path.read_bytes()).hexdigest()[:12]

        def trained(*words):
            self.train(case, *words)
            return adapter()

        one, two = trained(), trained()
        self.judge("rerun", [("the same bytes", one == two)], f"adapters {one} and {two}")
        killed, _ = self.train(case, kill="checkpoints/step-3")
        if killed.code != -signal.SIGKILL:
            self.row("killed and resumed", "OFF", "the run was over before it could be killed")
            return
        ran, _ = self.train(case, "--resume")
        resumed = re.search(r"resumed from .*step-(\d+)", ran.output)
        three = adapter()
        at = f"resumed at step {resumed[1]}" if resumed else "it began anew"
        checks = [("the same bytes", one == three), ("resumed", bool(resumed))]
        self.judge("killed and resumed", checks, f"adapters {one} and {three}, {at}")

    def ranks(self):
        """One process, two and four on the cards of this machine."""
        self.need(SMALL)
        ranks.compare(self)

    def timings(self):
        self.measure_context()
        for case in self.cases():
            try:
                self.time(case)
            except Exception as error:
                self.failed(case.name, error)
        if self.peer:
            self.peer.end()

    def measure_context(self):
        """What a tiny model takes, nearly all of it the driver's and the libraries'."""
        if not self.has("tiny"):
            return
        pairs = self.work / "few.jsonl"
        pairs.write_text("".join(line + "\n" for line in self.data("short").read_text().splitlines()[:16]))
        words = ["score", "--base", self.args.models / "tiny", "--device", "cuda", "--data", pairs]
        try:
            self.context = self.execute(words, 60, self.work / "scores.jsonl").gigabytes
            self.number("context", gigabytes=self.context)
            print(f"context: {gigabytes(self.context)}", flush=True)
        except Failed as error:
            self.failed("context", error)

    def time(self, case):
        if case.model != GGUF:
            self.need(case.model)
        ran, rows = self.train(case)
        steps = [row["step_seconds"] for row in rows][COLD:]
        if not steps:
            raise Failed(f"{len(rows)} steps were logged")
        median = statistics.median(steps)
        rate = sum(row["tokens_per_second"] * row["step_seconds"] for row in rows[COLD:]) / sum(steps)
        self.medians[case.name] = median
        above = ran.gigabytes if ran.gigabytes is None or self.context is None else ran.gigabytes - self.context
        self.number(
            case.name, min=min(steps), median=median, max=max(steps), packed_tokens_per_second=rate,
            gigabytes=ran.gigabytes, above_context=above, wall=ran.wall, first=ran.first,
            losses=[row.get("loss") for row in rows[:4]],
        )
        print(f"{case.name}: s/step min {min(steps):.4f} median {median:.4f} max {max(steps):.4f}; {tokens(rate)}; "
              f"{gigabytes(ran.gigabytes)}, {gigabytes(above)} above the context; first step after "
              f"{ran.first or 0:.2f} s; wall {ran.wall:.2f} s; "
              f"losses {[round(row.get('loss', 0), 4) for row in rows[:4]]}", flush=True)
        peer, best = self.ask(case)
        ratio = best / median if best else None
        ours = f"{median:.4f} s, {tokens(rate)}, {gigabytes(ran.gigabytes)}"
        checks = list(case.wanted(ratio, rate, above, ran.first, median, self.medians))
        self.judge(case.name, checks, ours, peer, f"{ratio:.2f}" if ratio else "")

    def ask(self, case):
        """The peer's side of a case: words for the table, and its best step."""
        if not (case.peer and {"all", case.name} & set(self.args.peer)):
            return "", None
        try:
            found = self.ask_peer(case)
        except Missing as error:
            self.args.peer = []
            print(f"the peer is left out: {error}", flush=True)
            return "", None
        except (Failed, NoTime) as error:
            return f"failed: {str(error) or 'no time is left'}", None
        self.number(f"{case.name} peer", **found)
        print(f"{case.name} peer: {json.dumps(found)}", flush=True)
        memory, speed = gigabytes(found["peak_gb"]), tokens(found["packed_tokens_per_second"])
        return f"{found['best']:.4f} s, {speed}, {memory} ({found['options'] or 'plain'})", found["best"]

    def ask_peer(self, case):
        options = "" if case.peer == "liger" and not self.liger else case.peer
        try:
            return self.ask_with(case, options)
        except Failed as error:
            if options != "liger" or "OutOfMemory" in str(error) or self.peer.has_ended():
                raise
            print(f"{case.name} peer: without Liger's kernels, since: {error}", flush=True)
            self.liger = False
            return self.ask_with(case, "")

    def ask_with(self, case, options):
        words = ["--model", self.base(case), "--data", self.data(case.data), "--batch", case.batch]
        words += ["--steps", self.args.peer_steps, "--skip", 3, "--options", options or "''"]
        return self.peer_with("liger" in options).ask(list(map(str, words)), self.limit(150)[0])

    def peer_with(self, liger):
        """The peer's process; a new one where Liger's kernels are not wanted: they stay in the libraries' classes."""
        if self.peer and (self.peer.liger and not liger or self.peer.has_ended()):
            self.peer.end()
            self.peer = None
        if self.peer is None:
            self.peer = Peer(self.args.python, self.out / "peer.txt")
            try:
                versions = self.peer.line(self.limit(120)[0])
            except Failed as error:
                raise Missing(str(error)) from error
            self.number("peer", **versions)
            print(f"peer: {json.dumps(versions)}", flush=True)
        self.peer.liger |= liger
        return self.peer

    def generation(self):
        """64 prompts together, and three of them alone."""
        self.need(MIDDLE)
        lines = self.data("short").read_text().splitlines()[:64]
        prompts = [json.dumps({"prompt": json.loads(line)["prompt"][:400]}) for line in lines]

        def generate(prompts):
            path, output = self.work / "prompts.jsonl", self.work / "texts.jsonl"
            path.write_text("\n".join(prompts) + "\n")
            words = ["generate", "--base", self.args.models / MIDDLE, "--device", "cuda", "--prompts", path]
            words += ["--max-new-tokens", 128, "--temperature", 0, "--json"]
            ran = self.execute(words, output=output)
            return ran, [json.loads(line) for line in ran.output.splitlines()]

        ran, together = generate(prompts)
        alone = {i: generate([prompts[i]])[1] for i in (0, len(prompts) // 2, len(prompts) - 1)}
        same = len(together) == 64 and all([together[i]] == texts for i, texts in alone.items())
        count = sum(text["tokens"] for text in together)
        self.number("generation", wall=ran.wall, gigabytes=ran.gigabytes, tokens=count)
        checks = [("<= 4 s", ran.wall <= 4), ("64 texts", len(together) == 64), ("the same texts alone", same)]
        self.judge("generation", checks, f"{ran.wall:.2f} s, {count:,} tokens, {gigabytes(ran.gigabytes)}")

    def plan(self):
        """The memory that a dry run expects against the run's, on the longest pairs: one micro-batch, the largest."""
        self.need(MIDDLE)
        for case in [LONG_1B, *([LONG_8B] if LONG_8B in self.cases() and self.has(LARGE) else [])]:
            lines = sorted(self.data(case.data).read_text().splitlines(), key=len)[-case.batch:]
            data, name = self.work / "longest.jsonl", f"plan {case.name}"
            data.write_text("\n".join(lines) + "\n")
            case = dataclasses.replace(case, steps=2)
            command, _ = self.config(case, data)
            said = self.execute([*command, "--dry-run", "--overwrite"]).output
            expected = re.search(r"expected memory of the GPU ([\d.]+) GB in all", said)
            if not expected:
                raise Failed("the dry run says nothing of the GPU's memory")
            expected = float(expected[1])
            measured = self.train(case, data=data)[0].gigabytes
            share = expected / measured if measured else None
            self.number(name, expected=expected, measured=measured)
            checks = [("within 10 %", None if share is None else abs(share - 1) <= 0.1)]
            ours = f"expected {expected:.2f} GB, measured {gigabytes(measured)}"
            self.judge(name, checks, ours, "", f"{share:.3f}" if share else "")

    def profile(self):
        self.need(MIDDLE)
        case = dataclasses.replace(LONG_1B, steps=5)
        ran, _ = self.train(case, "--profile")
        path = self.out / f"profile-{case.name}.txt"
        path.write_text(ran.output)
        lines = len(ran.output.splitlines())
        self.judge("profile", [("a table", lines > 8)], f"{path.name}, {lines} lines")

    def failed(self, name, error):
        if isinstance(error, (NoTime, Missing)):
            self.row(name, "left out", str(error) or "no time is left")
        else:
            self.row(name, "OFF", str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}")

    def run(self):
        try:
            self.make()
        except Exception as error:
            return self.failed("models and data", error)
        for step in (step for step in STEPS if step in self.args.steps):
            print(f"\n== {step}", flush=True)
            try:
                getattr(self, step)()
            except Exception as error:
                self.failed(step, error)


def case_names(text):
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in [case.name for case in CASES] + ["all", "none"]]
    if unknown:
        known = ", ".join(case.name for case in CASES)
        raise argparse.ArgumentTypeError(f"{unknown[0]} is no case; there are: {known}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("binary", "out", "work", "models"):
        parser.add_argument("--" + name, required=True, type=lambda path: pathlib.Path(path).resolve())
    for name in ("data", "tokenizer", "gguf"):
        parser.add_argument("--" + name, type=lambda path: pathlib.Path(path).resolve() if path else None)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--steps", required=True, type=lambda names: names.split(","))
    parser.add_argument("--cases", default="all", type=case_names)
    parser.add_argument("--peer", default="all", type=case_names, help="cases, all, or none")
    parser.add_argument("--peer-steps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=480)
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    main()
