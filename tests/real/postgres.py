"""PostgreSQL and pgbouncer: TLS by a certificate authority of our own, passwords by SCRAM, every commit on disk.

The rule: no statement runs before the server that answers has shown the data directory that is ours.
If we die in it, a half-made data directory has no `made` beside it, and is made again.
"""

import os
import shutil
import signal

from .installing import POSTGRES_BIN
from .place import Trouble, run, unprivileged, wait_until

CONNECTIONS_MAX = 200

CONFIGURATION = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = {connections}
fsync = on
synchronous_commit = on
shared_buffers = 64MB
password_encryption = 'scram-sha-256'
ssl = on
ssl_cert_file = '{folder}/server.crt'
ssl_key_file = '{folder}/server.key'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
"""

# Members of tls_only (a superuser is none unless it is made one) get in by TLS alone.
ACCESS = """
local     all  all                        scram-sha-256
hostnossl all  +tls_only   127.0.0.1/32   reject
host      all  all         127.0.0.1/32   scram-sha-256
"""

# In transaction mode a server connection belongs to a client for one transaction only.
BOUNCER = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = {folder}/users.txt
auth_user = postgres
auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1
admin_users = postgres
max_client_conn = 500
default_pool_size = 20
server_tls_sslmode = prefer
ignore_startup_parameters = extra_float_digits
"""


def given_away(path, mode):
    """Hands a file or folder to the user under whom the servers run."""
    path.chmod(mode)
    as_user = unprivileged()
    if as_user:
        os.chown(path, as_user["user"], as_user["group"])


def environment(place):
    """What a test is told: URLs of the superuser, the authority that signed the certificate, and one that did not."""
    login = f"postgres://postgres:{place.secret('postgres_password')}@127.0.0.1"
    return {
        "LETHE_TEST_POSTGRES": f"{login}:{place.port('postgres')}/postgres",
        "LETHE_TEST_PGBOUNCER": f"{login}:{place.port('pgbouncer')}/postgres",
        "LETHE_TEST_PG_CA": place.dir / "postgres" / "ca.crt",
        "LETHE_TEST_PG_OTHER_CA": place.dir / "postgres" / "other-ca.crt",
    }


class Postgres:
    def __init__(self, place):
        self.place, self.process = place, place.process("postgres")
        self.folder = place.dir / "postgres"
        self.data = self.folder / "data"

    def start(self):
        if self.process.pid() is None:
            if not (self.folder / "made").exists():
                self._make()
            self.process.start(POSTGRES_BIN / "postgres", "-D", self.data, cwd=self.folder, **unprivileged())
            wait_until(lambda: self.process.must_live() and self._answers(), 60, "PostgreSQL does not answer")
        found = self._ask("SHOW data_directory")
        if found != str(self.data):
            raise Trouble(f"the PostgreSQL on port {self.place.port('postgres')} is not ours: its data stands in {found}")
        self._ask("SELECT 1 FROM pg_roles WHERE rolname = 'tls_only'") or self._ask("CREATE ROLE tls_only")

    def stop(self, kill=False):
        # SIGQUIT ends it as a power cut would: nothing is flushed, and the next start recovers from the log.
        self.process.stop(signal.SIGQUIT if kill else signal.SIGINT, 60)

    def _make(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        given_away(self.folder, 0o755)
        password = self.folder / "password"
        password.write_text(self.place.secret("postgres_password"))
        given_away(password, 0o600)
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"]
        run(POSTGRES_BIN / "initdb", "-D", self.data, *options, cwd=self.folder, **unprivileged())
        values = {"folder": self.folder, "port": self.place.port("postgres"), "connections": CONNECTIONS_MAX}
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION.format(**values))
        (self.data / "pg_hba.conf").write_text(ACCESS)
        self._certify()
        (self.folder / "made").touch()

    def _certify(self):
        """A certificate for 127.0.0.1 and localhost, the authority that signed it, and another authority that signed nothing."""
        here = {"cwd": self.folder}
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        for name in ("ca", "other-ca"):
            subject = ["-subj", f"/CN=Lethe test {name}", "-days", "30", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            run("openssl", "req", "-x509", *key, *subject, "-keyout", f"{name}.key", "-out", f"{name}.crt", **here)
        run("openssl", "req", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr", **here)
        (self.folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names"]
        run("openssl", "x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt", **here)
        for name in ("server.key", "server.crt"):
            given_away(self.folder / name, 0o600)

    def _answers(self):
        try:
            return self._ask("SELECT 'yes'") == "yes"
        except Trouble:
            return False

    def _ask(self, statement):
        login = {"PGPASSWORD": self.place.secret("postgres_password"), "PGCONNECT_TIMEOUT": "5", "PATH": os.environ["PATH"]}
        where = ["-h", self.folder, "-p", self.place.port("postgres"), "-U", "postgres", "-d", "postgres"]
        return run(POSTGRES_BIN / "psql", "-X", "-q", "-A", "-t", *where, "-c", statement, env=login).strip()


class Pgbouncer:
    def __init__(self, place):
        self.place, self.process = place, place.process("pgbouncer")
        self.folder = place.dir / "pgbouncer"

    def start(self):
        if self.process.pid() is not None:
            return
        self.folder.mkdir(exist_ok=True)
        password = self.place.secret("postgres_password")
        values = {"folder": self.folder, "server": self.place.port("postgres"), "port": self.place.port("pgbouncer")}
        for name, content in {"users.txt": f'"postgres" "{password}"\n', "pgbouncer.ini": BOUNCER.format(**values)}.items():
            (self.folder / name).write_text(content)
            given_away(self.folder / name, 0o600)
        given_away(self.folder, 0o755)
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
        self.process.start(program, self.folder / "pgbouncer.ini", cwd=self.folder, **unprivileged())
        wait_until(lambda: self.process.must_live() and self._answers(password), 20, "pgbouncer does not answer")

    def stop(self, kill=False):
        self.process.stop(signal.SIGKILL if kill else signal.SIGTERM)

    def _answers(self, password):
        login = {"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5", "PATH": os.environ["PATH"]}
        where = ["-h", "127.0.0.1", "-p", self.place.port("pgbouncer"), "-U", "postgres", "-d", "pgbouncer"]
        try:
            return bool(run(POSTGRES_BIN / "psql", "-X", "-q", "-A", "-t", *where, "-c", "SHOW VERSION", env=login))
        except Trouble:
            return False
