"""The page, in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.web.browser import browser
from tests.web.serving import ENDLESS, SERVERS, ends, started

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

WATCH = """
    new Promise(seen => {
        const texts = [], bar = document.getElementById("bar");
        const look = () => {
            const text = document.getElementById("state").textContent;
            texts.push([text, bar.value]);
            if (%s) { watcher.disconnect(); seen(texts); }
        };
        const watcher = new MutationObserver(look);
        watcher.observe(document.body, {subtree: true, childList: true, attributes: true});
        %s
    })
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian's package `chromium`)")
def test_progress_and_cancel(tmp_path: Path) -> None:
    """A job's progress moves the bar while it runs, to its end; the cancel button stops another one."""
    assert CHROMIUM
    with (
        started(SERVERS["fastapi"], tmp_path, workers=1) as server,
        browser(CHROMIUM, tmp_path) as page,
    ):
        page.open(f"http://127.0.0.1:{server.port}/")
        page.run('document.getElementById("below").value = 300000')
        start = 'document.getElementById("start").click();'
        seen = page.run(WATCH % ('text === "done"', start))
        values = [value for text, value in seen if text == "running"]
        assert values == sorted(values)
        assert len({value for value in values if 0 < value < 1}) > 3
        assert seen[-1] == ["done", 1]
        page.run(f'document.getElementById("below").value = {ENDLESS}')
        page.run(WATCH % ('text === "running" && bar.value', start))
        page.picture(tmp_path / "running.png")
        worker = server.hear(f"works below {ENDLESS}")
        with ends(worker):
            seen = page.run(WATCH % ('text === "cancelled"', 'document.getElementById("cancel").click();'))
        assert page.run('document.getElementById("cancel").disabled')
