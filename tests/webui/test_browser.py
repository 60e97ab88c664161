"""The page in a real Chromium: upload, slider, download, broken files, two tabs, a phone."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, complaints, save_screenshot, start, wait_for

from dehaze.photos import read_photo
from dehaze.pipelines.dehaze import DehazePipeline

__all__ = ["browser"]

Photos = dict[str, Path]


ENTER, RIGHT = "\ue007", "\ue014"


def choose(driver: Any, *paths: Path) -> None:
    driver.find_element("id", "files").send_keys("\n".join(map(str, paths)))


def open_page(driver: Any, address: str) -> None:
    driver.get(address)
    wait_for(lambda: driver.find_element("id", "word").get_property("value") == "haze")


def items(driver: Any) -> list[Any]:
    return list(driver.find_elements("css selector", "#strip button"))


def wait_until_ready(driver: Any, count: int) -> None:
    shown = "return document.querySelectorAll('#strip canvas, #strip .failed').length"
    wait_for(lambda: driver.execute_script(shown) == count)
    wait_for(lambda: not driver.find_element("id", "busy").is_displayed())


def downloaded(folder: Path, name: str) -> Path:
    path = folder / name
    wait_for(lambda: path.is_file() and not list(folder.glob("*.crdownload")))
    return path


def set_value(driver: Any, field: str, value: object) -> None:
    driver.execute_script(
        "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
        "f.dispatchEvent(new Event('input')); f.dispatchEvent(new Event('change'));",
        field,
        str(value),
    )


def picture_on_the_right(driver: Any) -> str:
    return str(driver.execute_script("return document.querySelector('#view .right').src"))


def test_photos_go_in_and_come_back(
    browser: Any, page: str, photos: Photos, tmp_path: Path, random_model: Path
) -> None:
    open_page(browser, page)
    assert browser.find_element("id", "empty").is_displayed()
    save_screenshot(browser, "page-empty")
    choose(browser, *photos.values())
    wait_until_ready(browser, 4)
    save_screenshot(browser, "page")

    wide = "return [...document.querySelectorAll('#view img')].map(i => i.naturalWidth)"
    assert browser.execute_script(wide) == [180, 180]
    slider = browser.find_element("css selector", "#view input")
    slider.send_keys(RIGHT * 2)
    assert float(slider.get_property("value")) > 50

    browser.find_element("id", "one").click()
    path = downloaded(tmp_path / "browser", "a b.jpg")
    pipe = DehazePipeline.from_pretrained(random_model)
    expected = pipe(read_photo(photos["a b.jpg"]).pixels).image
    # JPEG again.
    assert np.abs(read_photo(path).pixels - expected).mean() < 0.02
    # The console names the broken photo alone.
    assert [line for line in complaints(browser) if "422" not in line] == []


def test_strength_answers_at_once_and_then_exactly(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    choose(browser, photos["größe.png"])
    wait_until_ready(browser, 1)
    whole = picture_on_the_right(browser)
    set_value(browser, "strength", 0.5)
    right = browser.find_element("css selector", "#view .right")
    assert right.get_property("style")  # At once the present picture is blended.
    wait_for(lambda: picture_on_the_right(browser) != whole)
    wait_for(lambda: browser.execute_script("return arguments[0].style.opacity", right) == "1")
    assert browser.find_element("id", "strength-shown").text == "50 %"
    set_value(browser, "strength", 1)
    wait_for(lambda: picture_on_the_right(browser) == whole)


def test_layers_show_attention_and_transmission(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    choose(browser, photos["c.tif"])
    wait_until_ready(browser, 1)
    seen = {picture_on_the_right(browser)}
    for layer in ("attention", "transmission"):
        browser.find_element("css selector", f"[data-layer={layer}]").click()
        wait_for(lambda: picture_on_the_right(browser) not in seen)
        wait_for(lambda: not browser.find_element("id", "busy").is_displayed())
        seen.add(picture_on_the_right(browser))
        save_screenshot(browser, f"page-{layer}")
    assert len(seen) == 3


def test_a_broken_photo_is_named_and_the_others_are_done(
    browser: Any, page: str, photos: Photos, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no photo")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(3_000_000))
    open_page(browser, page)
    choose(browser, photos["broken.jpg"], photos["a b.jpg"], notes, large)
    wait_until_ready(browser, 2)
    said = browser.find_element("id", "messages").text
    assert "notes.txt: is no photo" in said
    assert "large.png: has more than 2 MB" in said
    items(browser)[1].click()
    wait_for(lambda: browser.find_element("id", "numbers").text)
    items(browser)[0].click()
    assert "cut short" in browser.find_element("id", "broken").text
    assert browser.find_element("id", "numbers").text == ""
    save_screenshot(browser, "page-broken")
    assert browser.find_element("id", "all").text == "Download all"
    items(browser)[1].click()
    wait_for(browser.find_element("id", "view").is_displayed)


def test_failed_photos_are_counted_and_one_click_away(
    browser: Any, page: str, photos: Photos
) -> None:
    open_page(browser, page)
    failed = browser.find_element("id", "failed")
    choose(browser, photos["a b.jpg"], photos["c.tif"], photos["broken.jpg"])
    wait_until_ready(browser, 3)
    assert failed.text == "1 failed"
    failed.click()
    assert browser.find_element("id", "name").text == "broken.jpg"
    browser.find_element("id", "remove").click()
    wait_for(lambda: not failed.is_displayed())


def test_all_come_as_one_archive(browser: Any, page: str, photos: Photos, tmp_path: Path) -> None:
    open_page(browser, page)
    choose(browser, *photos.values())
    wait_until_ready(browser, 4)
    browser.find_element("id", "all").click()
    path = downloaded(tmp_path / "browser", "dehazed.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        done = {"a b.jpg", "c.tif", "größe.png", "NOT DONE.txt"}
        assert {*archive.namelist()} - {"NOTES.txt"} == done
        assert "broken.jpg: is cut short" in archive.read("NOT DONE.txt").decode()
        noted = "NOTES.txt" in archive.namelist()
    wait_for(lambda: not browser.find_element("id", "progress").is_displayed())
    said = browser.find_element("id", "messages")
    assert "broken.jpg: is cut short" in said.find_element("class name", "error").text
    assert bool(said.find_elements("class name", "note")) == noted


def test_a_folder_is_named_and_read_where_it_lies(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    folder = photos["c.tif"].parent
    opened = browser.find_element("id", "folder-dialog")
    browser.find_element("id", "folder").click()
    browser.find_element("id", "folder-cancel").click()
    wait_for(lambda: not opened.is_displayed())
    for path, how, expected in ((folder / "none", ENTER, "there is no folder"), (folder, "", "")):
        browser.find_element("id", "folder").click()
        field = browser.find_element("id", "folder-path")
        field.clear()
        field.send_keys(str(path), how)
        if how != ENTER:
            browser.find_element("css selector", "#folder-dialog .main").click()
        if expected:
            wait_for(lambda: "there is no folder" in browser.find_element("id", "messages").text)
    wait_until_ready(browser, 4)
    assert len(list(folder.iterdir())) == 4


def test_the_keyboard_goes_along_the_strip_of_photos(
    browser: Any, page: str, photos: Photos
) -> None:
    open_page(browser, page)
    choose(browser, photos["a b.jpg"], photos["c.tif"], photos["größe.png"])
    wait_until_ready(browser, 3)
    items(browser)[0].send_keys(RIGHT)
    browser.switch_to.active_element.send_keys(RIGHT)
    assert browser.switch_to.active_element == items(browser)[2]
    assert browser.find_element("id", "name").text == "größe.png"


def test_photos_wait_while_the_server_is_away(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    browser.execute_cdp_cmd("Network.enable", {})
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", network | {"offline": True})
    choose(browser, photos["a b.jpg"], photos["c.tif"])
    progress = browser.find_element("id", "progress")
    wait_for(lambda: "cannot be reached" in progress.text)
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", network | {"offline": False})
    wait_until_ready(browser, 2)
    assert not browser.find_element("id", "failed").is_displayed()


def test_two_tabs_do_not_see_each_other(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    choose(browser, photos["a b.jpg"])
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    open_page(browser, page)
    choose(browser, photos["c.tif"], photos["größe.png"])
    wait_until_ready(browser, 2)
    set_value(browser, "strength", 0.2)
    browser.switch_to.window(first)
    wait_until_ready(browser, 1)
    assert browser.find_element("id", "strength").get_property("value") == "1"
    assert [item.text for item in items(browser)] == ["a b.jpg"]


def test_an_unknown_word_is_named_on_the_page(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    choose(browser, photos["a b.jpg"], photos["c.tif"])
    wait_until_ready(browser, 2)
    set_value(browser, "word", "x " * 40)
    problem = browser.find_element("id", "problem")
    wait_for(problem.is_displayed)
    assert "prompt" in problem.text
    items(browser)[1].click()
    wait_for(lambda: not problem.is_displayed())
    items(browser)[0].click()
    wait_for(problem.is_displayed)
    set_value(browser, "word", "fog")
    wait_for(lambda: not problem.is_displayed())


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_a_phone(width: int, page: str, photos: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    driver = start(folder)
    try:
        screen = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        open_page(driver, page)
        choose(driver, photos["a b.jpg"], photos["c.tif"])
        wait_until_ready(driver, 2)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        # The photo in view is not pushed out of it by the row of all photos.
        shown = driver.execute_script(
            "const view = document.getElementById('view').getBoundingClientRect();"
            "const head = document.querySelector('header').getBoundingClientRect();"
            "return [view.top - head.bottom, innerHeight - view.bottom]"
        )
        assert min(shown) >= 0
        for name in ("add", "strength", "one"):
            box = driver.find_element("id", name).rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        save_screenshot(driver, f"page-{width}")
        # What went wrong is in sight, wherever the page is scrolled to.
        (tmp_path / "notes.txt").write_text("no photo")
        choose(driver, tmp_path / "notes.txt")
        said = wait_for(lambda: driver.find_element("css selector", "#messages .error"))
        assert driver.execute_script(
            "const box = arguments[0].getBoundingClientRect();"
            "return box.top >= 0 && box.bottom <= innerHeight",
            said,
        )
    finally:
        driver.quit()


def test_nothing_is_fetched_from_elsewhere(browser: Any, page: str, photos: Photos) -> None:
    open_page(browser, page)
    choose(browser, photos["a b.jpg"])
    wait_until_ready(browser, 1)
    browser.get(f"{page}/docs")
    wait_for(lambda: "POST /v1/dehaze/json" in browser.find_element("id", "docs").text)
    save_screenshot(browser, "docs")
    assert complaints(browser) == []
    time.sleep(0.2)
    asked = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert any(url.startswith(page) for url in asked)
    # Requests of Chromium's own pages do not count.
    own = (f"{page}/", "blob:", "data:", "chrome:")
    assert [url for url in asked if not url.startswith(own)] == []
