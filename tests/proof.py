#!/usr/bin/env python3
"""Checks what Lethe proves, with nothing but Python's standard library.

Written from the specifications alone and sharing no line with Lethe: RFC 8032 (Ed25519), RFC 6962 / RFC 9162 section 2.1 (the Merkle
tree and its proofs), C2SP signed-note, tlog-checkpoint and tlog-tiles, DSSE v1, in-toto Statement v1, and README's tables of an entry,
a leaf, a bundle and a certificate. It is slow and meant to be read.

    proof.py checkpoint FILE --key VKEY
    proof.py log FOLDER --key VKEY
    proof.py inclusion FILE --key VKEY
    proof.py consistency OLD NEW PROOF --key VKEY
    proof.py bundle FILE --key VKEY
    proof.py certificate FILE --key VKEY

`--key-file FILE` reads keys from a file, one a line. Exit codes: 0 verified, 1 not (and why), 2 the call is wrong.
"""

import base64
import binascii
import hashlib
import json
import pathlib
import sys


class Wrong(Exception):
    """Something does not hold."""


def holds(condition, why):
    if not condition:
        raise Wrong(why)


def sha256(data):
    return hashlib.sha256(data).digest()


def b64(text):
    holds(isinstance(text, str), "a text in base64 is missing")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Wrong(f"no base64: {error}") from error
    holds(base64.b64encode(data).decode() == text, "base64 with bits that say nothing")
    return data


# --- Ed25519, RFC 8032 section 5.1 ---------------------------------------------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P:
        return None
    return P - x if (x & 1) != sign else x


