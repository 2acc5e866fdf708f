"""A headless Chromium, spoken to through its own pipe (the DevTools protocol): no port, no driver.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 30
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class Page:
    """A page of it."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._text = b""
        self._number = 0
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def open(self, address: str) -> None:
        """Go there, and wait until it is shown."""
        self._ask("Page.enable", self._session)
        self._ask("Page.navigate", self._session, url=address)
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """What a JavaScript expression is; a promise is waited for."""
        answer = self._ask(
            "Runtime.evaluate", self._session, expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, file: Path) -> None:
        """A screenshot, as PNG."""
        file.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", self._session)["data"]))

    def _ask(self, method: str, session: dict[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters} | (session or {})
        os.write(self._write, json.dumps(order).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._text:
            assert select.select([self._read], [], [], LIMIT_SECONDS)[0], "the browser says nothing"
            more = os.read(self._read, 65536)
            assert more, "the browser has gone"
            self._text += more
        text, _, self._text = self._text.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Page]:
    """A browser of its own with an empty page; at the end it is gone."""
    (orders, write), (read, answers) = os.pipe(), os.pipe()
    command = [program, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={folder}"]

    def take_ends() -> None:  # the browser reads its descriptor 3 and writes to 4
        first, second = os.dup(orders), os.dup(answers)
        os.dup2(first, 3)
        os.dup2(second, 4)

    process = subprocess.Popen(
        command, preexec_fn=take_ends, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(orders)
    os.close(answers)
    try:
        with process:
            try:
                page = Page(write, read)
                yield page
                page._ask("Browser.close")
            except BaseException:
                process.kill()
                raise
    finally:
        os.close(write)
        os.close(read)
