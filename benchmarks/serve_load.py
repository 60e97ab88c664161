"""``dehaze serve`` under load: no request is lost, every answer is right, memory stays flat.

    python benchmarks/serve_load.py --requests 200 --at-once 8

Starts a server on loopback and sends it photos, each of a shade of its own. Prints how many came
back, how long they took, and the server's memory after each quarter.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (240, 160)
# A flat photo comes back unchanged to within a few levels.
TOLERANCE = 3.0


def photo(number: int) -> bytes:
    """A flat photo whose shade encodes its number."""
    buffer = io.BytesIO()
    shade = 20 + number % 200
    Image.new("RGB", SIZE, (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(address: str, number: int) -> tuple[str, float]:
    """The outcome of one request, and its time in seconds."""
    started = time.perf_counter()
    for _ in range(200):
        request = urllib.request.Request(f"{address}/v1/dehaze?strength=0", photo(number))
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                shade = float(np.asarray(Image.open(io.BytesIO(answer.read()))).mean())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return f"status {error.code}", time.perf_counter() - started
            time.sleep(float(error.headers["Retry-After"]))
            continue
        except OSError as error:
            return f"lost ({error})", time.perf_counter() - started
        right = abs(shade - (20 + number % 200)) <= TOLERANCE
        return "right" if right else "another photo", time.perf_counter() - started
    return "refused", time.perf_counter() - started


def memory_mb(process: int) -> float:
    """Resident memory of a process, in 10^6 bytes (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="bundled")
    options = parser.parse_args()
    command = "from dehaze.commands import main; main()"
    call = [sys.executable, "-c", command, "serve", "--port", "0", "--model", options.model]
    server = subprocess.Popen(
        [*call, "--threads", str(options.threads)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2]
        memory = [memory_mb(server.pid)]
        found: list[tuple[str, float]] = []
        started = time.perf_counter()
        quarter = max(1, options.requests // 4)
        with ThreadPoolExecutor(options.at_once) as clients:
            for first in range(0, options.requests, quarter):
                numbers = range(first, min(first + quarter, options.requests))
                found += clients.map(lambda number: ask(address, number), numbers)
                memory.append(memory_mb(server.pid))
        seconds = time.perf_counter() - started
        with urllib.request.urlopen(f"{address}/health") as answer:
            health = json.load(answer)
    finally:
        server.terminate()
        code = server.wait(60)
    counts = {what: sum(one == what for one, _ in found) for what in dict(found)}
    waits = sorted(wait for _, wait in found)
    print(f"{len(found)} requests, {options.at_once} at once: {counts}")
    print(
        f"{len(found) / seconds:.2f} a second; median {statistics.median(waits):.2f} s, "
        f"slowest {waits[-1]:.2f} s"
    )
    print(
        "memory in MB, before and after each quarter: " + ", ".join(f"{one:.0f}" for one in memory)
    )
    print(f"left waiting: {health['waiting']}; the server ended with code {code}")


if __name__ == "__main__":
    main()
