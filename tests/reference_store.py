#!/usr/bin/env python3
"""A store that speaks the store protocol (stores/PROTOCOL.md), complete and as small as it can be: one SQLite file, one table `notes`.

    tests/reference_store.py FILE PORT [--token TOKEN] [--certificate PEM --key PEM]

Its own users (tests/reference_user.py) reach it at POST /notes (a write), PUT /notes (a change) and GET /notes?plane=P (a read): the
fence is asked there. It starts anew upon SIGHUP. The rule: each verb is one transaction. If we die in one, SQLite rolls it back.
"""

import argparse
import hashlib
import http.server
import json
import os
import signal
import sqlite3
import ssl
import struct
import sys
import threading
import urllib.parse

COLUMNS = [("id", "integer"), ("plane", "text"), ("body", "text"), ("score", "real"), ("raw", "bytes"), ("embedding", "vector")]
NAMES = [name for name, _ in COLUMNS]
SOME = f"SELECT {', '.join(NAMES)} FROM notes WHERE"
SCHEMA = f"""
    CREATE TABLE IF NOT EXISTS notes (id INTEGER NOT NULL, {", ".join(NAMES[1:])}, UNIQUE (id, plane));
    CREATE TABLE IF NOT EXISTS fences (plane TEXT PRIMARY KEY, plane_id TEXT, mode TEXT, epoch INTEGER);"""


class Refused(Exception):
    def __init__(self, status, error, message, **more):
        super().__init__(message)
        self.status, self.answer = status, {"error": error, "message": message, **more}


def to_blob(vector):
    return struct.pack(f"<{len(vector)}f", *vector)


