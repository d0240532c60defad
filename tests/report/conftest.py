"""A report with everything in it, and a real browser, driven over the pipe that Chromium opens for tools."""

import copy
import importlib.resources
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

LATENCY = {"p50": 4.0, "p90": 5.0, "p99": 6.0, "batch": 1, "runtime": "ort-cpu", "threads": 1}
BASELINE = {
    "name": "baseline",
    "options": {},
    "seconds": 0.0,
    "accuracy": 0.9,
    "eval_samples": 1000,
    "params": 2_000_000,
    "nonzero_params": 1_900_000,
    "macs": 80_000_000,
    "size_bytes": 8_000_000,
    "latency_ms": LATENCY,
    "notes": [],
}
HALF = {"params": 500_000, "macs": 20_000_000, "size_bytes": 2_000_000, "latency_ms": {**LATENCY, "p50": 2.0, "p90": 2.5}}
PRUNED = {**BASELINE, **HALF, "name": "prune_channels", "accuracy": 0.5, "notes": ["2 layers narrowed"]}


def epoch(number: int, loss: float, score: float | None) -> dict[str, Any]:
    seen = {"number": number, "steps": 4 * number, "samples": 64 * number, "loss": loss, "accuracy": 0.25 * number}
    return {**seen, "score": score, "lr": 0.01, "seconds": 1.5, "waiting": 0.125}


def timed(file: str, p50: float, speedup: float, threads: int) -> dict[str, Any]:
    latency = {**LATENCY, "p50": p50, "p90": 1.2 * p50, "p99": 1.5 * p50, "threads": threads}
    counts = {"low_ms": 0.9 * p50, "high_ms": 1.5 * p50, "counts": [30, 10, *[0] * 36, 4, 5], "above": 1}
    ratio = {"speedup": speedup, "speedup_interval": [speedup - 0.25, speedup + 0.25]}
    return {"file": file, "latency_ms": latency, "histogram": counts, "throughput": 9.0, "peak_memory_bytes": None, **ratio}


def layer(name: str, before: int | None, after: int | None, sparsity: float | None) -> dict[str, Any]:
    return {"name": name, "width_before": before, "width_after": after, "sparsity": sparsity}


def full_report() -> dict[str, Any]:
    """Pruned, trained, quantized within a bound: something in every section of the page."""
    trained = {**PRUNED, "name": "finetune", "accuracy": 0.85, "details": {"training": [epoch(1, 2.0, 0.6), epoch(2, 1.0, 0.7)]}}
    trial = {"in_float": ["fc"], "score": 0.86, "drop": 0.01, "latency_ms": 0.8, "extra_ms": 0.1, "seconds": 4.0}
    end = {"name": "int8", "accuracy": 0.88, "size_bytes": 500_000, "latency_ms": {**LATENCY, "p50": 0.8, "p90": 1.0}}
    exact = {"top1_agreement": 1.0, "max_rel_error": 0.01, "samples": 256, "ties": 2, "on": "evaluation"}
    return copy.deepcopy(
        {
            "version": 1,
            "model": "net",
            "input_shape": [[1, 3, 8, 8]],
            "data": "digits",
            "seed": 7,
            "environment": {
                "python": "3.11.7",
                "system": "Linux x86_64",
                "versions": {"torch": "2.13.0", "onnxruntime": "1.31.1"},
                "cpu": "A CPU",
                "isa_flags": ["avx2", "avx512_vnni"],
                "cores": 2,
                "threads": 1,
                "gpu": None,
            },
            "stages": [
                BASELINE,
                PRUNED,
                trained,
                {**PRUNED, **end, "notes": ["bound held"], "details": {"guard": {"trials": [trial]}}},
            ],
            "summary": {"speedup": 6.0, "speedup_interval": [5.75, 6.25], "size_ratio": 16.0, "accuracy_drop": 0.02},
            "parity": exact,
            "integer_coverage": {
                "conv": [1, 2],
                "linear": [1, 1],
                "add": [0, 0],
                "left_in_float": [{"name": "fc", "reason": "kept for the accuracy"}],
            },
            "benchmarks": [timed("baseline.onnx", 4.2, 1.0, 1), timed("model.onnx", 0.7, 6.0, 1)],
            "fp16": {"file": "model-fp16.onnx", "size_bytes": 1_000_000, "parity": exact},
            "layers": [
                layer("conv1", 64, 32, 0.5),
                layer("fc", 10, 10, 0.0),
                layer("mix", 8, None, None),
                layer("mix.a", None, 4, 0.0),
            ],
        }
    )


@pytest.fixture
def report() -> dict[str, Any]:
    """That report, for the test to change."""
    content = full_report()
    schema = json.loads(importlib.resources.files("compress.report").joinpath("schema.json").read_text())
    jsonschema.validate(content, schema)
    return content


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60


class Browser:
    """Chrome DevTools Protocol over file descriptors 3 and 4: JSON messages that end in a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        read, to_browser = os.pipe()
        self.answers, write = os.pipe()
        self.to_browser = to_browser

        def as_3_and_4() -> None:
            high = [os.dup(read), os.dup(write)]  # first away, so that neither is closed by the other
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=as_3_and_4,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.number, self.buffer, self.session = 0, b"", ""
        self.said: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers; what the page says meanwhile goes to `said`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, page: Path, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Load a page at a width in CSS pixels, and wait until it is drawn."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.said.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while self.value("document.readyState") != "complete":
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Of JavaScript, in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.to_browser)
        os.close(self.answers)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser has not answered for {SECONDS} seconds"
            piece = os.read(self.answers, 1 << 16)
            assert piece, "the browser has ended"
            self.buffer += piece
        text, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(text)
        event, params = message.get("method"), message.get("params", {})
        if event == "Runtime.consoleAPICalled":
            self.said.append(f"{params['type']}: {params['args']}")
        elif event == "Runtime.exceptionThrown":
            self.said.append(f"exception: {params['exceptionDetails']}")
        elif event == "Log.entryAdded":
            self.said.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            self.said.append(f"request: {params['request']['url']}")
        return message


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH; on Debian: apt-get install chromium")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()
