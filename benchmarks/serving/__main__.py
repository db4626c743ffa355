"""Kiln's serving speed against other servers with the same model: `make bench-serving`.

All servers run at the same time and take short turns, in another order in each round, with the same closed-loop
clients. The clients run on the same machine and cost each server the same. Besides the latencies, the processor time of
each server and its child processes is measured; other load on the machine does not change it. `the limit` is
onnxruntime in a process of its own, without HTTP and PNG, at its best batch size and number of threads.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import onnxruntime
import psutil

from services.dev import find_redis_server, free_port, redis_command, wait_for_redis
from shared.configs.presets import resolve
from shared.configs.train import TrainConfig
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, ModelManifest, ModelRegistry, Parity

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STARTER = ROOT / "models" / "starter"
NETWORKS = {"starter": "cpu-hours", "3.4M": "wgan-gp-conditional"}  # preset with the shape of the network
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PEERS = {  # name -> (package, command, path, body)
    "FastAPI + Pillow": ("fastapi uvicorn[standard]", "{python} plain_fastapi.py {port}", "/generate", "{one}"),
    "LitServe": ("litserve", "{python} litserve_peer.py {port}", "/predict", "{one}"),
    "mosec": ("mosec", "{python} mosec_peer.py --port {port} --address 127.0.0.1", "/inference", "{one}"),
    "BentoML": ("bentoml", "{python} -m bentoml serve bentoml_peer:Generate --port {port}", "/generate",
                '{{"requests": [{one}]}}'),
}  # fmt: skip
START_S = 240.0
MAX_IDLE_WAIT_S = 20.0
KILN, LIMIT = "Kiln", "the limit"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="starter")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--n", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn-s", type=float, default=2.0)
    parser.add_argument("--only", nargs="+", choices=[KILN, *PEERS], default=[KILN, *PEERS])
    parser.add_argument(
        "--environments", type=Path, default=ROOT / "data" / "serving-peers", help="folder of the peers' environments"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise SIGTERM would leave the servers running
    with tempfile.TemporaryDirectory(prefix="kiln-serving-") as folder, ExitStack() as stack:
        graph, config = network(options.network)
        path = Path(folder) / GENERATOR_FILE
        path.write_bytes(graph)
        servers = {}
        for name in options.only:
            make = kiln(Path(folder), graph, config) if name == KILN else peer(name, path, options.environments)
            servers[name] = stack.enter_context(make)
            print(f"  {name} is up", file=sys.stderr, flush=True)
        limit = stack.enter_context(Limit(path))
        rows = race(servers, limit, options)
    print(table(rows, options))
    if options.json:
        options.json.write_text(json.dumps(rows))


@dataclass(frozen=True)
class Server:
    """A server: its port, and its request for each number of images."""

    pid: int
    port: int
    requests: dict[int, bytes]

    def cpu_s(self) -> float:
        """Processor time so far, including that of child processes."""
        total, root = 0.0, psutil.Process(self.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.cpu_times().user + process.cpu_times().system
        return total

    def turn(self, n: int, clients: int, seconds: float) -> dict[str, Any]:
        """Sends requests for `seconds` with `clients` connections. -> latencies, errors and processor seconds."""
        request = base64.b64encode(self.requests[n]).decode()
        load = {"port": self.port, "request": request, "clients": clients, "seconds": seconds}
        before_s = self.cpu_s()
        command = [sys.executable, "-m", "benchmarks.serving.load"]
        done = subprocess.run(command, input=json.dumps(load), cwd=ROOT, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout)
        result["cpu_s"] = self.cpu_s() - before_s
        self.wait_until_idle()
        return result

    def wait_until_idle(self) -> None:
        """Waits until the server has finished work for clients that left, so that it does not slow the next turn."""
        deadline_s, before_s = time.monotonic() + MAX_IDLE_WAIT_S, self.cpu_s()
        while time.monotonic() < deadline_s:
            time.sleep(0.1)
            now_s = self.cpu_s()
            if now_s - before_s <= 0.01:
                return
            before_s = now_s


def network(name: str) -> tuple[bytes, TrainConfig]:
    """The graph and its config. It may be untrained: the weights do not change the speed."""
    if name == "starter" and (STARTER / "manifest.json").exists():
        manifest = ModelManifest.model_validate_json((STARTER / "manifest.json").read_text())
        (file,) = STARTER.glob(f"*{GENERATOR_FILE}")
        return file.read_bytes(), manifest.config
    code = (
        "import sys, torch; from services.trainer.export.onnx import export_generator;"
        "from shared.configs.presets import resolve;"
        "from services.trainer.networks.build import build_networks;"
        "config = resolve(sys.argv[1], {});"
        "sys.stdout.buffer.write(export_generator(build_networks(config, 10)[0], config))"
    )
    done = subprocess.run([sys.executable, "-c", code, NETWORKS[name]], cwd=ROOT, check=True, capture_output=True)
    return done.stdout, resolve(NETWORKS[name], {})


@contextmanager
def kiln(folder: Path, graph: bytes, config: TrainConfig) -> Iterator[Server]:
    """Kiln with its defaults and its own Redis."""
    port, redis_port, data = free_port(), free_port(), folder / "kiln"
    (data / "redis").mkdir(parents=True)
    draft = ModelManifest(
        id="bench", job_id="bench", created_at=datetime.now(UTC), preset="bench", config=config, dataset="cifar10",
        classes=CLASSES, latent_dim=config.latent_dim, conditional=True,
        parity=Parity(max_abs_difference=0.0, batch_sizes=(1,)), images_seen=1, device="none", wall_seconds=0.0,
    )  # fmt: skip
    ModelRegistry(ArtifactStore(f"file://{data}/artifacts")).publish(draft, {GENERATOR_FILE: graph})
    settings = {"KILN_DATA": str(data), "KILN_PORT": str(port), "KILN_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0"}
    with process(redis_command(find_redis_server(), redis_port, data / "redis"), folder / "redis.log") as redis:
        wait_for_redis(redis_port, redis)
        with process([sys.executable, "-m", "services.api"], folder / "kiln.log", settings, ROOT) as api:
            wait_until(port, "GET", "/readyz", b"")
            get = b"GET /generate?class=cat&n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
            yield Server(api.pid, port, {n: get % n for n in (1, 16)})


@contextmanager
def peer(name: str, graph: Path, environments: Path) -> Iterator[Server]:
    """A peer in its own environment, which is created if it does not exist."""
    packages, command, path, body = PEERS[name]
    python, port = environment(packages, environments), free_port()
    words = command.format(python=python, port=port).split()
    log = graph.parent / f"{port}.log"
    with process(words, log, {"PEER_GRAPH": str(graph), "BENTOML_DO_NOT_TRACK": "1"}, HERE / "peers") as server:
        bodies = {n: body.format(one=json.dumps({"label": 3, "n": n})).encode() for n in (1, 16)}
        try:
            wait_until(port, "POST", path, bodies[1])
        except TimeoutError:
            raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}") from None
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        requests = {n: f"{head}{len(data)}\r\n\r\n".encode() + data for n, data in bodies.items()}
        yield Server(server.pid, port, requests)


def environment(packages: str, environments: Path) -> Path:
    """The Python of an environment with these packages and those that all peers need."""
    folder = environments / packages.split(maxsplit=1)[0]
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        requirements = [*packages.split(), f"onnxruntime=={onnxruntime.__version__}", "numpy", "pillow"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        (folder / ".installed").touch()
    return python


@contextmanager
def process(
    command: list[str], log: Path, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that is killed when the block ends."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, env=os.environ | (environment or {}), cwd=cwd, stdout=out, stderr=out, process_group=0
        )
    try:
        yield started
    finally:
        try:
            os.killpg(started.pid, 15)
            started.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(started.pid, 9)


def wait_until(port: int, method: str, path: str, body: bytes) -> None:
    """Waits until the server returns a valid response."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        try:
            headers = {"content-type": "application/json"} if body else {}
            url = f"http://127.0.0.1:{port}{path}"
            if httpx2.request(method, url, content=body, headers=headers, timeout=60).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.3)
    raise TimeoutError


