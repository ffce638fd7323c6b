"""`curl --retry`, with the outcome of the programs in pypi/."""

import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "pypi"))

from outcome import answer, outcome


def call(job):
    with tempfile.TemporaryDirectory() as folder:
        head, body = pathlib.Path(folder, "head"), pathlib.Path(folder, "body")
        command = ["curl", "-q", "--silent", "--show-error", "--retry", "4", "-X", job.method, job.url + job.path]
        command += ["-H", f"Idempotency-Key: {job.key}", "--max-time", str(job.timeout / 1000)]
        command += ["-D", str(head), "-o", str(body)]
        if not job.defaults:
            command.append("--retry-all-errors")
        if job.upload:
            (pathlib.Path(folder) / "a.txt").write_text(job.payload)
            command += ["-F", f"file=@{folder}/a.txt"]
        else:
            command += ["-H", "Content-Type: application/json", "-d", job.payload]
        subprocess.run(command, check=True)
        # The file has the heads of all attempts, each with an empty line at its end.
        lines = head.read_text().split("\n\n")[-2].splitlines()
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return answer(int(lines[0].split(" ")[1]), headers, body.read_text())


outcome(call)
