"""Chroma: the server that its Python package carries, without the package's other dependencies, which only its client needs.

The rule: no test begins before the server that answers has shown, in our own data directory, a database that we named.
If we die in it, the data directory is whole or is made again.
"""

import json
import os
import pathlib
import shutil
import signal
import sqlite3
import sys
import urllib.error
import urllib.request

from .place import Trouble, run, say, wait_until

VERSION = "1.5.9"
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Beside what is built, so that it stays from one run to the next.
FOLDER = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "tests-chroma"
PYTHON = FOLDER / "bin" / "python"
RUN = "import sys, chromadb_rust_bindings; chromadb_rust_bindings.cli(['chroma', *sys.argv[1:]])"


def is_there():
    packages = FOLDER / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    return PYTHON.exists() and (packages / f"chromadb-{VERSION}.dist-info" / "RECORD").exists()


def install():
    say(f"installing Chroma {VERSION} into {FOLDER}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    run(sys.executable, "-m", "venv", FOLDER)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    run(PYTHON, "-m", "pip", "install", *quiet, f"chromadb=={VERSION}")


def environment(place):
    """What a test is told: the server's address, where its files are, and how its command is called."""
    return {
        "LETHE_TEST_CHROMA": f"http://127.0.0.1:{place.port('chroma')}",
        "LETHE_TEST_CHROMA_DATA": place.dir / "chroma",
        "LETHE_TEST_CHROMA_PYTHON": PYTHON,
    }


class Chroma:
    def __init__(self, place):
        self.place, self.process = place, place.process("chroma")
        self.folder = place.dir / "chroma"

    def start(self):
        if self.process.pid() is None:
            self.folder.mkdir(exist_ok=True)
            where = ["--host", "127.0.0.1", "--port", self.place.port("chroma"), "--path", self.folder]
            silent = {**os.environ, "ANONYMIZED_TELEMETRY": "False", "OTEL_SDK_DISABLED": "true"}
            self.process.start(PYTHON, "-c", RUN, "run", *where, cwd=self.folder, env=silent)
            wait_until(lambda: self.process.must_live() and self._ask("GET", "/heartbeat"), 60, "Chroma does not answer")
        ours = f"lethe-test-{self.place.secret('chroma_database')}"
        databases = "/tenants/default_tenant/databases"
        self._ask("GET", f"{databases}/{ours}") or self._ask("POST", databases, {"name": ours})
        with sqlite3.connect(f"file:{self.folder}/chroma.sqlite3?mode=ro", uri=True) as file:
            found = file.execute("SELECT count(*) FROM databases WHERE name = ?", [ours]).fetchone()
        if found != (1,):
            raise Trouble(f"the Chroma on port {self.place.port('chroma')} is not ours: its data do not stand in {self.folder}")

    def stop(self, kill=False):
        self.process.stop(signal.SIGKILL if kill else signal.SIGTERM)

    def _ask(self, method, path, body=None):
        """The answer; None where there is none, or the server says no."""
        url = f"http://127.0.0.1:{self.place.port('chroma')}/api/v2{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.loads(answer.read())
        except (urllib.error.HTTPError, OSError, ValueError):
            return None
