"""Installs what the servers need, and only what is missing.

The rule: no service is started and no database cluster made; one that is there is left alone. If we die in it, the next call goes on.
"""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
import time

from . import chroma
from .place import Trouble, run, say

POSTGRES_BIN = pathlib.Path("/usr/lib/postgresql/15/bin")
VECTOR_CONTROL = pathlib.Path("/usr/share/postgresql/15/extension/vector.control")
# What shows that a package is there, and the package.
NEEDED = {
    POSTGRES_BIN / "postgres": "postgresql-15",
    POSTGRES_BIN / "psql": "postgresql-client-15",
    "pgbouncer": "pgbouncer",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "radosgw": "radosgw",
    "ceph": "ceph-common",
    "openssl": "openssl",
    "ssh-keygen": "openssh-client",
}
BUILDING = {"/usr/include/postgresql/15/server/postgres.h": "postgresql-server-dev-15", "make": "make", "gcc": "gcc"}
# pgvector is no package of this Debian, but a source package of the next one.
PGVECTOR, PGVECTOR_SUITE = "0.8.0", "trixie"
PGVECTOR_SHA256 = "867a2c328d4928a5a9d6f052cd3bc78c7d60228a9b914ad32aa3db88e9de27b0"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"]


def there(what):
    if os.path.isabs(what):
        return os.path.exists(what)
    # Daemons stand in sbin, which is not on everybody's path.
    return shutil.which(what, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def lacking(table):
    return [package for what, package in table.items() if not there(what)]


def vector_is_there():
    return VECTOR_CONTROL.exists() and f"'{PGVECTOR}'" in VECTOR_CONTROL.read_text()


def missing():
    """The names of what is not installed."""
    built = ([] if vector_is_there() else [f"pgvector {PGVECTOR}"]) + ([] if chroma.is_there() else [f"Chroma {chroma.VERSION}"])
    return lacking(NEEDED) + built


def install():
    began, wanted = time.monotonic(), missing()
    if not wanted:
        say("everything is installed")
        return
    packages = lacking(NEEDED) + ([] if vector_is_there() else lacking(BUILDING))
    # Debian keeps what makes an environment of Python's apart from Python.
    if not chroma.is_there() and importlib.util.find_spec("ensurepip") is None:
        packages.append("python3-venv")
    if (packages or not vector_is_there()) and (os.getuid() != 0 or not there("apt-get")):
        raise Trouble(f"missing: {', '.join(wanted)}; installing them takes root and Debian's packages")
    if packages:
        say(f"installing {' '.join(packages)}")
        settings = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        run(*APT, "update", **settings)
        with no_service_started(), no_cluster_made():
            run(*APT, "install", "-y", "--no-install-recommends", *packages, **settings)
    if not vector_is_there():
        with tempfile.TemporaryDirectory() as folder:
            build_vector(pathlib.Path(folder))
    if not chroma.is_there():
        chroma.install()
    still = missing()
    if still:
        raise Trouble(f"installed without an error, and still missing: {', '.join(still)}")
    say(f"installed {', '.join(wanted)} in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def placed(file, content, mode):
    """A file that is there for a while, if there was none."""
    file, made_folder = pathlib.Path(file), False
    if file.exists():
        yield
        return
    if not file.parent.exists():
        file.parent.mkdir(parents=True)
        made_folder = True
    file.write_text(content)
    file.chmod(mode)
    try:
        yield
    finally:
        file.unlink()
        if made_folder:
            # Not if a package has put something into it meanwhile.
            with contextlib.suppress(OSError):
                file.parent.rmdir()


def no_service_started():
    return placed("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)


def no_cluster_made():
    return placed("/etc/postgresql-common/createcluster.d/no-cluster.conf", "create_main_cluster = false\n", 0o644)


def build_vector(folder):
    """Builds pgvector from the source package, fetched from the mirror that this machine is set up for."""
    say(f"building pgvector {PGVECTOR}")
    mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm").split()
    if not mirrors:
        raise Trouble("apt is set up without a Debian mirror, from which pgvector's source package could be fetched")
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {mirrors[0]} {PGVECTOR_SUITE} main\n")
    own = []
    for name, value in {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": folder / "none",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Cache::pkgcache": "",
        "APT::Sandbox::User": "root",
    }.items():
        own += ["-o", f"{name}={value}"]
    run(*APT, *own, "update")
    run(*APT, *own, "source", "--download-only", f"pgvector={PGVECTOR}-1", cwd=folder)

    source = folder / f"pgvector_{PGVECTOR}.orig.tar.gz"
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != PGVECTOR_SHA256:
        raise Trouble(f"pgvector's source has the digest {found}, not {PGVECTOR_SHA256}: it is not built")
    tree = folder / "pgvector"
    tree.mkdir()
    run("tar", "-xzf", source, "-C", tree, "--strip-components=1")
    # Without OPTFLAGS it would be built for the very processor of this machine.
    make = ["make", "-s", "-C", tree, f"PG_CONFIG={POSTGRES_BIN / 'pg_config'}", "with_llvm=no", "OPTFLAGS="]
    run(*make, f"-j{os.cpu_count()}")
    run(*make, "install")
