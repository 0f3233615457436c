#!/usr/bin/env python3
"""Servers that break the store protocol, each in a way of its own that the conformance suite must catch.

    tests/lying_store.py FOLDER PORT

The reference server with the flaw LIE is at http://127.0.0.1:PORT/LIE, over a file of its own in FOLDER. The rule: a lie differs from
the reference in that one thing. If we die, the files are the test's to remove.
"""

import http.server
import pathlib
import sys
import threading

sys.dont_write_bytecode = True

import reference_store as reference
from reference_store import COLUMNS, SOME, Refused, to_blob

Honest = reference.Store
LIES = {}


def lie(flawed):
    LIES[flawed.__name__] = flawed
    return flawed


# What is read.


@lie
class lies_about_count(Honest):
    def count(self, body, plane):
        return {"count": super().count(body, plane)["count"] + 1}


@lie
class loses_a_record(Honest):
    def export(self, body, plane):
        return [row for row in super().export(body, plane) if row[0] % 7]


@lie
class hides_records(Honest):
    """Whoever asks: exported, counted and found are the same few."""

    def count(self, body, plane):
        return {"count": len(self.export({"after": None, "rows_max": 10**6}, plane))}

    def export(self, body, plane):
        return [row for row in super().export({**body, "rows_max": 10**6}, plane) if row[0] % 7][: body["rows_max"]]

    def lookup(self, body, plane):
        return [row for row in super().lookup(body, plane) if row[0] % 7]


@lie
class ignores_cursor(Honest):
    def export(self, body, plane):
        return super().export({**body, "after": None}, plane)


@lie
class pages_out_of_order(Honest):
    def export(self, body, plane):
        return super().export(body, plane)[::-1]


@lie
class mangles_other(Honest):
    """Texts lose their accents and their end, zeros and bytes are lost."""

    def line(self, row):
        line = super().line(row)
        _, _, body, score, *_ = line["values"]
        text = body and body[:8].encode("ascii", "ignore").decode()
        line["values"][2:5] = [text, score or None, ""]
        return line


@lie
class drops_column(Honest):
    columns = [column for column in COLUMNS if column[0] != "body"]

    def line(self, row):
        line = super().line(row)
        del line["values"][2]
        return line


@lie
class case_insensitive(Honest):
    """As a collation may have it; and each spelling is described as a plane of its own."""

    def count(self, body, plane):
        return super().count(body, plane.lower())

    def export(self, body, plane):
        return super().export(body, plane.lower())

    def lookup(self, body, plane):
        return super().lookup(body, plane.lower())

    def fence(self, body, plane, mode=None):
        return super().fence(body, plane.lower(), mode)

    def unfence(self, body, plane):
        return super().unfence(body, plane.lower())

    def delete(self, body, plane):
        return super().delete(body, plane.lower())

    def probe(self, body, plane):
        return super().probe(body, plane.lower())


@lie
class lookup_ignores_anywhere(Honest):
    def lookup(self, body, plane):
        return super().lookup({**body, "anywhere": False}, plane)


@lie
class lookup_always_anywhere(Honest):
    def lookup(self, body, plane):
        return super().lookup({**body, "anywhere": True}, plane)


@lie
class version_constant(Honest):
    def line(self, row):
        return {**super().line(row), "version": f"v{row[0]}"}


@lie
class renamed_by_restart(Honest):
    def __init__(self, file):
        super().__init__(file)
        (starts,) = self.db.execute("PRAGMA user_version").fetchone()
        self.db.execute(f"PRAGMA user_version = {starts + 1}")
        self.name = f"reference {starts + 1}"

    def greet(self):
        return {**super().greet(), "store_id": self.name}


# What is fenced, and for whom.


@lie
class fences_nothing(Honest):
    def admit_user(self, plane, *refused):
        pass


@lie
class fences_no_reads(Honest):
    def admit_user(self, plane, *refused):
        if "read_only" in refused:
            super().admit_user(plane, *refused)


@lie
class leaky(fences_nothing):
    """It says something about backups."""

    def describe(self, body, plane):
        return {**super().describe(body, plane), "unfenced": ["backups are not fenced"]}


@lie
class overcloses(Honest):
    def describe(self, body, plane):
        return {**super().describe(body, plane), "unfenced": ["backups are not fenced"]}

    def admit_user(self, plane, *refused):
        super().admit_user(plane, "read_only", *refused)


@lie
class fence_closes_everybody(Honest):
    def admit_user(self, plane, *refused):
        for (fenced,) in self.db.execute("SELECT plane FROM fences").fetchall():
            super().admit_user(fenced, *refused)


@lie
class fence_says_only_read_only(Honest):
    def fence(self, body, plane, mode=None):
        return super().fence({**body, "mode": "read_only"}, plane, mode)


@lie
class never_purges(Honest):
    def fence(self, body, plane, mode=None):
        return super().fence({**body, "mode": "closed" if body.get("mode") == "purged" else body.get("mode")}, plane, mode)


@lie
class purged_reads(Honest):
    def admit_user(self, plane, *refused):
        super().admit_user(plane, *(refused if "read_only" in refused else ["closed"]))


@lie
class purged_reopens_by_fence(Honest):
    def fence(self, body, plane, mode=None):
        return super().fence(body, plane, mode or (body["mode"] if self.admit(body, plane) == "purged" else None))