class Store:
    """The verbs; each takes the request's body and the name of the plane, and answers an object, or the records of one."""

    columns = COLUMNS

    def __init__(self, file):
        self.db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self.db.executescript("PRAGMA journal_mode = WAL; PRAGMA secure_delete = ON;" + SCHEMA)
        self.alone = threading.Lock()

    def line(self, row):
        """A record, as the protocol has it."""
        vector = row[-1] and list(struct.unpack(f"<{len(row[-1]) // 4}f", row[-1]))
        return {"key": row[0], "version": hashlib.sha256(repr(row).encode()).hexdigest(), "values": [*row[:-1], vector]}

    def fence_of(self, plane):
        return self.db.execute("SELECT plane_id, mode, epoch FROM fences WHERE plane = ?", [plane]).fetchone()

    def admit(self, body, plane):
        """Refuses another plane than the fence's, and an epoch older than what was seen."""
        plane_id, mode, seen = self.fence_of(plane) or (body["plane_id"], "open", 0)
        if plane_id != body["plane_id"]:
            raise Refused(409, "wrong_place", f"these records belong to plane {plane_id}")
        if body["epoch"] < seen:
            raise Refused(409, "stale_epoch", "a newer claim was here", mine=body["epoch"], seen=seen)
        return mode

    def greet(self):
        return {"protocol": "lethe-store", "version": 1, "store_id": "reference", "server": "reference 1", "resources": ["notes"], "writable": True}

    def describe(self, body, plane):
        columns = [{"name": name, "kind": kind} for name, kind in self.columns]
        return {"resource": "notes", "plane_column": "plane", "plane": plane, "columns": columns, "dependents": [], "unfenced": []}

    def count(self, body, plane):
        (count,) = self.db.execute("SELECT count(*) FROM notes WHERE plane = ?", [plane]).fetchone()
        return {"count": count}

    def export(self, body, plane):
        after = body["after"] if body["after"] is not None else -(2**63)
        return self.db.execute(f"{SOME} plane = ? AND id > ? ORDER BY id LIMIT ?", [plane, after, body["rows_max"]]).fetchall()

    def lookup(self, body, plane):
        these = f"{SOME} id IN (SELECT value FROM json_each(?)) AND (plane = ? OR ?)"
        return self.db.execute(these, [json.dumps(body["keys"]), plane, body.get("anywhere", False)]).fetchall()

    def fence(self, body, plane, mode=None):
        before = self.admit(body, plane)
        order = ["open", "read_only", "closed", "purged"]
        mode = mode or max(before, body["mode"], key=order.index)
        values = [plane, body["plane_id"], mode, body["epoch"]]
        self.db.execute("INSERT INTO fences VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET mode = excluded.mode, epoch = excluded.epoch", values)
        return {"mode": mode, "unfenced": []}

    def unfence(self, body, plane):
        if self.admit(body, plane) == "purged":
            raise Refused(422, "purged", "this plane was purged: it is closed for ever")
        return self.fence(body, plane, "open")

    def delete(self, body, plane):
        self.admit(body, plane)
        answer = {"deleted": 0, "absent": 0, "changed": 0}
        for row in body["rows"]:
            found = self.lookup({"keys": [row["key"]]}, plane)
            if not found:
                answer["absent"] += 1
            elif self.line(found[0])["version"] != row["version"]:
                answer["changed"] += 1
            else:
                answer["deleted"] += 1
                self.remove(row["key"], plane)
        return answer

    def remove(self, key, plane):
        # Another plane may have a record under the same key.
        self.db.execute("DELETE FROM notes WHERE id = ? AND plane = ?", [key, plane])

    def scrub(self, body, plane):
        self.db.execute("COMMIT")
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.execute("BEGIN IMMEDIATE")
        return {"secure_delete": "on", "wal": "truncated"}

    def probe(self, body, plane):
        plane_id, mode, epoch = self.fence_of(plane) or (None, None, None)
        if plane_id is None:
            raise Refused(409, "wrong_place", "this plane was never fenced here")
        one = "SELECT EXISTS (SELECT 1 FROM notes WHERE (plane = ? OR plane IS NULL) AND embedding = ?)"
        found = sum(self.db.execute(one, [plane, to_blob(vector)]).fetchone()[0] for vector in body["vectors"])
        canary = f"fence of plane {plane_id}, mode {mode}, epoch {epoch}"
        return {"canary": canary, "mode": mode, "plane_id": plane_id, "count": self.count(body, plane)["count"], "vectors_found": found}

    def admit_user(self, plane, *refused):
        """Refuses the store's own users while the plane's fence is in one of these modes."""
        mode = (self.fence_of(plane) or (None, "open"))[1]
        if mode in refused:
            raise Refused(403, "closed", f"the plane is {mode}")

    def write(self, notes):
        """Adds a note, or several; one without an id gets the next."""
        for note in notes if isinstance(notes, list) else [notes]:
            self.admit_user(note["plane"], "read_only", "closed", "purged")
            if note.get("id") is None:
                (note["id"],) = self.db.execute("SELECT coalesce(max(id), 0) + 1 FROM notes").fetchone()
            embedding = note.get("embedding") and to_blob(note["embedding"])
            values = [*[note.get(name) for name in NAMES[:-1]], embedding]
            self.db.execute(f"INSERT INTO notes VALUES ({', '.join('?' * len(NAMES))})", values)
        return {}

    def change(self, note):
        """Sets a note's text, or its plane."""
        self.admit_user(note["plane"], "read_only", "closed", "purged")
        ((name, value),) = note["set"].items()
        change = f"UPDATE notes SET {NAMES[NAMES.index(name)]} = ? WHERE id = ? AND plane = ?"
        self.db.execute(change, [value, note["id"], note["plane"]])
        return {}

    def read(self, plane):
        self.admit_user(plane, "closed", "purged")
        return {"notes": self.db.execute("SELECT id, body FROM notes WHERE plane = ?", [plane]).fetchall()}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def store(self):
        return self.server.store

    def answer(self, work):
        store = self.store()
        try:
            if self.server.token and self.headers.get("authorization") != f"Bearer {self.server.token}":
                raise Refused(401, "unauthorised", "the token is missing or wrong")
            with store.alone:
                store.db.execute("BEGIN IMMEDIATE")
                try:
                    status, lines = 200, work(store)
                    store.db.execute("COMMIT")
                except BaseException:
                    store.db.execute("ROLLBACK")
                    raise
        except Refused as refused:
            status, lines = refused.status, refused.answer
        except (KeyError, ValueError, TypeError, sqlite3.Error) as error:
            status, lines = 400, {"error": "bad_request", "message": f"{type(error).__name__}: {error}"}
        if isinstance(lines, list):
            head = {"columns": [{"name": name, "kind": kind} for name, kind in store.columns]}
            lines = [head, *map(store.line, lines), {"end": True, "records": len(lines)}]
        text = "".join(json.dumps(line) + "\n" for line in (lines if isinstance(lines, list) else [lines])).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        plane = urllib.parse.parse_qs(url.query).get("plane", [""])[0]
        self.answer(lambda store: store.read(plane) if url.path == "/notes" else store.greet())

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def do_PUT(self):
        body = self.body()
        self.answer(lambda store: store.change(body))

    def do_POST(self):
        body, verb = self.body(), self.path.strip("/")

        def work(store):
            if verb == "notes":
                return store.write(body)
            scope = body["scope"]
            if (scope["resource"], scope["plane_column"], scope["key"]) != ("notes", "plane", "id"):
                raise Refused(404, "no_such_resource", "there is `notes`, with key `id` and plane_column `plane`")
            if verb not in ("describe", "count", "export", "lookup", "fence", "unfence", "delete", "scrub", "probe"):
                raise Refused(404, "no_such_verb", f"there is no verb {verb}")
            return getattr(store, verb)(body, scope["plane"])

        self.answer(work)

    def log_message(self, *_):
        pass


def serve(server):
    """Serves for ever; upon SIGHUP, as another process that remembers nothing but its files."""
    script, file, _, *options = sys.argv
    again = [sys.executable, script, file, str(server.server_port), *options]
    signal.signal(signal.SIGHUP, lambda *_: os.execv(sys.executable, again))
    print(server.server_port, flush=True)
    server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("port", type=int)
    for option in ("--token", "--certificate", "--key"):
        parser.add_argument(option)
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.store, server.token = Store(options.file), options.token
    serve(server)


if __name__ == "__main__":
    main()
