"""Drives a headless Chromium over the DevTools protocol, by its pipe (--remote-debugging-pipe).

The protocol: https://chromedevtools.github.io/devtools-protocol/. A message is JSON that ends with a zero byte;
Chromium reads from file descriptor 3 and writes to 4.
"""

from __future__ import annotations  # Python 3.8 runs the tests of deploy/ too

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
SECONDS = 30.0


class Browser:
    """A page of a browser of its own.

    Attributes:
        problems: uncaught errors and the console's error messages, among them what a Content-Security-Policy refused.
        requested: the URLs that the page has asked for.
    """

    def __init__(self, profile: Path) -> None:
        """Starts Chromium with a new profile in the folder `profile`; skips the test where there is none."""
        if CHROMIUM is None:
            pytest.skip("no Chromium to load the page with")
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()
        words = [CHROMIUM, *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        shell = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self.buffer, self.number, self.session = b"", 0, None
        self.problems: list[str] = []
        self.requested: list[str] = []
        [target] = [each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command; returns its result."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.commands, data) :]
        end = time.monotonic() + SECONDS
        while True:
            answer = self.receive(end - time.monotonic())
            assert answer is not None, f"Chromium did not answer {method}"
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Returns the next message, once it is noted; None after so many seconds without one."""
        while b"\0" not in self.buffer:
            if not select.select([self.answers], [], [], max(0.0, seconds))[0]:
                return None
            data = os.read(self.answers, 1 << 20)
            assert data, "Chromium has ended"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        details = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(details["exceptionDetails"]))
        if message.get("method") == "Runtime.consoleAPICalled" and details["type"] == "error":
            self.problems.append(json.dumps(details["args"]))
        if message.get("method") == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(details["entry"]["text"])
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(details["request"]["url"])
        return message

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression of JavaScript, once it has been awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = SECONDS) -> Any:
        """Waits until an expression is true; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.evaluate(script)
            if value:
                return value
            time.sleep(0.05)
        shown = self.evaluate("document.body?.innerText?.slice(0, 500)")
        raise AssertionError(f"not so within {seconds:g} s: {script}; the page says {shown!r}")

    def open(self, url: str, ready: str = "true") -> None:
        """Opens a page, and waits until it is loaded and the script `ready` is true."""
        self.send("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete' && {ready}")

    def upload(self, selector: str, path: Path) -> None:
        """Chooses a file in an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str, code: int) -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def show(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the size of the window in pixels, and whether the user prefers dark colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """Saves what the window shows."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Ends Chromium."""
        try:
            self.session = None
            self.send("Browser.close")
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.commands)
            os.close(self.answers)
