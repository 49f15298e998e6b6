"""Tests the Python module: `import dpo_lora`.

    environment/bin/python tests/install/python.py              # as it is installed
    PYTHONPATH=python DPO_LORA=target/release/dpo-lora python3 tests/install/python.py

It needs Python alone; the runs are of the embedded base.
"""

import contextlib
import io
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import types
import unittest
import unittest.mock

import dpo_lora
from dpo_lora._progress import Notebook, Progress, Terminal

BASE, DATA = "tiny-reviews", "tiny-reviews/eval.jsonl"


def settings(name, steps=4, **train):
    return {
        "output_dir": pathlib.Path(name),
        "model": {"base": BASE},
        "data": {"train": "tiny-reviews/train.jsonl", "eval": DATA, "limit": 64},
        "train": {"max_steps": steps, "logging_steps": 1, "learning_rate": 1e-3, **train},
    }


class Module(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.before = os.getcwd()
        os.chdir(self.place.name)
        os.environ["XDG_CACHE_HOME"] = self.place.name + "/cache"

    def tearDown(self):
        os.chdir(self.before)
        self.place.cleanup()

    def test_a_run_from_a_dictionary(self):
        events = []
        run = dpo_lora.train(settings("runs/a"), log=events.append, progress=False)
        kinds = [event["event"] for event in events]
        self.assertIn("start", kinds)
        self.assertEqual((kinds[-1], run.step), ("finished", 4))
        self.assertEqual(run.directory, pathlib.Path("runs/a"))
        self.assertTrue((run.adapter / "adapter_model.safetensors").is_file())
        logged = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["loss"] for line in logged if "loss" in line], [m["loss"] for m in run.metrics if "loss" in m])
        self.assertEqual(run.evaluation["accuracy"], dpo_lora.evaluate(BASE, DATA, run.adapter)["accuracy"])
        scores = dpo_lora.score(BASE, DATA, run.adapter)
        self.assertEqual([score["index"] for score in scores], list(range(200)))
        texts = dpo_lora.generate(BASE, ["The film is", "I think"], run.adapter, arguments=["--temperature", "0", "--max-new-tokens", "8"])
        self.assertEqual(len(texts), 2)

    def test_errors_are_the_programs(self):
        with self.assertRaises(dpo_lora.Error) as caught:
            dpo_lora.train({"train": {"learning_rat": 1}}, progress=False)
        self.assertEqual(caught.exception.code, 2)
        self.assertIn("learning_rate", str(caught.exception))
        with self.assertRaises(dpo_lora.Error) as caught:
            dpo_lora.score(BASE, "nothing.jsonl")
        self.assertEqual(caught.exception.code, 2)
        with self.assertRaisesRegex(ValueError, "train.learning_rate is nan"):
            dpo_lora.train({"train": {"learning_rate": float("nan")}})
        with self.assertRaisesRegex(TypeError, r"train.betas\[1\] is .* of type object"):
            dpo_lora.train({"train": {"betas": [1.0, object()]}})
        for function in (dpo_lora.evaluate, dpo_lora.score):
            with self.assertRaisesRegex(TypeError, "data holds 2 paths.*a glob"):
                function(BASE, ["a.jsonl", "b.jsonl"])
        self.assertEqual(dpo_lora.evaluate(BASE, [DATA])["pairs"], 200)

    def test_a_program_that_is_named_and_cannot_run_is_an_error(self):
        plain = pathlib.Path("plain")
        plain.write_text("no program")
        empty = pathlib.Path("empty")
        empty.write_bytes(b"\0")
        empty.chmod(0o755)
        cases = [("/no/such/dpo-lora", "DPO_LORA is /no/such/dpo-lora, which is no file"), ("no-such-dpo-lora", "DPO_LORA is no-such-dpo-lora, which is no file")]
        if os.name == "posix":
            cases += [("plain", "DPO_LORA is plain, which may not be executed"), ("./empty", "the program ./empty cannot be started")]
        before = dpo_lora.program()
        for named, said in cases:
            with unittest.mock.patch.dict(os.environ, DPO_LORA=named), self.assertRaisesRegex(dpo_lora.Error, said) as caught:
                dpo_lora.evaluate(BASE, DATA)
            self.assertEqual(caught.exception.code, 2)
        with unittest.mock.patch.dict(os.environ, DPO_LORA=os.path.abspath(before)):
            self.assertEqual(dpo_lora.program(), os.path.abspath(before))

    def test_numbers_of_other_libraries_are_numbers(self):
        class Number:
            """As numpy's: no number of Python, and with `tolist`."""

            def __init__(self, value):
                self.value = value

            def tolist(self):
                return self.value

        found = dpo_lora._plain({"a": {"b": [Number(2), Number([0.5, 1])]}, "c": pathlib.Path("d"), "e": None, "f": True}, "")
        self.assertEqual(found, {"a": {"b": [2, [0.5, 1]]}, "c": "d", "e": None, "f": True})
        with self.assertRaisesRegex(ValueError, r"a.b\[1\] is inf"):
            dpo_lora._plain({"a": {"b": [1, Number(float("inf"))]}}, "")
        with self.assertRaisesRegex(TypeError, r"a.b\[0\] is .* of type Number"):
            dpo_lora._plain({"a": {"b": [Number(Number(1))]}}, "")
        self.assertEqual(dpo_lora._plain({"a": {1: Number(2), "b": 3}}, ""), {"a": {"1": 2, "b": 3}})
        with self.assertRaisesRegex(TypeError, "a has the key '1' twice"):
            dpo_lora._plain({"a": {1: 2, "1": 3}}, "")
        with self.assertRaisesRegex(TypeError, "a has the key 1.5"):
            dpo_lora._plain({"a": {1.5: 2}}, "")
        try:
            import numpy
        except ImportError:
            return
        found = dpo_lora._plain({"r": numpy.int64(4), "x": numpy.float32(0.5), "y": numpy.array([1, 2]), "z": numpy.float64(2)}, "")
        self.assertEqual(json.dumps(found), '{"r": 4, "x": 0.5, "y": [1, 2], "z": 2.0}')
        if type(numpy.longdouble(0.5).tolist()) is numpy.longdouble:
            with self.assertRaisesRegex(TypeError, "x is .* of type "):
                dpo_lora._plain({"x": numpy.longdouble(0.5)}, "")

    def test_a_run_with_stages_is_the_whole_run(self):
        config = settings("runs/two")
        config["stages"] = [{"name": "sft"}, {"name": "dpo", "adapter": "stack", "lora": {"r": 2}}]
        events = []
        run = dpo_lora.train(config, log=events.append, progress=False)
        self.assertEqual((run.directory, run.adapter), (pathlib.Path("runs/two"), pathlib.Path("runs/two/adapter")))
        self.assertEqual([event["event"] for event in events].count("finished"), 1)
        self.assertEqual([(stage["stage"], stage["adapter"]) for stage in run.stages], [("sft", "runs/two/1-sft/adapter"), ("dpo", "runs/two/2-dpo/adapter")])
        self.assertEqual({metrics["stage"] for metrics in run.metrics}, {"sft", "dpo"})
        self.assertEqual(run.evaluation, run.stages[-1]["evaluation"])
        # The adapter of the whole run is the policy that the last stage evaluated.
        share = dpo_lora.evaluate(BASE, DATA, run.adapter)["logp_accuracy"]
        self.assertAlmostEqual(share, run.evaluation["logp_accuracy"])

    def test_a_callback_that_raises_stops_the_run_with_a_checkpoint(self):
        def stop(event):
            if event["event"] == "progress" and event["step"] == 2:
                raise ValueError("enough")
        with self.assertRaisesRegex(ValueError, "enough"):
            dpo_lora.train(settings("runs/b", steps=500), log=stop, progress=False)
        saved = list(pathlib.Path("runs/b/checkpoints").iterdir())
        self.assertEqual(len(saved), 1)
        steps = []
        def count(event):
            if event["event"] == "progress":
                steps.append(event["step"])
                if len(steps) == 2:
                    raise ValueError("enough")
        with self.assertRaisesRegex(ValueError, "enough"):
            dpo_lora.train(settings("runs/b", steps=500), log=count, progress=False, resume=True)
        self.assertGreater(steps[0], 2)

    @unittest.skipUnless(os.name == "posix", "signals")
    def test_an_interrupt_is_an_interrupt(self):
        def interrupt(event):
            if event["event"] == "progress" and event["step"] == 2:
                os.kill(os.getpid(), signal.SIGINT)
        # A shell that starts this in the background has it ignore interrupts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        with self.assertRaises(KeyboardInterrupt):
            dpo_lora.train(settings("runs/c", steps=500), log=interrupt, progress=False)
        self.assertEqual(len(list(pathlib.Path("runs/c/checkpoints").iterdir())), 1)

    def test_progress_on_a_terminal_and_in_a_notebook(self):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            self.assertIs(type(Progress.chosen(None)), Progress)
            with Terminal() as shown:
                events(shown)
        self.assertIn("step 2/2  loss 0.5000  accuracy 0.75", said.getvalue())
        self.assertIn("warning: too <hot>\n", said.getvalue())
        shown = []
        handle = types.SimpleNamespace(update=shown.append)
        module = types.ModuleType("IPython.display")
        module.HTML, module.display = str, lambda what, display_id=False: handle if display_id else shown.append(what)
        package = types.ModuleType("IPython")
        package.get_ipython = type("ZMQInteractiveShell", (), {})
        sys.modules["IPython"], sys.modules["IPython.display"] = package, module
        try:
            notebook = Progress.chosen(None)
            self.assertIs(type(notebook), Notebook)
            with notebook:
                events(notebook)
        finally:
            del sys.modules["IPython"], sys.modules["IPython.display"]
        self.assertTrue(any("too &lt;hot&gt;" in text for text in shown))
        self.assertIn('<progress value="2" max="2"', shown[-1])


def events(shown):
    shown.update({"event": "start", "step": 0, "total_steps": 2})
    shown.update({"event": "warning", "text": "too <hot>"})
    shown.update({"event": "progress", "step": 2, "loss": 0.5, "accuracy": 0.75, "tokens_per_second": 9.0})
    shown.update({"event": "finished", "step": 2, "adapter": "runs/a/adapter"})


if __name__ == "__main__":
    unittest.main()
