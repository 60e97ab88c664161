"""The HTTP API of a running server, over loopback."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from servers import running

from dehaze.commands import main
from dehaze.photos import read_photo

Photos = dict[str, Path]


@pytest.fixture(scope="module")
def api(random_model: Path) -> Iterator[str]:
    options = ("--max-upload", "2", "--max-megapixels", "0.5", "--waiting", "40", "--threads", "2")
    with running("serve", random_model, *options) as (address, _):
        yield address


def ask(
    address: str, data: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def problem(address: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    status, _, body = ask(address, data, **headers)
    return status, " ".join(json.loads(body).values())


def test_health_says_ready(api: str) -> None:
    status, _, body = ask(f"{api}/health")
    assert status == 200
    assert json.loads(body)["status"] == "ready"


@pytest.mark.parametrize("name", ["a b.jpg", "größe.png", "c.tif"])
def test_a_photo_comes_back_as_run_makes_it(
    api: str, photos: Photos, name: str, random_model: Path, tmp_path: Path
) -> None:
    status, headers, body = ask(f"{api}/v1/dehaze?strength=0.7", photos[name].read_bytes())
    assert status == 200
    assert headers["content-type"].startswith("image/")
    assert json.loads(headers["dehaze-notes"]) is not None
    arguments = ["run", photos[name], "-o", tmp_path, "--model", random_model, "--strength", "0.7"]
    assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    assert body == (tmp_path / name).read_bytes()


def test_json_has_the_maps(api: str, photos: Photos) -> None:
    status, _, body = ask(f"{api}/v1/dehaze/json", photos["c.tif"].read_bytes())
    assert status == 200
    answer = json.loads(body)
    for name in ("attention", "transmission"):
        picture = Image.open(io.BytesIO(base64.b64decode(answer[name])))
        assert (picture.mode, picture.size) == ("L", (180, 120))
    assert answer["media_type"] == "image/tiff"
    assert len(answer["airlight"]) == 3
    assert 0 <= answer["density"] <= 1


def test_exposure_gives_the_photos_lightness(api: str, photos: Photos, tmp_path: Path) -> None:
    source = photos["größe.png"]
    path = tmp_path / "kept.png"
    path.write_bytes(ask(f"{api}/v1/dehaze?exposure=1", source.read_bytes())[2])
    luma = np.array([0.299, 0.587, 0.114])
    kept, given = (float((read_photo(one).pixels @ luma).mean()) for one in (path, source))
    assert kept == pytest.approx(given, abs=0.01)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("strength=5", 400, "strength"),
        ("strength=nan", 400, "strength"),
        ("exposure=-1", 400, "exposure"),
        ("strengh=0.5", 400, "no parameter 'strengh': there are strength, exposure, word"),
        ("strength=1&strength=0.5", 400, "strength is given twice"),
        ("word=", 400, "word"),
        ("word=%20", 400, "the word is empty"),
        ("word=" + "%20".join(["x"] * 40), 400, "prompt"),
        ("word=photo", 400, "is not the haze in"),
    ],
)
def test_wrong_settings_are_refused(
    api: str, photos: Photos, query: str, status: int, words: str
) -> None:
    found, said = problem(f"{api}/v1/dehaze?{query}", photos["c.tif"].read_bytes())
    assert found == status
    assert words in said


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 422, "is empty"),
        (b"no photo", 422, "is not a photo"),
        (b"\xff\xd8\xff\xe0", 422, ""),
        (bytes(2_000_001), 413, "more than 2 MB"),
    ],
)
def test_an_input_that_is_no_photo_is_refused(
    api: str, data: bytes, status: int, words: str
) -> None:
    found, said = problem(f"{api}/v1/dehaze", data)
    assert found == status
    assert words in said
    assert "/tmp" not in said


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, "the body is multipart/form-data"),
        ({"Content-Type": "application/json"}, "settings in the address"),
        ({"Content-Encoding": "gzip"}, "the body is compressed (gzip)"),
    ],
)
def test_a_body_that_is_not_the_photos_file_is_named(
    api: str, photos: Photos, headers: dict[str, str], words: str
) -> None:
    found, said = problem(f"{api}/v1/dehaze", photos["c.tif"].read_bytes(), **headers)
    assert found == 415
    assert words in said


def test_an_address_with_a_slash_too_many_is_no_photo(api: str, photos: Photos) -> None:
    assert problem(f"{api}/v1/dehaze/", photos["c.tif"].read_bytes())[0] == 404


def test_a_photo_of_too_many_pixels_is_refused(api: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (1000, 1000)).save(buffer, "PNG")
    assert problem(f"{api}/v1/dehaze", buffer.getvalue())[0] == 422


def test_a_body_without_a_length_is_cut_off(api: str) -> None:
    host, port = api.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST /v1/dehaze HTTP/1.1\r\nHost: {host}:{port}\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(f"{head}\r\n".encode())
        block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            for _ in range(60):
                connection.sendall(block)
        except OSError:
            return
        assert b" 413 " in connection.recv(100)


def test_other_sites_and_unknown_addresses_are_refused(api: str, photos: Photos) -> None:
    data = photos["c.tif"].read_bytes()
    assert problem(f"{api}/v1/dehaze", data, Origin="http://evil.example")[0] == 403
    assert problem(f"{api}/health", Host="evil.example")[0] == 421
    assert problem(f"{api}/../etc/passwd")[0] == 404
    # The addresses of the page do not exist in ``dehaze serve``.
    assert problem(f"{api}/page/tabs", b"")[0] == 404


def test_the_description_and_its_page_come_from_the_server(api: str) -> None:
    description = json.loads(ask(f"{api}/openapi.json")[2])
    assert set(description["paths"]) == {"/v1/dehaze", "/v1/dehaze/json", "/health"}
    page = ask(f"{api}/docs")[2].decode()
    assert "http" not in page.replace('http-equiv="', "").replace("the HTTP API", "")


def test_many_at_once_all_get_their_own_photo(api: str, tmp_path: Path) -> None:
    found: dict[int, float] = {}

    def one(level: int) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (60, 40), (level, level, level)).save(buffer, "PNG")
        status, _, body = ask(f"{api}/v1/dehaze?strength=0", buffer.getvalue())
        assert status == 200
        found[level] = float(np.asarray(Image.open(io.BytesIO(body))).mean())

    threads = [threading.Thread(target=one, args=(10 * level,)) for level in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert found == {10 * level: pytest.approx(10 * level, abs=1.5) for level in range(1, 17)}


def test_a_full_queue_answers_503(random_model: Path, photos: Photos) -> None:
    data = photos["c.tif"].read_bytes()
    statuses: list[tuple[int, str | None]] = []

    def one(address: str) -> None:
        status, headers, _ = ask(f"{address}/v1/dehaze", data)
        statuses.append((status, headers.get("retry-after")))

    with running("serve", random_model, "--waiting", "1") as (address, _):
        threads = [threading.Thread(target=one, args=(address,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    assert (200, None) in statuses
    assert {status for status in statuses if status[0] != 200} == {(503, "2")}


def test_a_client_that_leaves_gives_up_its_place(random_model: Path, photos: Photos) -> None:
    data = photos["c.tif"].read_bytes()
    with running("serve", random_model) as (address, process):
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /v1/dehaze HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(data)}"
        for sent in (data, data[:100]):
            for _ in range(6):
                with socket.create_connection((host, int(port)), timeout=60) as connection:
                    connection.sendall(f"{head}\r\n\r\n".encode() + sent)
        end = time.monotonic() + 60
        while any(json.loads(ask(f"{address}/health")[2])[name] for name in ("waiting", "running")):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_running_requests(
    random_model: Path, photos: Photos, number: signal.Signals
) -> None:
    answers: list[int] = []
    data = photos["c.tif"].read_bytes()
    with running("serve", random_model) as (address, process):
        thread = threading.Thread(
            target=lambda: answers.append(ask(f"{address}/v1/dehaze", data)[0])
        )
        thread.start()
        end = time.monotonic() + 60
        while json.loads(ask(f"{address}/health")[2])["running"] == 0 and not answers:
            assert time.monotonic() < end
        process.send_signal(number)
        thread.join(60)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert answers == [200]
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_named(random_model: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra ui is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["serve", "--port", str(port), "--model", str(random_model)]
        done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in done.stderr


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("dehaze.webui.server", "uvicorn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(main, ["ui"])
    assert done.exit_code == 2
    assert "the page needs uvicorn, which is not installed; pip install" in done.stderr
