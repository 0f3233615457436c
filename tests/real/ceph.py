"""Ceph's S3 gateway over one monitor and one object store: the smallest cluster that speaks all of S3 that archives need.

Versioning, Object Lock, multipart uploads and deletes with an answer per object work in it. One copy of everything, on loopback only.
If we die in it, a half-made cluster has no `made` beside it, and is made again.
"""

import os
import shutil
import signal
import urllib.error
import urllib.request
import uuid

from .place import run, wait_until

GIB = 1 << 30

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{mon}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
ms bind msgr2 = false
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
crash dir = {folder}/log
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon max pg per osd = 1000
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
osd memory target = 939524096
osd class load list = *
osd class default list = *
bluestore block size = {block}
bluestore block create = true
bluestore cache autotune = false
bluestore cache size = 67108864
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw.lethe]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw} tcp_nodelay=1
rgw lc debug interval = 10
rgw enable usage log = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = lethe-1={kms}
"""

# name → what it may do, in the one keyring that all of them read.
CAPABILITIES = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"],
    "client.rgw.lethe": ["mon", "allow rwx", "osd", "allow rwx", "mgr", "allow rw"],
}


def environment(place):
    return {
        "LETHE_TEST_S3_ENDPOINT": f"http://127.0.0.1:{place.port('rgw')}",
        "LETHE_TEST_S3_REGION": "us-east-1",
        "LETHE_TEST_S3_ACCESS_KEY": place.secret("s3_access_key"),
        "LETHE_TEST_S3_SECRET_KEY": place.secret("s3_secret_key"),
    }


class Rgw:
    def __init__(self, place):
        self.place, self.folder = place, place.dir / "ceph"
        self.mon, self.osd, self.rgw = (place.process(name) for name in ("mon", "osd", "rgw"))
        self.configuration = self.folder / "ceph.conf"

    def start(self):
        made = self.folder / "made"
        if not made.exists():
            for process in (self.rgw, self.osd, self.mon):
                process.stop(signal.SIGKILL)
            self._prepare()
        if self.mon.pid() is None:
            self._daemon(self.mon, "ceph-mon", "-i", "a")
        if not made.exists():
            self._join_store()
        if self.osd.pid() is None:
            self._daemon(self.osd, "ceph-osd", "-i", "0")
            wait_until(lambda: self.osd.must_live() and "1 up" in self._ceph("osd", "stat"), 60, "the object store is not up")
        if self.rgw.pid() is None:
            self._daemon(self.rgw, "radosgw", "-n", "client.rgw.lethe")
            wait_until(lambda: self.rgw.must_live() and self._answers(), 120, "the S3 gateway does not answer")
        if not made.exists():
            self._make_user()
            made.touch()

    def stop(self, kill=False):
        """Stops the gateway; the monitor and the object store behind it stay."""
        self.rgw.stop(signal.SIGKILL if kill else signal.SIGTERM, 30)

    def _prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        for part in ("mon", "osd", "rgw", "run", "log"):
            (self.folder / part).mkdir(parents=True)
        fsid = str(uuid.uuid4())
        ports = {"mon": self.place.port("mon"), "rgw": self.place.port("rgw")}
        values = {"folder": self.folder, "fsid": fsid, "block": 8 * GIB, "kms": "bGV0aGUtdGVzdHMtbGV0aGUtdGVzdHMtbGV0aGUtdGU="}
        self.configuration.write_text(CONFIGURATION.format(**values, **ports))
        keyring, map_file = self.folder / "keyring", self.folder / "monmap"
        for number, (name, may) in enumerate(CAPABILITIES.items()):
            caps = [part for who, what in zip(may[::2], may[1::2]) for part in ("--cap", who, what)]
            run("ceph-authtool", *(["--create-keyring"] if number == 0 else []), keyring, "--gen-key", "-n", name, *caps)
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{ports['mon']}]", map_file)
        run("ceph-mon", "-c", self.configuration, "--mkfs", "-i", "a", "--monmap", map_file, "--keyring", keyring)

    def _join_store(self):
        own = str(uuid.uuid4())
        self._ceph("osd", "new", own)
        run("ceph-osd", "-c", self.configuration, "-i", "0", "--mkfs", "--osd-uuid", own)
        self._ceph("osd", "crush", "add", "0", "1", "root=default", "host=local")

    def _make_user(self):
        """The account of the tests, with the keys that are in the environment."""
        keys = ["--access-key", self.place.secret("s3_access_key"), "--secret-key", self.place.secret("s3_secret_key")]
        run("radosgw-admin", "-c", self.configuration, "user", "create", "--uid=lethe", "--display-name=Lethe's tests", *keys)

    def _daemon(self, process, program, *which):
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
        process.start(path, "-f", "-c", self.configuration, *which, cwd=self.folder)

    def _ceph(self, *command):
        return run("ceph", "-c", self.configuration, "--connect-timeout", "60", *command)

    def _answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.place.port('rgw')}/", timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
