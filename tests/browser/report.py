"""Looks at a run's report in headless Chromium, at 1280 and 390 pixels, light and dark, and drives it.

    python3 tests/browser/report.py target/release/dpo-lora            # exits with 1 if something is wrong, 77 without Chromium
    python3 tests/browser/report.py target/release/dpo-lora --keep DIR # the screenshots, to look at

It needs only a `chromium` in the path (or CHROMIUM=PATH) and Python: a page that is measured prints what it finds into its
own title, through a script that this test adds, and `--dump-dom` shows it.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Wrong pairs of a run that are shown, at most; short runs leave some.
WRONG = 10

SIZES = [(1280, 1600), (390, 1600)]

# What is measured in the page itself. Nothing may be wider than the screen; every curve has a drawing; a pointer shows values.
PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const wide = [...document.querySelectorAll("main *")].filter(e => {
    const holder = e.closest(".table");
    return e.getBoundingClientRect().right > innerWidth + 1 && !(holder && holder !== e);
  }).map(e => e.tagName + "." + e.className).slice(0, 5);
  const svg = document.querySelector("#charts svg");
  const box = svg.getBoundingClientRect();
  const key = () => svg.parentElement.querySelector(".key").textContent;
  const before = key();
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * .6, clientY: box.top + 20}));
  const during = key();
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  const style = (e, name) => getComputedStyle(e)[name];
  const found = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, wide,
    charts: document.querySelectorAll("#charts figure").length,
    paths: document.querySelectorAll("#charts path").length,
    samples: document.querySelectorAll("#samples .sample").length,
    wrong: document.querySelectorAll("#wrong .sample").length,
    facts: document.querySelectorAll("#wrong .sample .fact").length,
    folded: [...document.querySelectorAll("#wrong details")].every(e => !e.open),
    bars: [...document.querySelectorAll("#lengths .bar")].map(e => e.querySelector("i").getBoundingClientRect().width / e.getBoundingClientRect().width),
    intervals: document.querySelectorAll("#charts .interval").length,
    rows: document.querySelectorAll("#settings tr").length,
    before, during, after: key(),
    page: style(document.body, "backgroundColor"), ink: style(document.body, "color"),
    milliseconds: Math.round(performance.now()),
  };
  document.title = "FOUND " + JSON.stringify(found);
}, 50));
</script>
"""


def chromium():
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome", "chrome"]
    return next((path for name in names if (path := shutil.which(name))), None)


def browse(browser, place, page, size, dark, *more, timeout=300):
    arguments = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000",
        f"--user-data-dir={place}/profile", f"--window-size={size[0]},{size[1]}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", *more, page.as_uri(),
    ]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=True).stdout


def works(browser, place):
    """Whether the browser runs at all: in some containers it does not."""
    empty = place / "empty.html"
    empty.write_text("<title>empty</title>")
    try:
        return "<title>empty</title>" in browse(browser, place, empty, SIZES[0], False, "--dump-dom", timeout=60)
    except (subprocess.SubprocessError, OSError):
        return False


