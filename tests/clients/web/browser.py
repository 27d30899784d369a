"""A real browser without a window."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def launch() -> Iterator[Browser]:
    """The machine's Chromium; without one the test is skipped, or fails where DIGITS_REQUIRE_BROWSER is set."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = pytest.fail if os.environ.get("DIGITS_REQUIRE_BROWSER") else pytest.skip
        missing("no Chromium is installed; on Debian and Ubuntu: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        # A busy machine must not fail what works.
        expect.set_options(timeout=20_000)
        yield playwright.chromium.launch(executable_path=path, args=arguments)