class Limit:
    """onnxruntime in a process of its own: `benchmarks.serving.limit`."""

    def __init__(self, graph: Path) -> None:
        self._graph = graph

    def __enter__(self) -> Limit:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.limit", str(self._graph)], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.best = json.loads(self._read())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, seconds: float) -> tuple[float, float]:
        """-> (images per second, processor seconds per image)"""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        rate, cpu_s = json.loads(self._read())
        return rate, cpu_s

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def race(servers: dict[str, Server], limit: Limit, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs turns of all servers for each number of images and clients, after a warm-up of each server."""
    for server in servers.values():
        for n in options.n:
            server.turn(n, 8, options.turn_s)
    rows = []
    for n in options.n:
        for clients in options.clients:
            turns: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
            limits = []
            names = [*servers, LIMIT]
            for number in range(options.rounds):
                random.Random(number).shuffle(names)
                for name in names:
                    if name == LIMIT:
                        limits.append(limit.turn(options.turn_s))
                    else:
                        turns[name].append(servers[name].turn(n, clients, options.turn_s))
            print(f"  n={n}, {clients} clients", file=sys.stderr, flush=True)
            rate, cpu_s = (statistics.median(values) for values in zip(*limits, strict=True))
            rows.append({"n": n, "clients": clients, "limit": rate, "limit_cpu_s": cpu_s, "turns": turns})
    return rows


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, network "
        f"`{options.network}`, {options.rounds} turns of {options.turn_s:g} s each", "",
        "| n | clients | | requests/s | images/s | p50, ms | p99, ms | errors | Kiln / it | processor ms per image |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for row in rows:
        kiln_rate = rate_of(row["turns"][KILN]) if KILN in row["turns"] else 0.0
        for name, turns in row["turns"].items():
            times = sorted(1000 * s for turn in turns for s in turn["latencies"])
            p50, p99 = (times[int(len(times) * share)] for share in (0.5, 0.99)) if times else (0.0, 0.0)
            rate, errors = rate_of(turns), sum(len(turn["errors"]) for turn in turns)
            responses = max(1, sum(len(turn["latencies"]) for turn in turns))
            cpu_ms = 1000 * sum(turn["cpu_s"] for turn in turns) / responses / row["n"]
            ratio = f"{kiln_rate / rate:.2f}" if name != KILN and rate else ""
            lines.append(
                f"| {row['n']} | {row['clients']} | {name} | {rate:.0f} | {rate * row['n']:.0f} "
                f"| {p50:.1f} | {p99:.1f} | {errors} | {ratio} | {cpu_ms:.3f} |"
            )
        share = f"{kiln_rate * row['n'] / row['limit']:.2f}"
        cpu_ms = 1000 * row["limit_cpu_s"]
        lines.append(
            f"| {row['n']} | {row['clients']} | {LIMIT} | | {row['limit']:.0f} | | | | {share} | {cpu_ms:.3f} |"
        )
    return "\n".join(lines)


def rate_of(turns: list[dict[str, Any]]) -> float:
    """Median of the requests per second of the turns."""
    return float(statistics.median(len(turn["latencies"]) / turn["seconds"] for turn in turns))


if __name__ == "__main__":
    main()