def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(scalar, p):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, p)
        p = add(p, p)
        scalar >>= 1
    return result


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def ed25519_verifies(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = point(public), point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    left, right = times(s, BASE), add(r, times(k, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


# --- C2SP signed-note and tlog-checkpoint --------------------------------------------------------------------------------------------


def read_key(line):
    parts = line.strip().split("+", 2)
    holds(len(parts) == 3, "a key is NAME+NUMBER+KEY")
    name, number, key = parts[0], parts[1], b64(parts[2])
    holds(len(key) == 33 and key[0] == 1, "the key is no Ed25519 key")
    holds(sha256(name.encode() + b"\n" + key)[:4].hex() == number, "the key's number does not fit")
    return name, number, key[1:]


def read_note(note, keys):
    """The text of a note that one of the keys signed."""
    holds("\n\n" in note, "no signed note")
    end = note.rindex("\n\n")
    text, lines = note[: end + 1], note[end + 2 :]
    holds(lines.endswith("\n"), "the note's last line has no end")
    for line in lines[:-1].split("\n"):
        holds(line.startswith("\u2014 ") and line.count(" ") == 2, "a line of signature is none")
        _, name, signed = line.split(" ")
        signed = b64(signed)
        for key_name, number, public in keys:
            if name == key_name and signed[:4].hex() == number:
                holds(ed25519_verifies(public, text.encode(), signed[4:]), f"the signature of {name} does not fit the note")
                return text, name
    raise Wrong("the note is signed by none of the keys")


def checkpoint(note, keys):
    """Size, root and origin."""
    text, signer = read_note(note, keys)
    lines = text.split("\n")
    holds(len(lines) >= 4, "no checkpoint")
    origin, size, root = lines[0], lines[1], b64(lines[2])
    holds(origin == signer, "the checkpoint is of another log than its key")
    holds(size.isascii() and size.isdigit() and str(int(size)) == size and len(root) == 32, "no checkpoint")
    return int(size), root, origin


# --- The Merkle tree, RFC 9162 section 2.1 -------------------------------------------------------------------------------------------


def leaf_hash(data):
    return sha256(b"\0" + data)


def node_hash(left, right):
    return sha256(b"\1" + left + right)


class Tree:
    """Perfect subtrees from left to right, as (leaves, hash)."""

    def __init__(self, size=0, hashes=()):
        self.parts = []
        bits = [1 << bit for bit in range(size.bit_length() - 1, -1, -1) if size >> bit & 1]
        holds(len(bits) == len(hashes), "the frontier has another number of hashes")
        self.parts = list(zip(bits, hashes))

    def append(self, leaf):
        self.parts.append((1, leaf))
        while len(self.parts) > 1 and self.parts[-1][0] == self.parts[-2][0]:
            (width, left), (_, right) = self.parts[-2:]
            self.parts[-2:] = [(2 * width, node_hash(left, right))]

    def root(self):
        if not self.parts:
            return sha256(b"")
        result = self.parts[-1][1]
        for _, left in reversed(self.parts[:-1]):
            result = node_hash(left, result)
        return result


def check_inclusion(index, size, leaf, proof, root):
    """RFC 9162, section 2.1.3.2."""
    holds(0 <= index < size, "the leaf is not within the tree")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        holds(sn != 0, "the proof is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    holds(sn == 0 and r == root, "the proof leads to another root")


def check_consistency(first, first_root, second, second_root, proof):
    """RFC 9162, section 2.1.4.2."""
    holds(first <= second, "the older tree is larger")
    if first == second:
        holds(not proof and first_root == second_root, "the trees of one size differ")
        return
    if first == 0:
        holds(not proof and first_root == sha256(b""), "the empty tree is none")
        return
    path = ([first_root] if first & (first - 1) == 0 else []) + proof
    holds(path, "the proof is empty")
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        holds(sn != 0, "the proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    holds(fr == first_root and sr == second_root and sn == 0, "the proof leads to other roots")


# --- Entries of the trail, and leaves ------------------------------------------------------------------------------------------------


def written(data):
    return "sha256:" + sha256(data).hex()


def digest(text):
    holds(isinstance(text, str) and text.startswith("sha256:") and len(text) == 71, f"no digest: {text}")
    try:
        return bytes.fromhex(text[7:])
    except ValueError as error:
        raise Wrong(f"no digest: {text}") from error


def plain(value):
    """Nothing that canonical JSON does not have."""
    if isinstance(value, dict):
        return all(plain(member) for member in value.values())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return not isinstance(value, float)


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_canonical(text, what):
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Wrong(f"{what} is no JSON") from error
    holds(plain(value) and canonical(value) == text, f"{what} is not canonical JSON")
    return value


def leaf_of(entry):
    chain, tenant = entry["chain"].encode(), entry["tenant_id"].encode()
    return sha256(chain) + entry["sequence_no"].to_bytes(8, "big") + digest(entry["hash"]) + sha256(tenant)


def disclosed(value, committed):
    salt = bytes.fromhex(value["salt"])
    holds(salt.hex() == value["salt"], "a salt is not in lower case")
    holds(len(salt) == 16, "a salt has another length than 16 bytes")
    holds(isinstance(committed, dict), "there is no commitment")
    holds(written(salt + value["value"].encode()) == committed.get("commitment"), "a value is not the one that was committed to")


def check_entry(entry):
    name = f"leaf {entry['leaf_index']}"
    holds(written((entry["previous"] + entry["body"]).encode()) == entry["hash"], f"{name}: the hash does not fit the body")
    body = read_canonical(entry["body"], f"{name}: the body")
    for field in ("chain", "sequence_no", "tenant_id"):
        holds(body.get(field) == entry[field], f"{name}: {field} is not that of the body")
    evidence = written(canonical(body.get("evidence")).encode())
    holds(body.get("evidence_digest") == evidence, f"{name}: the evidence does not fit its digest")
    for field, value in (entry.get("values") or {}).items():
        disclosed(value, body.get(field))
    return body


def included(entry, size, root):
    if entry.get("proof") is None:
        return False
    check_inclusion(entry["leaf_index"], size, leaf_hash(leaf_of(entry)), [b64(hash) for hash in entry["proof"]], root)
    return True


# --- Documents -----------------------------------------------------------------------------------------------------------------------


def chain_of(entries, chain):
    """A chain's entries from its first, each following the one before it."""
    mine = sorted((entry for entry in entries if entry["chain"] == chain), key=lambda entry: entry["sequence_no"])
    holds(mine, f"no entry of {chain}")
    head, last = written(chain.encode()), -1
    for number, entry in enumerate(mine):
        holds(entry["sequence_no"] == number, f"{chain}: entry {number} is missing")
        holds(entry["previous"] == head, f"{chain}: entry {number} does not follow the one before it")
        holds(entry["leaf_index"] > last, f"{chain}: entry {number} lies before the one that it follows")
        head, last = entry["hash"], entry["leaf_index"]
    return mine


def check_bundle(path, keys):
    bundle = json.loads(path.read_text())
    holds(bundle["format"] == "lethe-bundle/v1", "no bundle")
    size, root, origin = checkpoint(bundle["checkpoint"], keys)
    scan, start = [], None
    if bundle.get("scan") is not None:
        start, leaves = bundle["scan"]["from"], b64(bundle["scan"]["leaves"])
        scan = [leaves[at : at + 104] for at in range(0, len(leaves), 104)]
        holds(start + len(scan) == size and len(leaves) % 104 == 0, "the scan does not end with the checkpoint")
        tree = Tree(start, [b64(hash) for hash in bundle["scan"]["frontier"]])
        for leaf in scan:
            tree.append(leaf_hash(leaf))
        holds(tree.root() == root, "the scan leads to another root")
    bodies = {}
    for entry in bundle["entries"]:
        at = entry["leaf_index"]
        holds(at not in bodies, f"leaf {at} stands twice")
        bodies[at] = check_entry(entry)
        scanned = start is not None and start <= at < size
        holds(included(entry, size, root) or scanned, f"leaf {at}: nothing shows that it is in the log")
        holds(not scanned or scan[at - start] == leaf_of(entry), f"leaf {at}: the scan has another one there")
    for complete in bundle.get("complete") or []:
        ((kind, name),) = complete.items()
        holds(kind in ("plane", "tenant") and start is not None, "nothing shows that none is missing")
        mine = chain_of(bundle["entries"], f"{kind}:{name}")
        if kind == "plane":
            first, tag, place = mine[-1]["leaf_index"] + 1, sha256(f"plane:{name}".encode()), slice(0, 32)
        else:
            holds(bodies[mine[0]["leaf_index"]]["event_type"] == "REGISTERED", "a tenant begins with its registration")
            first, tag, place = mine[0]["leaf_index"], sha256(name.encode()), slice(72, 104)
        holds(start <= first, f"leaves from {first} are not scanned")
        for at, leaf in enumerate(scan, start):
            holds(leaf[place] != tag or at in bodies, f"leaf {at} is of {kind} {name} and is missing")
    return f"{len(bodies)} entries of {origin}, of {size} leaves"


def pointer(document, path):
    for part in path.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def check_certificate(path, keys):
    certificate = json.loads(path.read_text())
    holds(certificate["format"] == "lethe-certificate/v1", "no certificate")
    envelope = certificate["envelope"]
    kind, payload = envelope["payloadType"], b64(envelope["payload"])
    holds(kind == "application/vnd.in-toto+json", "no in-toto statement")
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    known = {f"{name}+{number}": public for name, number, public in keys}
    sigs = [one for one in envelope["signatures"] if one["keyid"] in known]
    holds(sigs, "the statement is signed by none of the keys")
    holds(all(ed25519_verifies(known[one["keyid"]], signed, b64(one["sig"])) for one in sigs), "the statement was changed")
    statement = read_canonical(payload.decode(), "the statement")
    holds(statement["_type"] == "https://in-toto.io/Statement/v1", "no in-toto statement")
    holds(statement["predicateType"] == "urn:lethe:certificate-of-erasure:v1", "no certificate of erasure")
    (subject,) = statement["subject"]
    predicate = statement["predicate"]
    size, root, origin = checkpoint(certificate["log"]["checkpoint"], keys)
    found = {}
    for entry in certificate["log"]["entries"]:
        body = check_entry(entry)
        holds(included(entry, size, root), "an entry has no proof")
        holds(entry["chain"] == subject["name"], "an entry is of another plane")
        holds(body["event_type"] in ("TRANSITION", "CERTIFIED") and body["event_type"] not in found, "an entry does not belong here")
        for field, stated in (("plane_id", predicate["plane"]["id"]), ("tenant_id", predicate["tenant"]["id"])):
            holds(body[field] == stated, f"{field} is another one")
        holds(body["offboarding_id"] == predicate["offboarding_id"], "the offboarding is another one")
        found[body["event_type"]] = (entry, body)
    holds(len(found) == 2, "the purge or the issue is missing")
    purge, issue = found["TRANSITION"], found["CERTIFIED"]
    holds(purge[1]["to_state"] == "PURGED" and purge[0]["hash"] == "sha256:" + subject["digest"]["sha256"], "another purge")
    holds(issue[1]["evidence"]["statement_digest"] == written(payload), "the issue is of another statement")
    for place, value in (certificate.get("disclosed") or {}).items():
        disclosed(value, pointer(statement, place))
    return f"{subject['name']} was purged: certified by {origin}"


def check_log(folder, keys):
    size, root, origin = checkpoint((folder / "checkpoint").read_text(), keys)

    def path(level, index, width):
        digits = f"{index % 1000:03}"
        while index >= 1000:
            index //= 1000
            digits = f"x{index % 1000:03}/{digits}"
        return f"tile/{level}/{digits}" + ("" if width == 256 else f".p/{width}")

    level, hashes = 0, []
    for index in range((size + 255) // 256):
        width = min(256, size - index * 256)
        data = (folder / path("entries", index, width)).read_bytes()
        for _ in range(width):
            length, data = int.from_bytes(data[:2], "big"), data[2:]
            holds(length == 104 and len(data) >= length, f"{path('entries', index, width)}: no leaf")
            hashes.append(leaf_hash(data[:length]))
            data = data[length:]
    whole = Tree()
    for hash in hashes:
        whole.append(hash)
    while hashes:
        above = []
        for index in range((len(hashes) + 255) // 256):
            part = hashes[index * 256 : index * 256 + 256]
            name = path(level, index, len(part))
            holds((folder / name).read_bytes() == b"".join(part), f"{name} does not follow from the entries")
            if len(part) == 256:
                tree = Tree()
                for hash in part:
                    tree.append(hash)
                above.append(tree.root())
        level, hashes = level + 1, above
    holds(whole.root() == root, "the entries lead to another root")
    return f"{origin}: {size} leaves and all tiles"


def main(arguments):
    keys, files = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--key":
            keys.append(read_key(next(rest)))
        elif argument == "--key-file":
            keys += [read_key(line) for line in pathlib.Path(next(rest)).read_text().splitlines() if line.strip()]
        else:
            files.append(argument)
    command, paths = (files or [""])[0], [pathlib.Path(file) for file in files[1:]]
    wanted = {"checkpoint": 1, "log": 1, "inclusion": 1, "consistency": 3, "bundle": 1, "certificate": 1}
    if not keys or wanted.get(command) != len(paths):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if command == "checkpoint":
            size, _, origin = checkpoint(paths[0].read_text(), keys)
            said = f"{origin}: {size} leaves"
        elif command == "log":
            said = check_log(paths[0], keys)
        elif command == "inclusion":
            proof = json.loads(paths[0].read_text())
            size, root, origin = checkpoint(proof["checkpoint"], keys)
            check_entry(proof["entry"])
            holds(included(proof["entry"], size, root), "there is no proof")
            said = f"leaf {proof['entry']['leaf_index']} of {origin}"
        elif command == "consistency":
            (first, first_root, origin), (second, second_root, other) = (checkpoint(path.read_text(), keys) for path in paths[:2])
            proof = json.loads(paths[2].read_text())
            holds((proof["old"], proof["new"]) == (first, second) and origin == other, "the proof is of other checkpoints")
            check_consistency(first, first_root, second, second_root, [b64(hash) for hash in proof["proof"]])
            said = f"{origin}: {first} leaves are the beginning of {second}"
        elif command == "bundle":
            said = check_bundle(paths[0], keys)
        else:
            said = check_certificate(paths[0], keys)
    except Wrong as wrong:
        print(f"NOT VERIFIED: {wrong}")
        return 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        print(f"NOT VERIFIED: {type(error).__name__}: {error}")
        return 1
    print(f"verified: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
