"""A headless Chromium for the tests of pages; they are skipped where there is none."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def start(folder: Path, *, size: tuple[int, int] = (1280, 900)) -> Any:
    """A driver of Chromium; what it downloads goes to ``folder``."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def wait_for(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Waits until a condition is true, and returns its value.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError("the page never came to what was waited for")


def complaints(driver: Any) -> list[str]:
    """Messages in the browser's console."""
    return [entry["message"] for entry in driver.get_log("browser")]


def save_screenshot(driver: Any, name: str) -> None:
    """Keep a picture of the page in $DEHAZE_SCREENSHOTS, where that is set."""
    folder = os.environ.get("DEHAZE_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium in a window of 1280 x 900."""
    folder = tmp_path / "browser"
    folder.mkdir()
    driver = start(folder)
    yield driver
    driver.quit()
