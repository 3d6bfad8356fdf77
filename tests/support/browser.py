# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven through its DevTools protocol over two pipes: messages in JSON, each ended by a NUL.

The browser has no network: every name and address is mapped to nothing, and the tests count its requests.
"""

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

PATIENCE_S: Final = 120.0  # a busy machine takes its time for a new page
_OPTIONS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--password-store=basic", "--remote-debugging-pipe",
)  # fmt: skip
_HANDS_OVER: Final = 'exec 100<&{} 101>&{}; exec "$@" 3<&100 4>&101 100<&- 101>&-'
_KEYS: Final = {"Enter": ("\r", 13), "Escape": ("", 27), " ": (" ", 32)}


def program() -> str:
    """Return the path of the browser; AssertionError where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "there is no chromium, which `make packages-browser` installs for root (Debian: chromium)"
    return found


def needed() -> None:
    """Skip the tests of the caller where there is no browser, with the way to one."""
    try:
        program()
    except AssertionError as error:
        pytest.skip(f"{error}; not every distribution has a package of it")


class Browser:
    """One page in a browser.

    Attributes:
        events: what the page has reported: requests, exceptions, messages of the console, dialogs.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._ids = itertools.count(1)
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")
        self.resize(1280, 800)

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """Prefer a colour scheme: light or dark."""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a page of ckptree, and wait until it obeys."""
        self._ask("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")  # else another fragment of the same page would load nothing
        said = self._ask("Page.navigate", url=f"{path.resolve().as_uri()}{fragment}")
        assert "errorText" not in said, f"{path}: {said['errorText']}"
        self.wait("document.documentElement?.dataset.ready !== undefined")
        self.settle()

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.js(f"!!({condition})"):
            assert time.monotonic() < end, f"the page never came to {condition}; it reported {self.complaints()}"
            time.sleep(0.02)

    def js(self, expression: str) -> Any:
        """Return the value of an expression within the page."""
        said = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn what was asked of it."""
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def press(self, *keys: str) -> None:
        """Press keys, by their names in KeyboardEvent.key, one after the other."""
        for key in keys:
            text, code = _KEYS.get(key, (key if len(key) == 1 else "", ord(key) if len(key) == 1 else 0))
            for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
                said = {"text": text} if kind == "keyDown" else {}
                self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **said)
        self.settle()

    def click(self, x: float, y: float) -> None:
        """Click at a place of the page."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, buttons=1)
        self.settle()

    def drag(self, begin: tuple[float, float], *ways: tuple[float, float]) -> None:
        """Press at a place of the page, go to others, and let go at the last one."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=begin[0], y=begin[1])
        places = [("mousePressed", begin), *[("mouseMoved", way) for way in ways], ("mouseReleased", ways[-1])]
        for kind, (x, y) in places:
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, buttons=1)
        self.settle()

    def touch(self, *steps: list[tuple[float, float]]) -> None:
        """Put fingers on the page, move them to the places of each further step, and take them away."""
        for place, fingers in enumerate([*steps, []]):
            kind = "touchStart" if not place else "touchMove" if fingers else "touchEnd"
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
            self._ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.settle()

    def screenshot(self) -> bytes:
        """Return a picture of the page, as PNG."""
        return b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked for, its own aside."""
        urls = [each["params"]["request"]["url"] for each in self._named("Network.requestWillBeSent")]
        return [url for url in urls if url != "about:blank" and not url.partition("#")[0].endswith(".html")]

    def complaints(self) -> list[dict[str, Any]]:
        """Return exceptions, errors that the browser logged, messages of the console, and dialogs."""
        kinds = (
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Page.javascriptDialogOpening",
        )
        return [event for kind in kinds for event in self._named(kind)]

    def _named(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") == method]

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        mine = next(self._ids)
        message = {"id": mine, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == mine:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise AssertionError(f"the browser ended, or was silent for {PATIENCE_S:g} s after {method}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            message, nul, rest = self._rest.partition(b"\0")
            if nul:
                self._rest = rest
                yield json.loads(message)
                continue
            if not select.select([self._from], [], [], PATIENCE_S)[0]:
                return
            more = os.read(self._from, 1 << 20)
            if not more:
                return
            self._rest += more


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Yield a browser with an empty page; it ends with the block."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(prefix="ckptree-browser-", ignore_cleanup_errors=True) as home:
        # The browser reads from descriptor 3 and writes to 4: a shell puts them there.
        started = subprocess.Popen(
            ["bash", "-c", _HANDS_OVER.format(theirs_in, theirs_out), "bash", program(), *_OPTIONS,
             f"--user-data-dir={home}"],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": home}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(ours_out, ours_in)
        finally:
            os.close(ours_out)  # a browser whose pipe closes ends
            os.close(ours_in)
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
