"""The conformance server as a process, and its log of runs."""

import os
import pathlib
import subprocess
import tempfile
import threading
import time

import wire

LIMIT = 30  # seconds, for whatever is bound to happen


class Server:
    """A server with the settings under test, on a free port. It counts runs by key."""

    def __init__(self, program, settings):
        self.settings = settings
        self.folder = tempfile.TemporaryDirectory(prefix="clients-")
        folder = pathlib.Path(self.folder.name)
        self.run_log = folder / "runs"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("IDEMPOTENCY_KEY")}
        for name, value in settings.items():
            environment["IDEMPOTENCY_KEY__" + name.upper().replace(".", "__")] = value
        environment.update(ADDR="127.0.0.1:0", RUN_LOG=str(self.run_log))
        self.errors = open(folder / "errors", "w+", encoding="utf-8")
        # The folder has no `idempotency.toml`, so the settings are these and no others.
        self.process = subprocess.Popen(
            [program], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.errors.seek(0)
            raise SystemExit(f"the server does not start with {settings}:\n{self.errors.read()}")
        host, port = line.split()[-1].rsplit(":", 1)
        self.address = (host, int(port))

    def runs(self, key):
        """How often a handler has started for the key."""
        lines = self.run_log.read_text(encoding="utf-8").splitlines() if self.run_log.exists() else []
        words = (line.split(" ") for line in lines)
        return sum(line[0] == "start" and line[-1] == key for line in words)

    def wait_for_run(self, key):
        """Returns when a handler has started for the key."""
        end = time.monotonic() + LIMIT
        while not self.runs(key):
            if time.monotonic() > end:
                raise TimeoutError(f"no run within {LIMIT} s")
            time.sleep(0.01)

    def send(self, request):
        return wire.exchange(self.address, request, LIMIT)

    def begin(self, request, key):
        """Sends a request and returns when its handler has started. The response is read in a thread."""
        threading.Thread(target=self.send, args=[request], daemon=True).start()
        self.wait_for_run(key)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        self.folder.cleanup()
