"""Finds Chromium, or installs Debian's where that is possible, and opens pages in it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
INSTALL = (("apt-get", "update"), ("apt-get", "install", "-y", "--no-install-recommends", "chromium", "fonts-liberation"))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Without one the test is skipped, with a reason; in CI it fails."""
    path = find()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: set MILSCOPE_CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@cache
def find() -> str | None:
    """The path of a Chromium: the one named by MILSCOPE_CHROMIUM, one on PATH, or Debian's, installed now."""
    named = os.environ.get("MILSCOPE_CHROMIUM")
    if named:
        return named
    return _on_path() or (_on_path() if _install() else None)


def _on_path() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def _install() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("apt-get"):
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return all(subprocess.run(step, env=environment, capture_output=True, timeout=600, check=False).returncode == 0
               for step in INSTALL)
