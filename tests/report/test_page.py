"""The page of a report: its contents, and its behaviour in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, complaints, save_screenshot, wait_for

from dehaze.photos import PhotoError
from dehaze.report import Column, Entry, Layer, Report, render_report, thumbnail, write_report

__all__ = ["browser"]

HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028.jpg"


def picture(level: float, size: tuple[int, int] = (60, 90)) -> bytes:
    return thumbnail(np.full((*size, 3), level, np.float32), side=1000)


def entry(name: str, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "layers": (
            Layer("photo", picture(0.7)),
            Layer("result", picture(0.3)),
            Layer("transmission", picture(0.5)),
        ),
        "values": {"density": 0.4},
        "size": (90, 60),
    }
    return Entry(name, **(values | changes))


def report(*entries: Entry) -> Report:
    columns = (Column("density", "haze", 0, " %", 100.0),)
    return Report("a folder", "2 done", {"strength": "1.0"}, columns, entries)


def described(page: bytes) -> dict[str, Any]:
    (text,) = re.findall(rb'<script type="application/json" id="report">(.*?)</script>', page)
    return dict(json.loads(text))


def test_file_names_cannot_end_the_pages_script() -> None:
    page = render_report(report(entry(HOSTILE)))
    assert described(page)["entries"][0]["name"] == HOSTILE
    assert b"<img src=x" not in page


def test_nothing_is_fetched_from_outside() -> None:
    page = render_report(report(entry("a.jpg"))).decode()
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.search("https?://", page)


def test_values_that_are_not_finite_are_left_out() -> None:
    page = render_report(report(entry("a.jpg", values={"density": float("inf"), "other": 1.0})))
    assert described(page)["entries"][0]["values"] == {"other": 1.0}


def test_pictures_stand_once_each_behind_the_script() -> None:
    page = render_report(report(entry("a.jpg"), entry("b.jpg")))
    places = [page.index(f'id="p{i}-{layer}"'.encode()) for i in (0, 1) for layer in (0, 1, 2)]
    assert places == sorted(places)
    assert places[0] > page.index(b"class Compare")


def test_a_file_that_is_no_report_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<p>my own page</p>")
    with pytest.raises(PhotoError, match="is not a report of dehaze"):
        write_report(path, report())
    path.unlink()
    path.mkdir()
    with pytest.raises(PhotoError, match="is not a report of dehaze"):
        write_report(path, report())
    path.rmdir()
    write_report(path, report(entry("a.jpg")))
    write_report(path, report(entry("b.jpg")))
    assert described(path.read_bytes())["entries"][0]["name"] == "b.jpg"


def visible_names(driver: Any) -> list[str]:
    return [
        article.find_element("css selector", "h2").text
        for article in driver.find_elements("css selector", "article:not([hidden])")
    ]


def test_in_a_browser_it_sorts_filters_and_slides(browser: Any, tmp_path: Path) -> None:
    entries = (
        entry("b10.jpg", values={"density": 0.1}),
        entry("b9.jpg", values={"density": 0.9}, notes=("much darker than the photo",)),
        Entry(HOSTILE, status="failed", error="is cut short; copy it again"),
    )
    write_report(tmp_path / "report.html", report(*entries))
    browser.get((tmp_path / "report.html").as_uri())
    assert visible_names(browser)[0].startswith("</script>")
    assert visible_names(browser)[1:] == ["b9.jpg", "b10.jpg"]
    save_screenshot(browser, "report")

    select = browser.find_element("css selector", "nav select")
    for option, expected in (("name", ["b9.jpg", "b10.jpg"]), ("haze, lowest", ["b10.jpg"])):
        select.find_element("xpath", f"option[starts-with(., {option!r})]").click()
        names = [name for name in visible_names(browser) if name.startswith("b")]
        assert names[: len(expected)] == expected

    browser.find_element("css selector", "nav input").send_keys("darker")
    assert visible_names(browser) == ["b9.jpg"]
    assert browser.find_element("id", "count").text == "1 of 3"

    slider = browser.find_element("css selector", "article:not([hidden]) .compare input")
    before = slider.get_property("value")
    slider.send_keys("\ue012" * 3)
    assert float(slider.get_property("value")) < float(before)
    buttons = browser.find_elements("css selector", "article:not([hidden]) .layers button")
    buttons[1].click()
    shown = browser.find_element("css selector", "article:not([hidden]) .right")
    assert shown.get_property("alt") == "transmission"
    wait_for(lambda: shown.get_property("naturalWidth") == 90)
    assert complaints(browser) == []


def test_the_large_view_shows_the_file_beside_the_report(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "große 1%.webp").write_bytes(picture(0.3, (600, 900)))
    shown = entry("a.jpg", files={"result": "gro%C3%9Fe%201%25.webp", "photo": "missing.webp"})
    write_report(tmp_path / "report.html", report(shown, entry("b.jpg")))
    browser.get((tmp_path / "report.html").as_uri())
    browser.find_element("css selector", "article h2 button").click()
    wide = "return [...document.querySelectorAll('dialog img')].map(i => i.naturalWidth)"
    wait_for(lambda: browser.execute_script(wide) == [90, 900])
    browser.find_element("css selector", "dialog [title='Next photo']").click()
    assert browser.find_element("css selector", "dialog b").text == "b.jpg"


def test_only_pictures_near_the_window_are_decoded(browser: Any, tmp_path: Path) -> None:
    entries = [entry(f"{number}.jpg") for number in range(300)]
    write_report(tmp_path / "report.html", report(*entries))
    browser.get((tmp_path / "report.html").as_uri())
    shown = "return document.querySelectorAll('article img[src]').length"
    wait_for(lambda: browser.execute_script(shown) > 0)
    assert browser.execute_script(shown) < 200
    browser.execute_script("scrollTo(0, document.body.scrollHeight)")
    last = "return document.querySelector('article:last-child img').hasAttribute('src')"
    wait_for(lambda: browser.execute_script(last))
    assert browser.execute_script(shown) < 200
