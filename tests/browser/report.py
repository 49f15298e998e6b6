"""Looks at a run's report in headless Chromium, at 1280 and 390 pixels, light and dark, and drives it.

    python3 tests/browser/report.py target/release/dpo-lora            # exits with 1 if something is wrong, 77 without Chromium
    python3 tests/browser/report.py target/release/dpo-lora --keep DIR # the screenshots, to look at

It needs only a `chromium` in the path (or CHROMIUM=PATH) and Python: a page that is measured prints what it finds into its
own title, through a script that this test adds, and `--dump-dom` shows it. How fast a page is drawn is measured by the clock,
with the browser's own tools (its DevTools protocol through a pipe): the time to the first paint, and from one frame to the next
while a pointer moves over a chart and while every chart is zoomed.
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

# The names of two runs, one of them without a place to break.
SHORT, LONG = "rate-1e-3", "rate-3e-4-" + 190 * "x"

SIZES = [(1280, 1600), (390, 1600)]

# Log lines of the long run, and its bounds in milliseconds: to the first paint, between two frames (the 95th of 100) while a
# pointer moves, and while all charts are zoomed. Where other programs take the processor they are longer, by the time of a loop
# that takes LOOP milliseconds on an idle one.
LINES = 100_000
PAINT, HOVER, ZOOM = 3000, 50, 150
LOOP = 12

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
    steps: [...document.querySelectorAll("#charts figure > svg")].map(e => [...e.querySelectorAll(".step")].map(t => [Number(t.textContent), Number(t.getAttribute("x"))])),
    before, during, after: key(),
    page: style(document.body, "backgroundColor"), ink: style(document.body, "color"),
    milliseconds: Math.round(performance.now()),
  };
  document.title = "FOUND " + JSON.stringify(found);
}, 50));
</script>
"""


# Frames of a page: the milliseconds between two of them while `work(i)` is done in each.
FRAMES = """
(async () => {
  const frames = (n, work) => new Promise(done => {
    const took = [];
    let last;
    const tick = now => {
      if (last !== undefined) took.push(now - last);
      last = now;
      if (took.length === n) return done(took.sort((a, b) => a - b));
      work(took.length / n);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  const loops = [1, 2, 3, 4, 5].map(() => {
    const since = performance.now();
    let sum = 0;
    for (let i = 0; i < 1e7; i++) sum += i;
    return sum > 0 ? performance.now() - since : 0;
  });
  const svg = document.querySelector("#charts svg"), box = svg.getBoundingClientRect();
  const hover = await frames(100, share =>
    svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * share, clientY: box.top + 20})));
  const zoomed = await frames(60, share => zoom([1e5 * share / 2, 1e5 * (1 - share / 2.1)]));
  const points = document.querySelector("#charts path").getAttribute("d").split("L").length;
  zoom(null);
  const most = Math.max(...[...document.querySelectorAll("#charts path")].map(e => e.getAttribute("d").split("L").length));
  return {
    paint: performance.getEntriesByName("first-contentful-paint")[0].startTime, hover, zoomed, points, most,
    loop: loops.sort((a, b) => a - b)[2], width: box.width, top: box.top, left: box.left,
  };
})()
"""


class Browser:
    """A Chromium that is driven through a pipe: https://chromedevtools.github.io/devtools-protocol."""

    def __init__(self, browser, place):
        (read, self.to), (self.back, write) = os.pipe(), os.pipe()
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place}/driven", "--remote-debugging-pipe"]
        command = ["sh", "-c", f'exec "$0" "$@" 3<&{read} 4>&{write}', browser, *arguments, "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(read, write), stderr=subprocess.DEVNULL)
        os.close(read)
        os.close(write)
        self.rest, self.number, self.session, self.events = b"", 0, None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def message(self):
        while b"\0" not in self.rest:
            found = os.read(self.back, 1 << 20)
            if not found:
                raise RuntimeError("the browser has ended")
            self.rest += found
        first, self.rest = self.rest.split(b"\0", 1)
        return json.loads(first)

    def ask(self, method, **parameters):
        self.number += 1
        asked = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.to, json.dumps(asked).encode() + b"\0")
        while True:
            found = self.message()
            if found.get("id") == self.number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found.get("method"))

    def open(self, page, size):
        self.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in self.events:
            self.events.append(self.message().get("method"))

    def evaluate(self, script):
        result = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def mouse(self, kind, x, y):
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def close(self):
        os.close(self.to)
        os.close(self.back)
        self.process.terminate()
        self.process.wait(30)


