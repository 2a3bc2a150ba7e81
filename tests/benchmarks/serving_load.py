"""Loads a service with clients: python tests/benchmarks/serving_load.py ENGINE [--clients 16] [--seconds 600]

Starts `effedge serve ENGINE` in a process of its own, or takes one that runs, by --url. Each client sends an image to
POST /detect, one request after the other, over a connection that it keeps; a refused one waits as Retry-After says.
Prints, every tenth of the time, the answers a second, p50 and p99 of their latency, the refusals, and the memory of the
service; then all of it, and how the memory grew from the first tenth on, by a line fitted to it. The exit status is 1
if an answer is neither 200 nor 429, or differs from the first.
"""

import argparse
import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Counter as CounterOf
from typing import Iterator, List, Optional

import numpy as np

from effedge.deploy.timing.percentiles import Histogram

IMAGE = Path(__file__).resolve().parents[2] / "deploy/serving/page/samples/digits-1.jpg"
PARTS = 10
MIB = 1 << 20


class Load:
    """What the clients have met: `latencies` since the last part began, `statuses` of all. `end` is when to stop."""

    def __init__(self, url: str, image: bytes, end: float) -> None:
        parsed = urllib.parse.urlsplit(url)
        self.host, self.port, self.image, self.end = parsed.hostname, parsed.port, image, end
        self.lock, self.latencies, self.all_latencies = threading.Lock(), Histogram(), Histogram()
        self.statuses: CounterOf[int] = Counter()
        self.content: Optional[bytes] = None
        self.different = 0

    def run_client(self) -> None:
        """Sends requests until the end."""
        connection = http.client.HTTPConnection(self.host or "", self.port, timeout=60)
        while time.monotonic() < self.end:
            started = time.perf_counter()
            connection.request("POST", "/detect", self.image, {"Content-Type": "application/octet-stream"})
            answer = connection.getresponse()
            content = answer.read()
            milliseconds = 1000 * (time.perf_counter() - started)
            with self.lock:
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.latencies.add(milliseconds)
                    self.content = self.content or content
                    self.different += content != self.content
            if answer.status == 429:
                time.sleep(float(answer.headers["Retry-After"]))
        connection.close()

    def memory(self) -> float:
        """Returns the resident memory of the service, in MiB, as its metrics have it."""
        connection = http.client.HTTPConnection(self.host or "", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) / MIB if found else float("nan")

    def part(self, seconds: float) -> str:
        """Returns the figures of a part, and begins the next."""
        with self.lock:
            runs = self.latencies.runs
            p50, p99 = (self.latencies.percentile(percent) if runs else float("nan") for percent in (50, 99))
            self.latencies.move_to(self.all_latencies)
            return f"{runs / seconds:7.1f} answers/s  p50 {p50:8.1f} ms  p99 {p99:8.1f} ms  429: {self.statuses[429]}"


@contextlib.contextmanager
def service(words: List[str]) -> Iterator[str]:
    """Runs `effedge serve` within the block, and yields its URL. Raises RuntimeError unless it ends with status 0."""
    command = [sys.executable, "-m", "effedge", "serve", *words, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        found = None
        while found is None:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError("the service did not start")
            found = re.search(r"serving at (\S+);", line)
        yield found.group(1)
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise RuntimeError(f"the service ended with status {process.returncode}")
    finally:
        process.kill()


def measure(url: str, image: bytes, clients: int, seconds: float) -> int:
    """Runs the clients and prints the figures; returns the exit status."""
    load = Load(url, image, time.monotonic() + seconds)
    threads = [threading.Thread(target=load.run_client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    times: List[float] = []
    memory: List[float] = []
    begun = time.monotonic()
    for part in range(1, PARTS + 1):
        while time.monotonic() < begun + seconds * part / PARTS:
            time.sleep(min(1.0, seconds / PARTS / 5))
            times.append(time.monotonic() - begun)
            memory.append(load.memory())
        print(f"{seconds * part / PARTS:6.0f} s {load.part(seconds / PARTS)}  memory {memory[-1]:.1f} MiB", flush=True)
    for thread in threads:
        thread.join()
    load.part(1)
    total = load.all_latencies
    settled = np.array(times) > seconds / PARTS
    slope = np.polyfit(np.array(times)[settled], np.array(memory)[settled], 1)[0]
    print(f"{clients} clients, {seconds:g} s: {total.runs} answers, {total.runs / seconds:.1f} a second")
    print(f"latency: p50 {total.percentile(50):.1f} ms, p99 {total.percentile(99):.1f} ms")
    print(f"statuses: {dict(load.statuses)}, answers that differ from the first: {load.different}")
    print(f"memory: {min(memory):.1f} to {max(memory):.1f} MiB, {60 * slope:+.2f} MiB a minute after the first tenth")
    return int(bool(load.different or set(load.statuses) - {200, 429}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", metavar="ENGINE", nargs="?", help="an engine's folder")
    parser.add_argument("--url", help="of a service that runs already")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--image", type=Path, default=IMAGE, help="default: one of the demo's samples, of digits")
    parser.add_argument("--serve", metavar="OPTION", nargs="*", default=[], help='options of the service: "--places=8"')
    args = parser.parse_args()
    if (args.engine is None) == (args.url is None):
        parser.error("expected an ENGINE, or --url")
    image = args.image.read_bytes()
    with contextlib.nullcontext(args.url) if args.url else service([args.engine, *args.serve]) as url:
        status = measure(url, image, args.clients, args.seconds)
    sys.exit(status)


if __name__ == "__main__":
    main()
