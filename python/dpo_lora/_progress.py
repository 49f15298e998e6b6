"""A line that shows how far a run is: in a notebook, on a terminal, or nowhere."""

from __future__ import annotations

import html
import sys
import time
from typing import Any, Dict, Optional


class Progress:
    """Shows nothing; the base of what shows something."""

    def __init__(self) -> None:
        self.total = 0
        self.begun = time.monotonic()
        self.shown = 0.0
        self.evaluated = ""

    @staticmethod
    def chosen(wanted: Optional[bool]) -> "Progress":
        """The one for where this runs; `wanted` None means: if somebody looks."""
        if wanted is False:
            return Progress()
        shell = sys.modules.get("IPython")
        shell = shell.get_ipython() if shell is not None else None
        if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
            return Notebook()
        if wanted or sys.stderr.isatty():
            return Terminal()
        return Progress()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, event: Dict[str, Any]) -> None:
        """Takes an event of the run."""
        kind = event["event"]
        if kind == "start":
            self.total, self.first, self.begun = event["total_steps"], event["step"], time.monotonic()
            self.draw(event["step"], "")
        elif kind == "metrics" and "eval_loss" in event["values"]:
            values = event["values"]
            self.evaluated = "".join(
                f"  held-out {name} {values[key]:.4g}"
                for key, name in (("eval_loss", "loss"), ("eval_rewards/accuracies", "accuracy"))
                if values.get(key) is not None
            )
        elif kind == "progress" and (time.monotonic() - self.shown > 0.1 or event["step"] == self.total):
            self.shown = time.monotonic()
            done = max(event["step"] - self.first, 1)
            left = (self.shown - self.begun) / done * (self.total - event["step"])
            accuracy = event["accuracy"]
            share = "" if accuracy is None else f"  accuracy {accuracy:.2f}"
            loss = "" if event["loss"] is None else f"  loss {event['loss']:.4f}"
            self.draw(event["step"], f"{loss}{share}{self.evaluated}  {left:.0f} s left")
        elif kind == "warning":
            self.say("warning: " + event["text"])
        elif kind in ("finished", "stage_finished"):
            self.draw(event["step"], f"{self.evaluated}  {event['adapter']}")

    def draw(self, step: int, text: str) -> None:
        """Shows the line."""

    def say(self, text: str) -> None:
        """Shows a line that stays."""

    def close(self) -> None:
        """The run is over."""


class Terminal(Progress):
    """A line of standard error that is written over."""

    def draw(self, step: int, text: str) -> None:
        sys.stderr.write(f"\r\x1b[Kstep {step}/{self.total}{text}")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}\n")

    def close(self) -> None:
        sys.stderr.write("\n")
        sys.stderr.flush()


class Notebook(Progress):
    """A bar below the cell."""

    def __init__(self) -> None:
        super().__init__()
        from IPython.display import HTML, display

        self.html = HTML
        self.handle = display(HTML(""), display_id=True)

    def draw(self, step: int, text: str) -> None:
        bar = f'<progress value="{step}" max="{max(self.total, 1)}" style="width: 16em; vertical-align: middle"></progress>'
        self.handle.update(self.html(f"{bar} step {step}/{self.total}{html.escape(text)}"))

    def say(self, text: str) -> None:
        from IPython.display import display

        display(self.html(f'<div style="color: #8a5a00">{html.escape(text)}</div>'))
