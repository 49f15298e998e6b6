"""dpo-lora from Python: ``train``, ``evaluate``, ``score`` and ``generate``.

The functions run the program ``dpo-lora`` of the same wheel in a process of its own and read the JSON that it prints. There is
no other dependency, and nothing is loaded into this process: a run that needs more memory than there is ends with an exception,
not with the end of a notebook's kernel.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from ._progress import Progress

__all__ = ["Error", "Run", "evaluate", "generate", "program", "score", "train"]

Config = Union[Mapping[str, Any], str, "os.PathLike[str]"]
Path_ = Union[str, "os.PathLike[str]"]
Paths = Union[Path_, Sequence[Path_]]


class Error(RuntimeError):
    """The program failed. ``code`` is its exit code: 1 failed, 2 a wrong argument or configuration, 130 interrupted."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass
class Run:
    """A finished run. Of a run with ``stages``, the directory and the adapter are those of the whole run."""

    directory: Path
    """The run directory, with ``report.html``; of a run with ``stages``, the stages' directories have the reports."""
    adapter: Path
    """The adapter, a PEFT directory. If stages are stacked, it holds the adapters of all of them."""
    step: int
    """Optimizer steps done; of a run with ``stages``, by the last one."""
    evaluation: Optional[Dict[str, Any]]
    """The last evaluation of the held-out pairs against the run's own reference, as the figures of `evaluate`, whose reference is
    the bare base; None if there are no held-out pairs. Of a run with ``stages`` it is that of the last one."""
    metrics: List[Dict[str, Any]] = field(default_factory=list)
    """The figures in the order in which they were logged, each with ``step`` and ``epoch``, and with ``stage`` if there are
    stages."""
    warnings: List[str] = field(default_factory=list)
    """What the run warned of."""
    stages: List[Dict[str, Any]] = field(default_factory=list)
    """The events ``stage_finished`` of a run with ``stages``: ``stage``, ``run``, ``adapter``, ``step`` and ``evaluation`` of each
    stage that was trained now."""


def program() -> str:
    """The path of the program: that of ``DPO_LORA`` if it is set, else that of this environment, else that of ``PATH``.

    A ``DPO_LORA`` that names no program is an `Error`: another program must not take its place.
    """
    named = os.environ.get("DPO_LORA")
    if named:
        return _named(named)
    name = "dpo-lora.exe" if os.name == "nt" else "dpo-lora"
    schemes = [sysconfig.get_path("scripts")]
    user = {"posix": "posix_user", "nt": "nt_user"}.get(os.name)
    if user in sysconfig.get_scheme_names():
        schemes.append(sysconfig.get_path("scripts", user))
    for path in [os.path.join(scheme, name) for scheme in schemes if scheme]:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError("the program dpo-lora is not installed; `pip install dpo-lora`, or set DPO_LORA to its path")
    return found


def _named(path: str) -> str:
    """The path in ``DPO_LORA``, if a program is there; a bare name is one of ``PATH``."""
    if os.path.isfile(path):
        if os.access(path, os.X_OK):
            return path
        raise Error(f"DPO_LORA is {path}, which may not be executed; make it executable (chmod +x), or name another program", 2)
    found = None if os.path.dirname(path) else shutil.which(path)
    if found is None:
        raise Error(f"DPO_LORA is {path}, which is no file; set it to the path of the program dpo-lora, or unset it", 2)
    return found


def train(
    config: Optional[Config] = None,
    *,
    log: Optional[Callable[[Dict[str, Any]], None]] = None,
    progress: Optional[bool] = None,
    resume: bool = False,
    overwrite: bool = False,
    arguments: Sequence[str] = (),
) -> Run:
    """Train an adapter.

    ``config`` is a dictionary with the keys of a configuration file, the path of such a file, or None for the quickstart.
    ``log`` is called in this thread with every event as a dictionary, whose ``event`` is ``start``, ``progress``,
    ``metrics``, ``note``, ``warning``, ``sample``, ``checkpoint``, ``stage_finished`` or ``finished``; in a run with ``stages``
    each names its ``stage``, but for the last. ``progress`` shows a line that moves: in a
    notebook and on a terminal unless it is False. ``resume`` continues from the last checkpoint, ``overwrite`` starts again in
    a used directory, and ``arguments`` are further ones of ``dpo-lora train``.

    An interrupt lets the step finish and a checkpoint be written (on Windows it stops the run at once, and the last checkpoint
    stays); a second one stops at once. An exception of ``log`` stops the run in the same way. A run goes on to its end if this
    process is killed.
    """
    command = ["train", "--json", "-q", *(["--resume"] if resume else []), *(["--overwrite"] if overwrite else []), *arguments]
    with tempfile.TemporaryDirectory() as place:
        if isinstance(config, Mapping):
            path = Path(place) / "config.yaml"
            # JSON is YAML. Relative paths in it are relative to the working directory, as in every configuration.
            path.write_text(json.dumps(_plain(config, ""), allow_nan=False, ensure_ascii=False), encoding="utf-8")
            command += ["-c", str(path)]
        elif config is not None:
            command += ["-c", os.fspath(config)]
        metrics: List[Dict[str, Any]] = []
        warnings: List[str] = []
        finished: Dict[str, Any] = {}
        stages: List[Dict[str, Any]] = []
        with Progress.chosen(progress) as shown, closing(_process(command)) as lines:
            for line in lines:
                event = json.loads(line)
                kind = event["event"]
                if kind == "metrics":
                    of_stage = {"stage": event["stage"]} if "stage" in event else {}
                    metrics.append({**of_stage, "step": event["step"], "epoch": event["epoch"], **event["values"]})
                elif kind == "warning":
                    warnings.append(event["text"])
                elif kind == "stage_finished":
                    stages.append({key: value for key, value in event.items() if key != "event"})
                elif kind == "finished":
                    finished = event
                shown.update(event)
                if log is not None:
                    log(event)
    directory, adapter = Path(finished["run"]), Path(finished["adapter"])
    return Run(directory, adapter, finished["step"], finished["evaluation"], metrics, warnings, stages)


