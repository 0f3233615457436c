"""A directory in which servers stand: its ports, its pids, its secrets, and the processes that belong to it.

The rule: a process is recorded before it can do anything, and is touched only while pid, start time and program are those recorded.
If we die in it, the records stay, and `down` works from them.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import pwd
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

MARKER = "lethe-test-servers"
# Stopped in this order, whatever was started: who serves first, who stores last.
STOPPING = ["pgbouncer", "rgw", "chroma", "postgres", "osd", "mon"]
# Below the range from which the system takes ports for outgoing connections, so that a stopped server finds its port free again.
PORTS = range(15000, 32000)


class Trouble(Exception):
    """What keeps a server from standing, in one sentence."""


def say(words):
    print(f"tests/servers: {words}", file=sys.stderr)


def run(*command, told=False, **settings):
    """Runs a command to its end; its output, if it fails, is in the trouble."""
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **settings)
    if done.returncode != 0:
        raise Trouble(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


# Set once we are interrupted: no thread of ours starts anything after that.
interrupted = threading.Event()


def deaf():
    """From here on we only clean up, which is short and bounded: a second Ctrl-C must not leave half of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def together(*works):
    """Does several things at once; the first trouble is raised when all have ended."""
    # Waited for by events: a join that was interrupted takes its thread for ended.
    troubles, ended = [], [threading.Event() for _ in works]

    def guarded(work, end):
        try:
            work()
        except BaseException as trouble:
            troubles.append(trouble)
        finally:
            end.set()

    try:
        for work, end in zip(works, ended):
            threading.Thread(target=guarded, args=(work, end), daemon=True).start()
        for end in ended:
            end.wait()
    except BaseException:
        deaf()
        interrupted.set()
        for end in ended:
            end.wait()
        raise
    if troubles:
        raise troubles[0]


def wait_until(holds, seconds, what):
    """Asks until it holds, for so many seconds."""
    until = time.monotonic() + seconds
    while not holds():
        if interrupted.is_set() or time.monotonic() > until:
            raise Trouble(f"{what} within {seconds} s")
        time.sleep(0.1)


def unprivileged():
    """The settings under which a program runs that refuses to run as root: the user `postgres`, of the Debian package."""
    if os.getuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise Trouble("there is no user `postgres`; run `tests/servers install`")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Process:
    """One server process, by what is recorded of it."""

    def __init__(self, place, name):
        self.name, self.log = name, place.dir / "log" / f"{name}.log"
        self.record = place.dir / "pids" / name

    @staticmethod
    def identity(pid):
        """Start time and program of a live process; None for one that is gone, or dead and not yet reaped."""
        try:
            state, *rest = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
            return None if state in "ZX" else [rest[18], os.path.basename(program)]
        except OSError:
            return None

    def pid(self):
        """The pid, while the process still is what was started."""
        try:
            recorded = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        return recorded["pid"] if self.identity(recorded["pid"]) == recorded["identity"] else None

    def start(self, *command, **settings):
        """Starts the program in a session of its own. It waits for a line from us, so that it runs only once it is on record."""
        if interrupted.is_set():
            raise Trouble(f"{self.name} is not started: interrupted")
        reading, writing = os.pipe()
        with self.log.open("ab") as log:
            command = ["/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *map(str, command)]
            child = subprocess.Popen(command, stdin=reading, stdout=log, stderr=log, start_new_session=True, **settings)
        os.close(reading)
        start_time, _ = self.identity(child.pid) or [None, None]
        program = os.path.basename(os.path.realpath(shutil.which(command[4]) or command[4]))
        self.record.write_text(json.dumps({"pid": child.pid, "identity": [start_time, program]}))
        os.write(writing, b"go\n")
        os.close(writing)
        self.child = child

    def must_live(self):
        """Raises trouble with the end of the log, once the process has ended."""
        if self.child.poll() is not None:
            raise Trouble(f"{self.name} ended with {self.child.returncode}:\n{self.log.read_text('utf-8', 'replace')[-2000:]}")
        return True

    def _ends(self, seconds):
        until = time.monotonic() + seconds
        while self.pid() is not None and time.monotonic() < until:
            time.sleep(0.05)
        return self.pid() is None

    def stop(self, first=signal.SIGTERM, patience=15):
        """Stops it, by force after so many seconds. True, if it ran."""
        pid = self.pid()
        if pid is not None:
            for number in (first, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if self._ends(patience):
                    break
            else:
                raise Trouble(f"{self.name}, pid {pid}, does not end, not even by SIGKILL")
        self.record.unlink(missing_ok=True)
        return pid is not None


class Place:
    """The directory, and what is written in it."""

    def __init__(self, folder):
        self.dir = pathlib.Path(folder).absolute()
        self._settings = self.dir / MARKER
        self._changing = threading.Lock()

    def create(self):
        if self.dir.exists() and any(self.dir.iterdir()):
            self.must_be_ours()
            return
        self.dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._settings.touch(mode=0o600)
        self._settings.write_text("{}")
        for part in ("pids", "log"):
            (self.dir / part).mkdir(exist_ok=True)

    def must_be_ours(self):
        if not self.dir.exists():
            raise Trouble(f"{self.dir} does not exist; run `tests/servers up --dir {self.dir}`")
        if not self._settings.exists() or self._settings.stat().st_uid != os.getuid():
            raise Trouble(f"{self.dir} was not made by `tests/servers up` of this user: it is left alone")

    @contextlib.contextmanager
    def locked(self):
        """One command at a time changes what runs here."""
        folder = os.open(self.dir, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def setting(self, name, make):
        """A value that is made once and then stays: a port, a password."""
        with self._changing:
            settings = json.loads(self._settings.read_text())
            if name not in settings:
                settings[name] = make(settings)
                fresh = self._settings.with_suffix(".new")
                fresh.touch(mode=0o600)
                fresh.write_text(json.dumps(settings, indent=1))
                fresh.replace(self._settings)
            return settings[name]

    def secret(self, name):
        return self.setting(name, lambda _: secrets.token_hex(12))

    def port(self, name):
        def free(settings):
            for port in random.sample(PORTS, 200):
                with socket.socket() as probe, contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    if port not in settings.values():
                        return port
            raise Trouble(f"no free port for {name} among 200 tried")

        return self.setting(f"{name}_port", free)

    def port_told(self, name):
        port = json.loads(self._settings.read_text()).get(f"{name}_port")
        return f"127.0.0.1:{port}" if port else ""

    def process(self, name):
        return Process(self, name)

    def processes(self):
        return [self.process(name) for name in STOPPING]

    def write_environment(self, values):
        fresh = self.dir / "env.new"
        fresh.touch(mode=0o600)
        fresh.write_text("".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in values.items()))
        fresh.replace(self.dir / "env")

    def environment(self):
        if not (self.dir / "env").exists():
            raise Trouble(f"the servers in {self.dir} did not come up; run `tests/servers up --dir {self.dir}` again, or `down`")
        return (self.dir / "env").read_text()

    def take_down(self):
        """Stops what runs and removes the directory. What does not end, or cannot be removed, is told, and the directory stays."""
        began = time.monotonic()
        deaf()
        # PostgreSQL frees its shared memory at SIGINT; the others are told to end, and not waited for long, as their data goes as well.
        stopped = [each.name for each in self.processes() if each.stop(signal.SIGINT if each.name == "postgres" else signal.SIGTERM, 5)]
        shutil.rmtree(self.dir)
        say(f"stopped {', '.join(stopped) or 'nothing (nothing ran)'} and removed {self.dir} in {time.monotonic() - began:.1f} s")
