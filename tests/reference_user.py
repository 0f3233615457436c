#!/usr/bin/env python3
"""The reference server's own users, as `lethe store conform` has them act: it says in the environment which plane and record are meant.

    tests/reference_user.py write|read|change|orphan|restart HOST:PORT PATH PID

The rule: it ends with 0 if the server did it, and with 1 if it refused. If we die, the server did it or did not.
"""

import json
import os
import signal
import socket
import sys
import time

TOLD = os.environ


def connect(address):
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def ask(address, method, path, body=None):
    """The answer of a server, or None where it refuses. No HTTP library: this starts in a tenth of its time."""
    content = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    with connect(address) as server:
        server.sendall(head.encode() + content)
        answer = b"".join(iter(lambda: server.recv(65536), b""))
    head, _, said = answer.partition(b"\r\n\r\n")
    return json.loads(said) if b" 200 " in head.splitlines()[0] else None


def restart(address, path, process):
    with connect(address) as before:
        os.kill(int(process), signal.SIGHUP)
        try:
            before.recv(1)
        except ConnectionResetError:
            pass
    # A connection alone shows nothing: the old server's queue may have taken it.
    while not answers(address, path):
        time.sleep(0.01)


def answers(address, path):
    try:
        return ask(address, "GET", f"{path}/notes?plane=") is not None
    except (OSError, IndexError):
        return False


def main():
    verb, address, path, process = sys.argv[1:]
    if verb == "restart":
        return restart(address, path, process)
    plane = TOLD["LETHE_CONFORM_PLANE"]
    if verb == "read":
        said = ask(address, "GET", f"{path}/notes?plane={plane}")
        done = said and said["notes"]
    elif verb == "write":
        note = {"plane": plane, "body": TOLD["LETHE_CONFORM_MARKER"], "embedding": [7.5, -0.0, 1e-45]}
        done = ask(address, "POST", f"{path}/notes", note) is not None
    else:
        change = {"body": "changed"} if verb == "change" else {"plane": None}
        note = {"plane": plane, "id": int(TOLD["LETHE_CONFORM_KEY"]), "set": change}
        done = ask(address, "PUT", f"{path}/notes", note) is not None
    sys.exit(not done)


main()
