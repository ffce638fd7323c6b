#!/usr/bin/env python3
"""Compares idempotency middleware ("peers"), each with its own bare framework.

    benches/peers/install.sh && benches/peers/run.py [--write] [--rounds N] [--seconds S] [NAME ...]

First a gate checks whether concurrent duplicates run. Then the cost that the middleware adds is measured. The service
has one core. wrk has the other, together with Redis if the peer needs it. The script stops every process that it starts.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parent / "README.md"
PYTHON = HERE / ".venv" / "bin"
SERVICE_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 16
GATE_ROUNDS = 50
SESSIONS = 1024
KNOWN_KEYS = 64
BODY = json.dumps({"amount": 100, "currency": "EUR", "note": "n" * 154})
assert len(BODY) == 200
TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Peer:
    name: str
    # The framework and the settings, as the tables show them.
    framework: str
    settings: str
    # Returns the command line, for a port and whether the service is pinned to one core.
    command: collections.abc.Callable
    packages: list
    redis: bool = False
    # Answers are stored in the session of the client.
    sessions: bool = False
    # The status of a replay.
    replay_status: int = 201
    # When busy, it refuses requests of other keys, too. So its cost is measured with one connection.
    refuses: bool = False


def rust(name):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / name / "target"))
    return lambda port, pinned: [target / "release" / f"peer-{name}"]


def gunicorn(port, pinned):
    return [PYTHON / "gunicorn", "--workers=3", "--threads=6", "--log-level=error", f"--bind=127.0.0.1:{port}",
            "service:application"]


def uvicorn(port, pinned):
    workers = 1 if pinned else 2
    return [PYTHON / "uvicorn", "--no-access-log", "--log-level=error", f"--workers={workers}", f"--port={port}",
            "service:app"]


PEERS = [
    Peer("actix-idempotency", "actix-web",
         "this crate: default settings, records in memory, bounds that the load does not reach",
         rust("actix-idempotency"), ["actix-idempotency", "actix-web"], replay_status=409),
    Peer("actix-idempotent", "actix-web",
         "README's set-up: hash of the request, answers in a session of actix-session in Redis; sessions last 30 min, "
         "not 2 s",
         rust("actix-idempotent"), ["actix-idempotent", "actix-session", "actix-web"], redis=True, sessions=True),
    Peer("axum-idempotent", "axum", "README's set-up: the key of the header, answers in a ruts session in memory",
         rust("axum-idempotent"), ["axum-idempotent", "ruts", "axum"], sessions=True),
    Peer("express-idempotency", "Express", "README's set-up: every POST, its own store in memory, `isHit` in the handler",
         lambda port, pinned: ["node", "service.js"], ["express-idempotency", "express"]),
    Peer("idemkit", "FastAPI", "README's set-up for production: ASGI middleware, Redis, a scope; uvicorn with uvloop",
         uvicorn, ["idemkit", "fastapi", "uvicorn", "redis"], redis=True),
    Peer("django-idempotency-key", "Django",
         "README's set-up for several processes: `CacheKeyStorage` on django-redis, `MultiProcessRedisLock`; gunicorn, "
         "3 workers of 6 threads",
         gunicorn, ["django-idempotency-key", "Django", "gunicorn", "django-redis"], redis=True, replay_status=409,
         refuses=True),
]
FOLDERS = {"express-idempotency": "express", "django-idempotency-key": "django"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, core, log, **options):
    """Starts a process in a new process group, and stops the whole group when the block ends."""
    pinned = ["taskset", "--cpu-list", str(core)] if core is not None else []
    child = subprocess.Popen(pinned + [str(part) for part in command], stdout=log, stderr=log,
                             start_new_session=True, **options)
    try:
        yield child
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        # Children that outlive the process are in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_for(child, port):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"stopped with {child.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("does not accept connections")


class Service:
    """A running peer."""

    def __init__(self, port, child):
        self.port, self.child, self.cookies = port, child, []

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, path, key=None, cookie=None, body=BODY, connection=None, method="POST"):
        connection = connection or self.connect()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        if cookie:
            headers["Cookie"] = cookie
        if connection.sock is None:
            connection.connect()
        # Head and body go in one packet: some servers close a connection whose body comes later than their answer.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        connection.request(method, path, body if method == "POST" else None, headers)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def runs(self):
        status, body, _ = self.ask("/runs", method="GET")
        assert status == 200, (status, body)
        return int(body)

    def log_in(self, sessions):
        connection = self.connect()
        for _ in range(sessions):
            status, _, headers = self.ask("/login", connection=connection, body=None)
            assert status == 200, status
            self.cookies.append(headers["set-cookie"].split(";")[0])

    def cookie(self, number):
        return self.cookies[number % len(self.cookies)] if self.cookies else None

    def cpu_seconds(self):
        """The processor time of the process and all of its descendants."""
        children, spent = collections.defaultdict(list), {}
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rsplit(")", 1)[1].split()
                pid = int(stat.parent.name)
                children[int(fields[1])].append(pid)
                spent[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        total, todo = 0.0, [self.child.pid]
        while todo:
            pid = todo.pop()
            total += spent.get(pid, 0.0)
            todo += children[pid]
        return total


@contextlib.contextmanager
def service(peer, mode, redis, scratch, core=None, sessions=SESSIONS):
    port = free_port()
    environment = dict(os.environ, PORT=str(port), MODE=mode, REDIS=redis, PYTHONPATH=str(HERE),
                       PYTHONDONTWRITEBYTECODE="1", NODE_ENV="production",
                       RUNS=tempfile.mkstemp(dir=scratch, prefix="runs-")[1])
    with open(pathlib.Path(scratch) / f"{peer.name}-{mode}.log", "a") as log:
        folder = HERE / FOLDERS.get(peer.name, peer.name)
        with process(peer.command(port, core is not None), core, log, cwd=folder, env=environment) as child:
            wait_for(child, port)
            running = Service(port, child)
            if peer.sessions and mode != "bare":
                running.log_in(sessions)
            yield running


@contextlib.contextmanager
def redis_server(needed, scratch):
    if not needed:
        yield ""
        return
    port = free_port()
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with open(os.devnull, "w") as log, process(command, LOAD_CORE, log, cwd=scratch) as child:
        wait_for(child, port)
        yield f"redis://127.0.0.1:{port}/0"


def gate(peer, redis, scratch):
    """Checks whether duplicates run: 50 rounds of 16 concurrent duplicates of a request that takes 50 ms, then one
    duplicate after the first answer."""
    with service(peer, "with", redis, scratch, sessions=GATE_ROUNDS + 1) as running:
        before, statuses, rounds_twice = running.runs(), collections.Counter(), 0
        barrier = threading.Barrier(CONNECTIONS)
        connections = [running.connect() for _ in range(CONNECTIONS)]
        for round_ in range(GATE_ROUNDS):
            def duplicate(connection):
                barrier.wait()
                status, _, _ = running.ask("/slow/payments", f"gate-{round_}", running.cookie(round_),
                                           connection=connection)
                statuses[status] += 1
            threads = [threading.Thread(target=duplicate, args=[connection]) for connection in connections]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            after = running.runs()
            rounds_twice += after - before > 1
            before = after
        extra = before - GATE_ROUNDS
        cookie = running.cookie(GATE_ROUNDS)
        first = running.ask("/payments", "again", cookie)
        again = running.ask("/payments", "again", cookie)
        replayed = running.runs() - before == 1
        other = running.ask("/payments", "again", cookie, body=BODY.replace("100", "999"))
        ran = running.runs() - before - (1 if replayed else 2)
    bytes_ = "same bytes" if first[1] == again[1] else "other bytes"
    said = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    duplicates = GATE_ROUNDS * (CONNECTIONS - 1)
    return (f"| {peer.name} | {extra} of {duplicates} | {rounds_twice} of {GATE_ROUNDS} | {said} "
            f"| {'not run again' if replayed else '**run again**'}, {again[0]}, {bytes_} "
            f"| {'run, ' if ran else ''}{other[0]} |")


@dataclasses.dataclass
class Measured:
    rate: float
    cpu: float
    mean: float
    p99: float
    # The share of its core that the service used, and the share of requests that it refused.
    busy: float
    refused: float


class Load:
    """wrk, on its own core."""

    def __init__(self, scratch, seconds):
        self.scratch, self.seconds, self.names, self.remarks = pathlib.Path(scratch), seconds, 0, set()
        self.body = self.scratch / "body.json"
        self.body.write_text(BODY)

    def run(self, peer, running, kind, seconds=None, connections=None):
        connections = connections or (1 if peer.refuses else CONNECTIONS)
        self.names += 1
        name = f"{os.getpid():08d}-{self.names:04d}-"
        replay = kind == "replay"
        if replay:
            connection = running.connect()
            for key in range(KNOWN_KEYS):
                # While the load before this one ends, a request may be refused. Then it is sent again.
                while running.ask("/payments", f"{name}{key}", running.cookie(key), connection=connection)[0] != 201:
                    time.sleep(0.1)
        cookies = self.scratch / "cookies"
        cookies.write_text("".join(cookie + "\n" for cookie in running.cookies))
        runs, cpu, used = running.runs(), running.cpu_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run(
            ["taskset", "--cpu-list", str(LOAD_CORE), "wrk", "--threads=1", f"--connections={connections}",
             f"--duration={seconds or self.seconds}s", "--latency", f"--script={HERE / 'load.lua'}",
             f"http://127.0.0.1:{running.port}", "--", name, str(KNOWN_KEYS if replay else 10**12),
             self.body, cookies] + ([str(peer.replay_status if replay else 201)] if peer.refuses else []),
            check=True, capture_output=True, text=True, timeout=60).stdout
        cpu = running.cpu_seconds() - cpu
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        load_cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        runs = running.runs() - runs
        result = json.loads(re.search(r"RESULT (.*)", out)[1])
        elapsed = result["micros"] / 1e6
        self.check(peer, kind, result, runs, load_cpu / elapsed)
        answered = max(result["requests"] - result["refused"], 1)
        return Measured(answered / elapsed, cpu / answered * 1e6, result["mean"], result["p99"], cpu / elapsed,
                        result["refused"] / max(result["requests"], 1))

    def check(self, peer, kind, result, runs, load_busy):
        """Adds a remark if the measured requests did not do what the name of the measurement says."""
        say = lambda what: self.remarks.add(f"{peer.name}, {kind}: {what}")
        answered = result["requests"] - result["refused"]
        if kind == "replay":
            if runs:
                say("replays ran the handler")
        elif not answered <= runs <= answered + 2 * CONNECTIONS:
            say("runs and answers differ in number")
        expected = answered if kind == "replay" and peer.replay_status == 409 else 0
        if result["over_399"] != expected + result["refused"]:
            say("some answers had another status")
        if result["broken"]:
            say("some connections broke")
        if load_busy > 0.9:
            say("the load generator's core was full")


def measure(peer, redis, scratch, load, rounds):
    modes = {"bare": "bare", "first": "with", "replay": "with"}
    if peer.sessions:
        modes["sessions"] = "session"
    with contextlib.ExitStack() as stack:
        running = {mode: stack.enter_context(service(peer, mode, redis, scratch, SERVICE_CORE))
                   for mode in dict.fromkeys(modes.values())}
        samples = collections.defaultdict(list)
        for kind, mode in modes.items():
            warm_up = load.run(peer, running[mode], kind, seconds=1, connections=CONNECTIONS)
            if warm_up.refused:
                load.remarks.add(f"{peer.name}, {kind}: with {CONNECTIONS} connections {warm_up.refused:.0%} of the "
                                 "requests were refused, so it was measured with one connection")
        for _ in range(rounds):
            for kind, mode in modes.items():
                samples[kind].append(load.run(peer, running[mode], kind))
        kept = running["with"].runs()
    middle = {kind: Measured(*(statistics.median(dataclasses.astuple(sample)[field] for sample in of_kind)
                               for field in range(6))) for kind, of_kind in samples.items()}
    return middle, kept


def added(of, bare):
    by_rate = 1e6 / of.rate - 1e6 / bare.rate
    return f"{of.cpu - bare.cpu:+.1f} ({by_rate:+.1f})"


def latency(of):
    return f"{of.mean / 1000:.2f} / {of.p99 / 1000:.2f}"


def rows(peer, middle):
    bare, first, replay = middle["bare"], middle["first"], middle["replay"]
    yield (f"| {peer.name} | {peer.framework} | {bare.rate:,.0f} | {first.rate:,.0f} | {replay.rate:,.0f} "
           f"| {added(first, bare)} | {added(replay, bare)} "
           f"| {latency(bare)} | {latency(first)} | {latency(replay)} |")
    if "sessions" in middle:
        of = middle["sessions"]
        yield (f"| – its sessions alone | {peer.framework} | {bare.rate:,.0f} | {of.rate:,.0f} | "
               f"| {added(of, bare)} | | {latency(bare)} | {latency(of)} | |")


def versions(peer):
    found = {}
    lock = HERE / peer.name / "Cargo.lock"
    if lock.exists():
        for package in tomllib.loads(lock.read_text())["package"]:
            found[package["name"]] = package["version"]
    for manifest in (HERE / "express" / "node_modules").glob("express*/package.json"):
        package = json.loads(manifest.read_text())
        found.setdefault(package["name"], package["version"])
    for metadata in PYTHON.parent.glob("lib/python*/site-packages/*.dist-info/METADATA"):
        head = metadata.read_text()
        found.setdefault(re.search(r"^Name: (.*)", head, re.M)[1], re.search(r"^Version: (.*)", head, re.M)[1])
    return ", ".join(f"{name} {found.get(name) or found.get(name.replace('-', '_'), '?')}" for name in peer.packages)


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def cpu_model():
    found = re.search(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def tables(chosen, options, scratch):
    load = Load(scratch, options.seconds)
    gates, results, settings, busy = [], [], [], []
    for peer in chosen:
        try:
            with redis_server(peer.redis, scratch) as redis:
                gates.append(gate(peer, redis, scratch))
                print(gates[-1], file=sys.stderr)
                middle, kept = measure(peer, redis, scratch, load, options.rounds)
        except (OSError, RuntimeError, AssertionError, http.client.HTTPException, subprocess.SubprocessError) as error:
            load.remarks.add(f"{peer.name} left out: {error}")
            print(f"{peer.name}: {error}", file=sys.stderr)
            continue
        results += rows(peer, middle)
        print(*rows(peer, middle), sep="\n", file=sys.stderr)
        load.remarks.update(f"{peer.name}, {kind}: {of.refused:.1%} of the measured requests were refused, which the "
                            "rates leave out" for kind, of in middle.items() if of.refused)
        busy.append(f"{peer.name} {', '.join(f'{kind} {of.busy:.0%}' for kind, of in middle.items())}")
        settings.append(f"- **{peer.name}**: {peer.settings} ({versions(peer)}). The handler ran {kept:,} times.")
    yield (f"{datetime.date.today()}, {cpu_model()}, {os.cpu_count()} cores shared with other work; "
           f"{output('rustc', '--version').rsplit(' (', 1)[0]}, Python {platform.python_version()}, "
           f"Node {output('node', '--version')}, Redis {re.search(r'v=([^ ]+)', output('redis-server', '--version'))[1]}; "
           f"medians of {options.rounds} interleaved rounds of {options.seconds} s, {CONNECTIONS} connections.")
    yield ""
    yield ("| peer | duplicates that ran | rounds with more than one run | answers | a later duplicate "
           "| same key, another body |")
    yield "|---|---|---|---|---|---|"
    yield from gates
    yield ""
    yield ("| peer | on | bare req/s | first req/s | replay req/s | a first run adds, µs | a replay adds, µs "
           "| bare, ms | first, ms | replay, ms |")
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    yield from results
    yield ""
    yield from settings
    yield ""
    yield f"The share of its core that each service used: {'; '.join(busy)}."
    if load.remarks:
        yield ""
        yield "Remarks of the run:"
        yield ""
        yield from (f"- {remark}" for remark in sorted(load.remarks))


def write(text):
    begin, end = "<!-- peers:begin -->", "<!-- peers:end -->"
    page = README.read_text()
    before, rest = page.split(begin)
    _, after = rest.split(end)
    README.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="put the tables into benches/README.md")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=3)
    arguments.add_argument("names", nargs="*", metavar="NAME", help="only these peers")
    options = arguments.parse_args()
    chosen = [peer for peer in PEERS if not options.names or peer.name in options.names]
    if (os.cpu_count() or 1) < 2:
        sys.exit("This machine needs two cores: one for the service, and one for the load.")
    with tempfile.TemporaryDirectory() as scratch:
        text = "\n".join(tables(chosen, options, scratch))
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