@lie
class purge_keeps_old_epoch(Honest):
    def admit(self, body, plane):
        _, mode, seen = self.fence_of(plane) or (None, "open", 0)
        return super().admit({**body, "epoch": max(body["epoch"], seen)} if mode == "purged" else body, plane)


@lie
class busy_where_it_must_refuse(Honest):
    def unfence(self, body, plane):
        if self.admit(body, plane) == "purged":
            raise Refused(503, "busy", "later, perhaps")
        return super().unfence(body, plane)


@lie
class forgets_epochs(Honest):
    def admit(self, body, plane):
        return super().admit({**body, "epoch": 2**62}, plane)


@lie
class unfence_forgets(Honest):
    def unfence(self, body, plane):
        super().unfence(body, plane)
        self.db.execute("DELETE FROM fences WHERE plane = ?", [plane])
        return {}


@lie
class epoch_not_raised_by_unfence(Honest):
    def unfence(self, body, plane):
        _, _, seen = self.fence_of(plane)
        super().unfence(body, plane)
        self.db.execute("UPDATE fences SET epoch = ? WHERE plane = ?", [seen, plane])
        return {}


@lie
class stranger_after_unfence(Honest):
    def admit(self, body, plane):
        self.db.execute("DELETE FROM fences WHERE plane = ? AND mode = 'open' AND plane_id <> ?", [plane, body["plane_id"]])
        return super().admit(body, plane)


class Anyones(Honest):
    def as_owner(self, body, plane):
        return {**body, "plane_id": (self.fence_of(plane) or [body["plane_id"]])[0]}


@lie
class fence_anyones(Anyones):
    def fence(self, body, plane, mode=None):
        return super().fence(self.as_owner(body, plane), plane, mode)


@lie
class delete_anyones(Anyones):
    def delete(self, body, plane):
        return super().delete(self.as_owner(body, plane), plane)


@lie
class unfence_anyones(Anyones):
    def unfence(self, body, plane):
        return super().unfence(self.as_owner(body, plane), plane)


@lie
class probe_anyones(Anyones):
    def probe(self, body, plane):
        return {**super().probe(body, plane), "plane_id": body["plane_id"]}


@lie
class memory_only_fence(Honest):
    def __init__(self, file):
        super().__init__(file)
        self.db.execute("DELETE FROM fences")


# What is deleted, and looked for.


@lie
class ignores_versions(Honest):
    def delete(self, body, plane):
        found = self.lookup({"keys": [row["key"] for row in body["rows"]]}, plane)
        versions = {row[0]: self.line(row)["version"] for row in found}
        return super().delete({**body, "rows": [{**row, "version": versions.get(row["key"])} for row in body["rows"]]}, plane)


@lie
class deletes_nothing(Honest):
    def remove(self, key, plane):
        pass


@lie
class takes_the_neighbour(Honest):
    def remove(self, key, plane):
        super().remove(key, plane)
        self.db.execute("DELETE FROM notes WHERE rowid = (SELECT min(rowid) FROM notes WHERE plane <> ?)", [plane])


@lie
class deletes_by_key_alone(Honest):
    def remove(self, key, plane):
        self.db.execute("DELETE FROM notes WHERE id = ?", [key])


@lie
class delete_any_plane(Honest):
    def delete(self, body, plane):
        answer = super().delete(body, plane)
        for row in body["rows"]:
            for found in self.lookup({"keys": [row["key"]], "anywhere": True}, plane):
                if self.line(found)["version"] == row["version"]:
                    self.remove(row["key"], found[1])
                    answer = {**answer, "deleted": answer["deleted"] + 1, "absent": answer["absent"] - 1}
        return answer


@lie
class soft_delete(Honest):
    def remove(self, key, plane):
        self.db.execute("UPDATE notes SET plane = 'trash' WHERE id = ? AND plane = ?", [key, plane])


class Scoped(Honest):
    """Vectors are looked for in the scope alone."""

    def probe(self, body, plane):
        one = f"SELECT EXISTS ({SOME} plane = ? AND embedding = ?)"
        found = sum(self.db.execute(one, [plane, to_blob(vector)]).fetchone()[0] for vector in body["vectors"])
        return {**super().probe(body, plane), "vectors_found": found}


@lie
class probe_vectors_scoped(Scoped):
    pass


@lie
class soft_delete_and_scoped_lookup(Scoped):
    def remove(self, key, plane):
        self.db.execute("UPDATE notes SET plane = NULL WHERE id = ? AND plane = ?", [key, plane])

    def lookup(self, body, plane):
        return super().lookup({**body, "anywhere": False}, plane)


@lie
class vectors_all_or_nothing(Honest):
    def probe(self, body, plane):
        found = super().probe(body, plane)
        return {**found, "vectors_found": len(body["vectors"]) if found["count"] else 0}


class Handler(reference.Handler):
    """Gives each request to the server of its lie."""

    stores, alone = {}, threading.Lock()

    def parse_request(self):
        understood = super().parse_request()
        if understood:
            _, self.lie, path = self.path.split("/", 2)
            self.path = "/" + path
        return understood

    def store(self):
        with self.alone:
            if self.lie not in self.stores:
                self.stores[self.lie] = LIES[self.lie](pathlib.Path(sys.argv[1]) / f"{self.lie}.db")
        return self.stores[self.lie]


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    server.token = None
    reference.serve(server)
