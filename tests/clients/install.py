"""Installs the clients' libraries under the target directory, once for each set of versions."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
FOLDER = TARGET / "clients"


def need(program, purpose):
    if shutil.which(program) is None:
        raise SystemExit(f"missing: {program}, {purpose}; install it with your system's package manager")


def need_node():
    need("node", "which runs the clients of npm/")
    need("npm", "which installs the clients of npm/")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, version[1:].split("."))) < (20, 18, 1):
        raise SystemExit(f"node is {version}; the clients of npm/ need version 20.18.1 or newer")


def run(*command, **options):
    print("==", *(str(word) for word in command[:3]), flush=True)
    if subprocess.run([str(word) for word in command], **options).returncode != 0:
        raise SystemExit(f"failed: {' '.join(str(word) for word in command)}")


def once(folder, files, install):
    """Calls `install`, unless it has succeeded before with the same files."""
    versions = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == versions:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    install()
    stamp.write_text(versions)


def npm():
    """Returns the command for a program in `npm/`."""
    need_node()
    folder = FOLDER / "npm"
    files = [HERE / "npm" / name for name in ("package.json", "package-lock.json", ".npmrc")]

    def install():
        for file in files:
            shutil.copy(file, folder)
        run("npm", "ci", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)

    once(folder, files, install)
    # Node looks for packages beside the program that imports them.
    for program in (HERE / "npm").glob("*.mjs"):
        shutil.copy(program, folder)
    return lambda program: ["node", str(folder / f"{program}.mjs")]


def pypi():
    """Returns the command for a program in `pypi/`."""
    folder = FOLDER / "pypi"
    python = folder / "venv" / "bin" / "python"
    requirements = HERE / "pypi" / "requirements.txt"

    def install():
        try:
            import ensurepip  # noqa: F401
            import venv  # noqa: F401
        except ImportError:
            raise SystemExit("missing: Python's venv and ensurepip; Debian's package is python3-venv") from None
        run(sys.executable, "-m", "venv", folder / "venv")
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", requirements)

    once(folder, [requirements], install)
    return lambda program: [str(python), "-B", str(HERE / "pypi" / f"{program}.py")]


def cargo():
    """Returns the command for the program in `cargo/`."""
    need("cargo", "which builds the server and the client of cargo/")
    manifest, folder = HERE / "cargo" / "Cargo.toml", FOLDER / "cargo"
    run("cargo", "build", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", folder)
    return lambda program: [str(folder / "debug" / program.replace("_", "-"))]


def curl():
    need("curl", "which is one of the clients")
    return lambda program: [sys.executable, "-B", str(HERE / "curl" / f"{program}.py")]


COMMANDS = {"npm": npm, "pypi": pypi, "cargo": cargo, "curl": curl}


def conformance():
    """Builds the conformance server and returns the path of its program."""
    need("cargo", "which builds the server and the client of cargo/")
    print("== cargo build --example conformance", flush=True)
    command = ["cargo", "build", "--example", "conformance", "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "conformance":
            return message["executable"]
    raise SystemExit("cargo has built no example `conformance`")
