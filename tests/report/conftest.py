"""A real browser without a window, driven over the pipe that Chromium opens for tools: nothing to install beside it."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load a page at a width in CSS pixels, and wait until it is drawn."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
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
