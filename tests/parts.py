#!/usr/bin/env python3
"""Compares an exported archive with the SQLite rows it was made of, without any code of Lethe's.

    tests/parts.py ARCHIVE --file knowledge.db --table chunks [--plane-column plane --plane p1] [--key-file KEY]

ARCHIVE is the folder that `lethe archive export PLANE --to ARCHIVE` wrote. The parts are read with pyarrow, counted with DuckDB, and
every column of every row must be what SQLite holds: same storage class, same value, floats and vectors to the bit. The digests of
parts and records are computed again. KEY is a file with the hexadecimal digits of an encrypted archive's key, as `lethe archive key
PLANE` prints them; DuckDB does not read such parts, so it counts none of them. Exits 0 if all of it is equal, 1 with the first
differences otherwise.
"""

import argparse
import hashlib
import json
import pathlib
import sqlite3
import struct
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

DIFFERENCES_SHOWN = 10


class Different(Exception):
    """What is not as it must be."""


def must(condition, message):
    if not condition:
        raise Different(message)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


# A value is (class, bytes): floats by their bits, so that -0.0 is not 0.0 and a NaN in a vector equals itself.
NULL = (0, b"")


def integer(number):
    return NULL if number is None else (1, struct.pack(">q", number))


def real(number):
    return NULL if number is None else (2, struct.pack(">d", number))


def text(words):
    return NULL if words is None else (3, words.encode("utf-8"))


def blob(content):
    return NULL if content is None else (4, content)


CLASSES = {"integer": integer, "real": real, "text": text, "blob": blob}


def shown(value):
    tag, content = value
    if tag == 0:
        return "NULL"
    if tag == 1:
        return str(struct.unpack(">q", content)[0])
    if tag == 2:
        return f"{struct.unpack('>d', content)[0]!r} (bits {content.hex()})"
    if tag == 3:
        return repr(content.decode("utf-8", "replace")[:80])
    return f"x'{content[:40].hex()}' ({len(content)} bytes)"


def record_digest(values):
    """As `stages::record` takes it: class, length and bytes of each value in order."""
    digest = hashlib.sha256()
    for tag, content in values:
        digest.update(bytes([tag]) + struct.pack(">Q", len(content)) + content)
    return digest.digest()


def source_rows(arguments, key):
    """The plane's rows by key, as SQLite holds them, and the names of its columns."""
    database = sqlite3.connect(f"file:{pathlib.Path(arguments.file).resolve()}?mode=ro", uri=True)
    database.text_factory = bytes
    listed = database.execute("SELECT name, hidden FROM pragma_table_xinfo(?) ORDER BY cid", (arguments.table,)).fetchall()
    columns = [name.decode() for name, hidden in listed if hidden == 0]
    must(columns, f"{arguments.file} has no table {arguments.table}")
    selected = ", ".join(f"{quoted(column)}, typeof({quoted(column)})" for column in columns)
    query, bound = f"SELECT {selected} FROM {quoted(arguments.table)}", ()
    if arguments.plane_column:
        query, bound = query + f" WHERE {quoted(arguments.plane_column)} = ?", (arguments.plane,)
    convert = {b"null": lambda _: NULL, b"integer": integer, b"real": real, b"text": lambda raw: (3, raw), b"blob": blob}
    rows = {}
    for row in database.execute(query, bound):
        values = [convert[kind](value) for value, kind in zip(row[::2], row[1::2])]
        rows[values[columns.index(key)]] = values
    return columns, rows


def float_lists(column, width):
    """Each list of a list column as its values' raw bytes, and None for null. Read from the buffers: nothing is converted."""
    must(sys.byteorder == "little", "this script compares vectors on little-endian machines only")
    kind = {4: pa.float32(), 8: pa.float64()}[width]
    for chunk in column.chunks:
        must(chunk.type == pa.list_(pa.field("element", kind)), f"a vector column is {chunk.type}, not a list of {kind}")
        must(chunk.values.null_count == 0, "a vector holds a null")
        raw = chunk.values.buffers()[1]
        raw = b"" if raw is None else raw.to_pybytes()
        offsets = [chunk.values.offset + offset for offset in chunk.offsets.to_pylist()]
        for index, (begin, end) in enumerate(zip(offsets, offsets[1:])):
            yield raw[begin * width : end * width] if chunk[index].is_valid else None


def archived_values(table, column):
    """A column's values in the form of the source."""
    name, kind = column["name"], column["kind"]
    stored = table.column(name)
    if kind in CLASSES:
        expected = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}[kind]
        must(stored.type == expected, f"column {name} is stored as {stored.type}, not {expected}")
        return [CLASSES[kind](value) for value in stored.to_pylist()]
    if kind == "mixed":
        values = []
        for fields in stored.to_pylist():
            given = [CLASSES[field](value) for field, value in fields.items() if value is not None]
            must(len(given) <= 1, f"column {name}: a value has several classes at once: {fields}")
            values.append(given[0] if given else NULL)
        return values
    if kind == "vector_blob":
        return [blob(content) for content in float_lists(stored, 4)]
    if kind == "vector_json":
        texts = table.column(name + "__json").to_pylist()
        for written, content in zip(texts, float_lists(stored, 8)):
            must((written is None) == (content is None), f"column {name}: text and list are not null together")
            if written is not None:
                expected = struct.pack(f"<{len(json.loads(written))}d", *json.loads(written))
                must(content == expected, f"column {name}: the list is not the numbers of {written[:80]}")
        return [text(written) for written in texts]
    raise Different(f"column {name} is of an unknown kind: {kind}")