def smooth(browser, place, page):
    """What is wrong with how fast the page of a long run is drawn, and with how a pointer zooms it."""
    driven = Browser(browser, place)
    try:
        driven.open(page, (1280, 900))
        found = driven.evaluate(FRAMES)
        slow = max(1, found["loop"] / LOOP)
        middle, late = (lambda times: times[len(times) // 2]), (lambda times: times[len(times) * 95 // 100])
        print(f"{LINES} log lines, a page of {page.stat().st_size / 1e6:.1f} MB: first paint after {found['paint']:.0f} ms; "
              f"a frame takes {middle(found['hover']):.0f} ms ({late(found['hover']):.0f} ms for 95 of 100) while a pointer moves, "
              f"{middle(found['zoomed']):.0f} ms ({late(found['zoomed']):.0f} ms) while all charts are zoomed; "
              f"{found['most']} points in the longest curve; the processor is {slow:.1f} times as slow as an idle one")
        problems = [
            f"{what} takes {took:.0f} ms, more than {slow * bound:.0f}"
            for what, took, bound in [("the first paint", found["paint"], PAINT), ("a frame under a pointer", late(found["hover"]), HOVER),
                                      ("a frame of a zoom", late(found["zoomed"]), ZOOM)]
            if took > slow * bound
        ]
        if found["most"] > 4 * found["width"] or found["points"] < 50:
            problems.append(f"{found['most']} points on {found['width']} pixels, {found['points']} when zoomed")
        y = found["top"] + 60
        left, right = (found["left"] + share * found["width"] for share in (.4, .6))
        for kind, x in [("mousePressed", left), ("mouseMoved", (left + right) / 2), ("mouseReleased", right)]:
            driven.mouse(kind, x, y)
        shown = driven.evaluate('document.getElementById("shown").textContent')
        if not re.search(r"steps \d+ to \d+all steps", shown):
            problems.append(f"a drag shows {shown!r}")
        driven.evaluate('document.querySelector("#shown button").click()')
        if "Drag over" not in driven.evaluate('document.getElementById("shown").textContent'):
            problems.append("the button does not show all steps again")
        return problems
    finally:
        driven.close()


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
    for name, rate in [(SHORT, "1e-3"), (LONG, "3e-4")]:
        run("train", "--set", "train.max_steps=30", "--set", "train.logging_steps=1", "--set", "train.eval_steps=10",
            "--set", f"output_dir=runs/{name}", "--set", f"train.learning_rate={rate}", *settings)
    large = place / "runs/large"
    large.mkdir()
    names = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected", "learning_rate", "kl",
             "tokens_per_second", "memory_gb", "peak_memory_gb"]
    def line(i):
        noise = {name: (i * 7919 * (n + 1) % 10_007) / 10_007 for n, name in enumerate(names)}
        return {"step": i, "loss": 0.7 / (1 + i / 1e4), "rewards/margins": i / 1e5, "grad_norm": 1 + i % 7, **noise, "time": 1.7e9 + i}
    lines = (line(i) for i in range(1, LINES + 1))
    (large / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pages = {}
    # A run of one step, evaluated before and after it.
    run("train", "--set", "train.max_steps=1", "--set", "output_dir=runs/short", *settings)
    for name, runs in [("one", [SHORT]), ("two", [SHORT, LONG]), ("step", ["short"]), ("large", ["large"])]:
        pages[name] = place / f"{name}.html"
        run("report", *[f"runs/{r}" for r in runs], "--output", str(pages[name]))
    return pages


def placed(labels):
    """Whether steps stand where a straight scale has them."""
    (first, left), (last, right) = labels[0], labels[-1]
    return all(step == int(step) and abs(x - left - (step - first) / (last - first) * (right - left)) < 1 for step, x in labels)


def check(name, found, width, dark):
    problems = []
    def require(holds, what):
        if not holds:
            problems.append(f"{name} at {width} pixels, {'dark' if dark else 'light'}: {what}")
    require(found["width"] == width, f"the width is {found['width']}")
    require(found["scroll"] <= width, f"the page is {found['scroll']} pixels wide; {found['wide']}")
    require(not found["wide"], f"too wide: {found['wide']}")
    require(found["charts"] >= (3 if name == "large" else 8), f"{found['charts']} charts")
    for labels in found["steps"]:
        require(len(labels) >= 2 and placed(labels), f"the steps of an axis, {labels}, are not whole or not at their places")
    require(found["paths"] >= found["charts"], f"{found['paths']} curves in {found['charts']} charts")
    require(found["samples"] == {"one": 3, "two": 3, "step": 3, "large": 0}[name], f"{found['samples']} samples")
    require(found["rows"] >= (1 if name == "large" else 40), f"{found['rows']} rows of settings")
    require("step" in found["during"] and found["during"] != found["before"] == found["after"], "a pointer shows nothing")
    require(contrast(found["page"], found["ink"]) >= 7, f"ink {found['ink']} on {found['page']}")
    require((luminance(found["page"]) < 0.2) == dark, f"the page is {found['page']}")
    least, most = {"one": (1, WRONG), "two": (2, 2 * WRONG), "step": (1, WRONG), "large": (0, 0)}[name]
    require(least <= found["wrong"] <= most, f"{found['wrong']} wrong pairs")
    require(found["facts"] == 3 * found["wrong"] and found["folded"], "a wrong pair lacks margins or origin, or all are open")
    require(len(found["bars"]) >= {"one": 2, "two": 4, "step": 2, "large": 0}[name], f"{len(found['bars'])} bars")
    require(all(0 <= bar <= 1 for bar in found["bars"]), f"bars of {found['bars']}")
    require(found["intervals"] == {"one": 2, "two": 4, "step": 2, "large": 0}[name], f"{found['intervals']} intervals")
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
        problems += smooth(browser, place, pages["large"])
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