def framed(place, page, width):
    """A window cannot be narrower than about 500 pixels; a frame in it can."""
    frame = place / f"frame-{width}.html"
    frame.write_text(f'<body style="margin:0"><iframe src="{page.name}" style="border:0;width:{width}px;height:1600px">'
                     "</iframe><script>setInterval(() => document.title = frames[0].document.title, 50)</script>")
    return frame


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def trained(program, place):
    """Two short runs of the embedded base, and a run of 100,000 log lines."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    def run(*arguments):
        subprocess.run([program, *arguments], cwd=place, env=environment, check=True, capture_output=True)
    settings = ["--set", "train.sample_steps=10", "--set", "watch.max_reward=0.05"]
    for rate in ["1e-3", "3e-4"]:
        run("train", "--set", "train.max_steps=30", "--set", "train.logging_steps=1", "--set", "train.eval_steps=10",
            "--set", f"output_dir=runs/rate-{rate}", "--set", f"train.learning_rate={rate}", *settings)
    large = place / "runs/large"
    large.mkdir()
    lines = ({"step": i, "loss": 0.7 / (1 + i / 1e4), "rewards/margins": i / 1e5, "grad_norm": 1 + i % 7} for i in range(1, 100_001))
    (large / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pages = {}
    for name, runs in [("one", ["rate-1e-3"]), ("two", ["rate-1e-3", "rate-3e-4"]), ("large", ["large"])]:
        pages[name] = place / f"{name}.html"
        run("report", *[f"runs/{r}" for r in runs], "--output", str(pages[name]))
    return pages


def check(name, found, width, dark):
    problems = []
    def require(holds, what):
        if not holds:
            problems.append(f"{name} at {width} pixels, {'dark' if dark else 'light'}: {what}")
    require(found["width"] == width, f"the width is {found['width']}")
    require(found["scroll"] <= width, f"the page is {found['scroll']} pixels wide; {found['wide']}")
    require(not found["wide"], f"too wide: {found['wide']}")
    require(found["charts"] >= (3 if name == "large" else 8), f"{found['charts']} charts")
    require(found["paths"] >= found["charts"], f"{found['paths']} curves in {found['charts']} charts")
    require(found["samples"] == {"one": 3, "two": 3, "large": 0}[name], f"{found['samples']} samples")
    require(found["rows"] >= (1 if name == "large" else 40), f"{found['rows']} rows of settings")
    require("step" in found["during"] and found["during"] != found["before"] == found["after"], "a pointer shows nothing")
    require(contrast(found["page"], found["ink"]) >= 7, f"ink {found['ink']} on {found['page']}")
    require((luminance(found["page"]) < 0.2) == dark, f"the page is {found['page']}")
    least, most = {"one": (1, WRONG), "two": (2, 2 * WRONG), "large": (0, 0)}[name]
    require(least <= found["wrong"] <= most, f"{found['wrong']} wrong pairs")
    require(found["facts"] == 3 * found["wrong"] and found["folded"], "a wrong pair lacks margins or origin, or all are open")
    require(len(found["bars"]) >= {"one": 2, "two": 4, "large": 0}[name], f"{len(found['bars'])} bars")
    require(all(0 <= bar <= 1 for bar in found["bars"]), f"bars of {found['bars']}")
    require(found["intervals"] == {"one": 2, "two": 4, "large": 0}[name], f"{found['intervals']} intervals")
    print(f"{name} at {width} pixels: drawn after {found['milliseconds']} ms")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path)
    arguments = parser.parse_args()
    browser = chromium()
    if browser is None:
        print("there is no chromium; install one, or set CHROMIUM")
        return 77
    problems = []
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        if not works(browser, place):
            print("this chromium does not show an empty page within a minute; nothing was checked")
            return 77
        pages = trained(arguments.program.resolve(), place)
        for name, page in pages.items():
            probed = place / f"{name}-probed.html"
            probed.write_text(page.read_text() + PROBE)
            for size in SIZES:
                for dark in [False, True]:
                    shown = probed if size[0] > 500 else framed(place, probed, size[0])
                    dom = browse(browser, place, shown, (max(size[0], 600), size[1]), dark,
                                 "--allow-file-access-from-files", "--dump-dom")
                    title = re.search(r"<title>FOUND (.*?)</title>", dom, re.S)
                    if not title:
                        problems.append(f"{name} at {size[0]} pixels: the page's script fails")
                        continue
                    found = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
                    problems += check(name, found, size[0], dark)
                    if arguments.keep:
                        arguments.keep.mkdir(parents=True, exist_ok=True)
                        picture = arguments.keep.resolve() / f"{name}-{size[0]}-{'dark' if dark else 'light'}.png"
                        clean = page if size[0] > 500 else framed(place, page, size[0])
                        browse(browser, place, clean, (max(size[0], 600), size[1]), dark, f"--screenshot={picture}")
    for problem in problems:
        print(f"error: {problem}")
    print(f"{len(pages)} pages, {len(SIZES)} widths, light and dark: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