def evaluate(base: Path_, data: Path_, adapter: Optional[Paths] = None, *, arguments: Sequence[str] = ()) -> Dict[str, Any]:
    """Accuracy with its interval, margins, rewards, divergence and perplexity: what ``dpo-lora eval --json`` prints.

    ``data`` is one source: a file, a directory, a glob, or a data set of the Hub (``hub:owner/name``). Several adapters are stacked.
    """
    return json.loads(_output(["eval", "--json", *_common(base, data, adapter), *arguments]))


def score(base: Path_, data: Path_, adapter: Optional[Paths] = None, *, arguments: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """The log-probs of each record in nats, in input order, under policy and reference: what ``dpo-lora score`` prints.

    ``data`` is one source, as in `evaluate`.
    """
    return _lines(_output(["score", *_common(base, data, adapter), *arguments]))


def generate(
    base: Path_, prompts: Union[str, Sequence[str]], adapter: Optional[Paths] = None, *, arguments: Sequence[str] = ()
) -> List[Dict[str, Any]]:
    """Completions of prompts: what ``dpo-lora generate --json`` prints. ``arguments`` are further ones, such as
    ``["--temperature", "0"]``."""
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked), encoding="utf-8")
        return _lines(_output(["generate", "--json", *_common(base, None, adapter), "--prompts", str(path), *arguments]))


def _common(base: Any, data: Optional[Path_], adapter: Optional[Paths]) -> List[str]:
    command = ["--base", os.fspath(base)]
    if data is not None:
        command += ["--data", _one(data)]
    if adapter is not None:
        many = [adapter] if isinstance(adapter, (str, os.PathLike)) else adapter
        command += [part for path in many for part in ("--adapter", os.fspath(path))]
    return command


def _one(data: Any) -> str:
    """The one source of the data. A list of one is accepted."""
    many = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if len(many) != 1:
        raise TypeError(
            f"data holds {len(many)} paths, {many!r}, and the program reads one source: name a directory, or a glob such as 'pairs/*.jsonl'"
        )
    return os.fspath(many[0])


def _plain(value: Any, key: str) -> Any:
    """A value of a configuration as JSON has it; ``key`` is its place, such as ``train.learning_rate``.

    Numbers and arrays of other libraries become numbers and lists of Python.
    """
    if isinstance(value, Mapping):
        plain: Dict[str, Any] = {}
        for name, inner in value.items():
            if not isinstance(name, (str, int)):
                raise TypeError(f"{key or 'the configuration'} has the key {name!r}; the keys of a configuration are texts")
            # As JSON writes it.
            name = name if isinstance(name, str) else json.dumps(name)
            if name in plain:
                raise TypeError(f"{key or 'the configuration'} has the key {name!r} twice, as a text and as a number")
            plain[name] = _plain(inner, f"{key}.{name}" if key else name)
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(inner, f"{key}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}; a number of a configuration must be finite")
    if value is None or type(value) in (str, bool, int, float):
        return value
    # numpy's numbers and arrays, and torch's.
    if callable(getattr(value, "tolist", None)):
        plain = value.tolist()
        # numpy's longdouble stays what it is.
        if type(plain) is not type(value):
            return _plain(plain, key)
    if isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{key} is {value!r}, of type {type(value).__name__}; a configuration has texts, numbers, true, false, None, lists and dictionaries")


def _lines(text: str) -> List[Dict[str, Any]]:
    # Not `splitlines`, which also splits at characters that stand in texts, such as U+2028.
    return [json.loads(line) for line in text.split("\n") if line]


def _output(command: Sequence[str]) -> str:
    """The standard output of a command."""
    with closing(_process(command)) as lines:
        return "".join(lines)


def _process(command: Sequence[str]) -> Iterator[str]:
    """Runs the program and yields the lines of its standard output.

    It has a process group of its own, so that an interrupt of this process reaches it once, and from here.
    """
    options: Dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
    path = program()
    try:
        child = subprocess.Popen(
            [path, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", **options
        )
    except OSError as error:
        raise Error(f"the program {path} cannot be started: {error.strerror or error}; reinstall dpo-lora, or set DPO_LORA to its path", 2) from error
    said: List[str] = []

    def listen() -> None:
        for line in child.stderr:
            said.append(line)

    # A full pipe of messages would stop the program.
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    ended = False
    try:
        # Not `yield from`: it would close the pipe before the program is asked to stop.
        for line in child.stdout:
            yield line
        ended = True
    finally:
        if not ended:
            _stop(child)
        child.wait()
        listener.join()
        child.stdout.close()
        child.stderr.close()
    if child.returncode != 0:
        raise Error(_message("".join(said), child.returncode), child.returncode)


def _stop(child: "subprocess.Popen[str]") -> None:
    """Asks the program to stop, and reads on until it does: it waits for nobody. A second interrupt is passed on."""
    for _ in range(3):
        try:
            child.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            while child.stdout.read(1 << 16):
                pass
            return
        except KeyboardInterrupt:
            continue
    child.kill()


def _message(said: str, code: int) -> str:
    """What the program said, from its last error on; of an interrupted run its last line."""
    interrupted = code in (130, 143)
    at = said.rstrip().rfind("\n") + 1 if interrupted else max(said.rfind("\nerror: ") + 1, 0)
    text = said[at:].strip()
    text = text[len("error: "):] if text.startswith("error: ") else text
    return text or f"dpo-lora ended with exit code {code}"