class OneKey(pe.KmsClient):
    """A key management service that knows one key: that of the archive."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def wrap_key(self, key_bytes, master_key_identifier):
        raise NotImplementedError("this only reads")

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return self.key


def decryption(key_file):
    """How pyarrow decrypts a part; None where the archive is not encrypted."""
    if key_file is None:
        return None
    key = bytes.fromhex(pathlib.Path(key_file).read_text().strip())
    return pe.CryptoFactory(lambda _: OneKey(key)).file_decryption_properties(pe.KmsConnectionConfig())


def belongs(path, place):
    """Whether an encrypted part names its place. Which it is, is authenticated with each of its bytes."""
    return place.encode() in path.read_bytes()


def read_part(folder, part, store, plane_id, key_file):
    """A part's records by key, after comparing its bytes, counts and digests with the manifest."""
    path = folder / part["key"]
    must(path.is_file(), f"{part['key']} is not there")
    content = path.read_bytes()
    must(len(content) == part["bytes"], f"{part['key']} has {len(content)} bytes, the manifest says {part['bytes']}")
    must("sha256:" + hashlib.sha256(content).hexdigest() == part["sha256"], f"{part['key']} is not what the manifest lists")
    try:
        # Properties are used up by one reading.
        table = pq.ParquetFile(path, decryption_properties=decryption(key_file)).read()
        metadata = pq.read_metadata(path, decryption_properties=decryption(key_file)).metadata
    except (OSError, ValueError) as error:
        raise Different(f"{part['key']} cannot be decrypted: {error}") from error
    must(json.loads(metadata[b"lethe.columns"]) == store["columns"], f"{part['key']} lists other columns than the manifest")
    if key_file is None:
        [(counted,)] = duckdb.connect().execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchall()
    else:
        must(belongs(path, f"{plane_id}/{part['key']}"), f"{part['key']} is encrypted for another place")
        counted = part["rows"]
    must(
        table.num_rows == counted == part["rows"],
        f"{part['key']}: pyarrow reads {table.num_rows} rows, DuckDB {counted}, the manifest says {part['rows']}",
    )
    rows = list(zip(*(archived_values(table, column) for column in store["columns"])))
    for values, digest in zip(rows, table.column("lethe_sha256").to_pylist()):
        must(record_digest(values) == digest, f"{part['key']}: a record does not match its digest")
    key = int(metadata[b"lethe.key_column"])
    return store["columns"][key]["name"], {values[key]: list(values) for values in rows}


def compare(arguments):
    folder = pathlib.Path(arguments.archive)
    found = sorted(folder.glob("*/manifest.json"))
    must(len(found) == 1, f"{folder} holds {len(found)} manifests; name a folder that `lethe archive export` wrote")
    manifest = json.loads(found[0].read_text("utf-8"))
    must(manifest["contents"] == "records", f"the archive is of kind {manifest['contents']}: it holds no values to compare")
    stores = [store for store in manifest["stores"] if store["resource"] == arguments.table]
    must(len(stores) == 1, f"the manifest lists {len(stores)} exports of table {arguments.table}")
    store = stores[0]

    archived, key = {}, None
    for part in store["parts"]:
        key, records = read_part(folder, part, store, manifest["plane_id"], arguments.key_file)
        archived.update(records)
    must(sum(part["rows"] for part in store["parts"]) == store["rows"], "the manifest's totals are not those of its parts")
    if key is None:
        key = store["columns"][0]["name"]

    columns, source = source_rows(arguments, key)
    names = [column["name"] for column in store["columns"]]
    must(names == columns, f"the archive's columns are {names}, the table's are {columns}")
    wrong = [f"row {shown(one)} is in the source only" for one in source.keys() - archived.keys()]
    wrong += [f"row {shown(one)} is in the archive only" for one in archived.keys() - source.keys()]
    for one in source.keys() & archived.keys():
        wrong += [
            f"row {shown(one)}, column {name}: the source has {shown(was)}, the archive {shown(copy)}"
            for name, was, copy in zip(names, source[one], archived[one])
            if was != copy
        ]
    if wrong:
        rest = len(wrong) - DIFFERENCES_SHOWN
        raise Different("\n".join(sorted(wrong)[:DIFFERENCES_SHOWN] + ([f"and {rest} more"] if rest > 0 else [])))
    return f"equal: {len(source)} rows x {len(names)} columns of {arguments.table} in {len(store['parts'])} part(s)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("archive", help="the folder that `lethe archive export` wrote")
    parser.add_argument("--file", required=True, help="the SQLite file")
    parser.add_argument("--table", required=True)
    parser.add_argument("--plane-column", help="without it, the plane owns the whole table")
    parser.add_argument("--key-file", help="a file with the archive's key, where it is encrypted")
    parser.add_argument("--plane", help="the plane's value in that column")
    arguments = parser.parse_args()
    try:
        print(compare(arguments))
    except Different as different:
        print(f"different: {different}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
