"""Chroma: the server that its Python package carries, without the package's other dependencies, which only its client needs.

The rule: no test begins before the process that we started, over our data directory, is the one that listens on the port.
Nothing is asked of whoever else may listen there. If we die in it, the data directory is whole or is made again.
"""

import os
import pathlib
import shutil
import signal
import sys
import urllib.request

from .place import Trouble, run, say, wait_until

VERSION = "1.5.9"
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Beside what is built, so that it stays from one run to the next.
FOLDER = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute() / "tests-chroma"
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
            wait_until(lambda: self.process.must_live() and self._listens() and self._answers(), 60, "Chroma does not answer")
        if not self._listens():
            raise Trouble(f"the server on port {self.place.port('chroma')} is not ours: our process does not listen there")

    def stop(self, kill=False):
        self.process.stop(signal.SIGKILL if kill else signal.SIGTERM)

    def _listens(self):
        """Whether our process holds the socket that listens on our port."""
        here = [f"0100007F:{self.place.port('chroma'):04X}", "0A"]
        try:
            rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()]
            held = [os.readlink(each) for each in pathlib.Path(f"/proc/{self.process.pid()}/fd").iterdir()]
        except OSError:
            return False
        return any(f"socket:[{row[9]}]" in held for row in rows if row[1:4:2] == here)

    def _answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.place.port('chroma')}/api/v2/heartbeat", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
