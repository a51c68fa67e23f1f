"""Real servers: those of `make services`, and ones of a test's own that it may kill, freeze and restart."""

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn, TypedDict, TypeVar

import pytest

REQUIRED: Final = "OTEL_HEALTH_REQUIRE_SERVICES"
"""Where this variable is set, a server that is missing fails its tests instead of skipping them."""

POSTGRES_PORT: Final = int(os.environ.get("OTEL_HEALTH_TEST_POSTGRES_PORT", "25432"))
REDIS_PORT: Final = int(os.environ.get("OTEL_HEALTH_TEST_REDIS_PORT", "26379"))
ETCD_PORT: Final = int(os.environ.get("OTEL_HEALTH_TEST_ETCD_PORT", "22379"))

PATIENCE: Final = 60.0
"""Seconds that a server of a test's own may take to start."""


def shared_postgres() -> int:
    """Return the port of the PostgreSQL of `make services`; skip or fail the test where it does not run."""
    return POSTGRES_PORT if answers(POSTGRES_PORT) else missing("PostgreSQL is not running")


def shared_redis() -> int:
    """Return the port of the Redis of `make services`; skip or fail the test where it does not run."""
    return REDIS_PORT if answers(REDIS_PORT) else missing("Redis is not running")


def shared_etcd() -> int:
    """Return the port of the etcd of `make services`; skip or fail the test where it does not run."""
    return ETCD_PORT if answers(ETCD_PORT) else missing("etcd is not running")


def program(name: str, product: str) -> str:
    """Return the path of an installed program; skip or fail the test where there is none."""
    # Debian keeps the programs of each PostgreSQL version in a directory of their own, outside PATH.
    by_version = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    found = by_version[-1] if by_version else shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return str(found) if found else missing(f"{product} is not installed")


def missing(what: str, remedy: str = "make services") -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    reason = f"{what}: {remedy}"
    if os.environ.get(REQUIRED):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def answers(port: int) -> bool:
    """Whether anything listens at this port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


class OwnServer:
    """A server process that belongs to one test.

    Args:
        command: What starts it in the foreground.
        port: Where it listens on loopback.
        directory: Where it works; its output goes to `log` there.
        ready: A command that succeeds once it serves.
    """

    def __init__(self, command: list[str], port: int, directory: Path, ready: list[str]) -> None:
        self.port = port
        self._command = command
        self._ready = ready
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and start it again after `kill`; it is not ready at once."""
        # Where the tests themselves are killed, the kernel ends the server.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *self._command],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **unprivileged(),
            )

    def wait_until_ready(self) -> None:
        """Block until it serves."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(self._ready, capture_output=True, timeout=PATIENCE).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{self._command[0]} did not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.02)

    def pause(self) -> None:
        """Freeze it: connections stay open, and the kernel accepts new ones, but nothing is answered."""
        family = self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not all(map(stopped, family)):
            assert time.monotonic() < deadline, f"{self._command[0]} cannot be stopped"
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on where it was frozen."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and all its children at once, without any goodbye, and wait until they are gone."""
        if self._process is None:
            return
        family = self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        deadline = time.monotonic() + PATIENCE
        while any(map(lives, family)):
            assert time.monotonic() < deadline, f"{self._command[0]} cannot be killed"
            time.sleep(0.005)

    @contextmanager
    def without_files(self) -> Iterator[None]:
        """Let it open nothing more, and accept no connection, until the end."""
        assert self._process is not None
        usual = {pid: _limited(pid, _first_free(pid)) for pid in [self._process.pid, *children(self._process.pid)]}
        try:
            yield
        finally:
            for pid, files in usual.items():
                _limited(pid, files)

    def forget(self) -> None:
        """Remove what it keeps in a directory `data`, while it does not run."""
        shutil.rmtree(self.directory / "data")

    def _signal(self, number: signal.Signals) -> list[int]:
        # PostgreSQL's backends leave their parent's process group, so a signal to the group would miss them.
        assert self._process is not None
        family = [self._process.pid, *children(self._process.pid)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return family


def _first_free(pid: int) -> int:
    """The lowest descriptor that a process does not have."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in taken)


def _limited(pid: int, files: int) -> int:
    """Let a process have descriptors below this one only; return what its limit was."""
    before = Path(f"/proc/{pid}/limits").read_text().partition("Max open files")[2].split()[0]
    # Root may be without the right to do so for others.
    owner = Path(f"/proc/{pid}").stat().st_uid
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={files}:"], check=True, user=owner)
    return int(before)


@contextmanager
def own_postgres() -> Iterator[OwnServer]:
    """Run a PostgreSQL of the test's own, with a superuser `postgres` that needs no password."""
    initdb, postgres = program("initdb", "PostgreSQL"), program("postgres", "PostgreSQL")
    with _directory() as directory:
        database = str(directory / "database")
        make = [initdb, "-D", database, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd=directory, **unprivileged())
        port = free_port()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command = [postgres, "-D", database, "-p", str(port), "-k", str(directory), *options]
        ready = [program("pg_isready", "PostgreSQL"), "-h", "127.0.0.1", "-p", str(port)]
        with _running(OwnServer(command, port, directory, ready)) as server:
            yield server


@contextmanager
def own_standby(primary: OwnServer) -> Iterator[OwnServer]:
    """Run a standby of a PostgreSQL of the test's own."""
    copy, postgres = program("pg_basebackup", "PostgreSQL"), program("postgres", "PostgreSQL")
    with _directory() as directory:
        database, source = str(directory / "database"), f"host=127.0.0.1 port={primary.port} user=postgres"
        make = [copy, "-D", database, "-d", source, "-R", "--no-sync", "--checkpoint=fast", "--wal-method=stream"]
        subprocess.run(make, check=True, capture_output=True, cwd=directory, **unprivileged())
        port = free_port()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command = [postgres, "-D", database, "-p", str(port), "-k", str(directory), *options]
        ready = [program("pg_isready", "PostgreSQL"), "-h", "127.0.0.1", "-p", str(port)]
        with _running(OwnServer(command, port, directory, ready)) as server:
            yield server


@contextmanager
def own_mariadb(*options: str) -> Iterator[OwnServer]:
    """Run a MariaDB of the test's own, with a user `root` that needs no password."""
    install, mariadbd = program("mariadb-install-db", "MariaDB"), program("mariadbd", "MariaDB")
    with _directory() as directory:
        data, socket_path = str(directory / "data"), str(directory / "socket")
        make = [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        make += ["--skip-test-db", "--innodb-flush-method=nosync", "--innodb-log-file-size=4M"]
        subprocess.run(make, check=True, capture_output=True, cwd=directory, **unprivileged())
        port = free_port()
        command = [mariadbd, "--no-defaults", f"--datadir={data}", f"--socket={socket_path}", f"--port={port}"]
        command += ["--bind-address=127.0.0.1", "--innodb-flush-method=nosync", "--innodb-log-file-size=4M"]
        command += ["--skip-name-resolve", *options]
        ready = [program("mariadb-admin", "MariaDB"), "--no-defaults", f"--socket={socket_path}", "-u", "root", "ping"]
        with _running(OwnServer(command, port, directory, ready)) as server:
            yield server


@contextmanager
def own_redis(*options: str) -> Iterator[OwnServer]:
    """Run a Redis of the test's own, with further options such as `--cluster-enabled`, `yes`."""
    redis = program("redis-server", "Redis")
    with _directory() as directory:
        port = free_port()
        command = [redis, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(directory), *options]
        ready = [program("redis-cli", "Redis"), "-e", "-p", str(port), "ping"]
        with _running(OwnServer(command, port, directory, ready)) as server:
            yield server


NGINX: Final = """
daemon off; master_process off; error_log stderr; pid nginx.pid;
events {{ }}
http {{
  access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
  server {{
    listen 127.0.0.1:{port};
    location = / {{ root .; try_files /index =404; }}
    location = /empty {{ return 204; }}
    location = /readyz {{ return 200 "ok"; }}
    location = /moved {{ return 301 /; }}
    location / {{ return 404; }}
  }}
}}
"""


@contextmanager
def own_nginx() -> Iterator[OwnServer]:
    """Run an nginx of the test's own, which answers "orders are well" at `/`."""
    nginx = program("nginx", "nginx")
    with _directory() as directory:
        port = free_port()
        (directory / "nginx.conf").write_text(NGINX.format(port=port))
        (directory / "index").write_text("orders are well")
        command = [nginx, "-p", str(directory), "-c", "nginx.conf"]
        ready = [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"]
        with _running(OwnServer(command, port, directory, ready)) as server:
            yield server


@contextmanager
def own_memcached(*options: str) -> Iterator[OwnServer]:
    """Run a Memcached of the test's own, with further options such as `-c`, `10`."""
    memcached = program("memcached", "Memcached")
    with _directory() as directory:
        port = free_port()
        command = [memcached, "-l", "127.0.0.1", "-p", str(port), "-U", "0", *options]
        with _running(OwnServer(command, port, directory, _accepts(port))) as server:
            yield server


@contextmanager
def own_etcd(*ports: int) -> Iterator[OwnServer]:
    """Run an etcd of the test's own, with one member, which listens on these ports too."""
    etcd = program("etcd", "etcd")
    with _directory() as directory:
        port = free_port()
        url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
        command = [etcd, "--data-dir", str(directory / "data"), "--unsafe-no-fsync", "--log-level", "error"]
        command += ["--listen-peer-urls", peer, "--advertise-client-urls", url]
        command += ["--listen-client-urls", ",".join([url, *(f"http://127.0.0.1:{other}" for other in ports)])]
        command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        # It listens before it has elected itself.
        asks = f"import urllib.request; urllib.request.urlopen('{url}/health', timeout=1)"
        with _running(OwnServer(command, port, directory, [sys.executable, "-S", "-c", asks])) as server:
            yield server


@contextmanager
def own_zookeeper() -> Iterator[OwnServer]:
    """Run a ZooKeeper of the test's own, with short ticks, so that sessions may be short."""
    java, jar = program("java", "Java"), Path("/usr/share/java/zookeeper.jar")
    if not jar.exists():
        missing("ZooKeeper is not installed")
    with _directory() as directory:
        port = free_port()
        command = [java, "-cp", f"{jar.parent}/*", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += ["-Dzookeeper.admin.enableServer=false", "-Dzookeeper.clientPortAddress=127.0.0.1"]
        command += ["org.apache.zookeeper.server.ZooKeeperServerMain", str(port), str(directory / "data"), "100"]
        with _running(OwnServer(command, port, directory, _accepts(port))) as server:
            yield server


Started = TypeVar("Started", bound=OwnServer)


class RabbitMQ(OwnServer):
    """A RabbitMQ."""

    def control(self, *arguments: str) -> None:
        """Have `rabbitmqctl` do something."""
        surroundings = self._command[: self._command.index("sh")]
        command = [*surroundings, str(_RABBITMQ / "rabbitmqctl"), "--quiet", *arguments]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True, **unprivileged())


_RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin")


@contextmanager
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """Run a RabbitMQ of the test's own, with the user `guest` that it comes with."""
    epmd, script = program("epmd", "RabbitMQ"), _RABBITMQ / "rabbitmq-server"
    if not script.exists():
        missing("RabbitMQ is not installed")
    with _directory() as directory:
        port, names = free_port(), free_port()
        variables = {
            "HOME": directory,
            "ERL_EPMD_PORT": names,
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": port,
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_MNESIA_BASE": directory / "data",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": directory,
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": directory / "rabbitmq",
            "RABBITMQ_ENABLED_PLUGINS_FILE": directory / "plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        }
        # Erlang would start a daemon for the names of nodes, on every address, and leave it running.
        program_text = f'"{epmd}" -address 127.0.0.1 -port {names} & exec "{script}"'
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), "sh", "-c", program_text]
        with _running(RabbitMQ(command, port, directory, _accepts(port))) as server:
            yield server


class KafkaBroker(OwnServer):
    """A broker of librdkafka's mock cluster. To kill it is to have it close its connections and refuse new ones."""

    def start(self) -> None:
        """Start it, or bring it back after `kill`."""
        if self._process is not None:
            self._signal(signal.SIGUSR2)
            return
        command = [sys.executable, str(Path(__file__).with_name("kafka_brokers.py"))]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            self.port = int(stdout.readline())
        self._ready = _accepts(self.port)

    def kill(self) -> None:
        """Take it down, and wait until it refuses."""
        if self._process is not None and lives(self._process.pid):
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGUSR1)
            deadline = time.monotonic() + PATIENCE
            while answers(self.port):
                assert time.monotonic() < deadline, "the broker does not go down"
                time.sleep(0.005)

    def end(self) -> None:
        """End its process."""
        super().kill()


@contextmanager
def own_kafka() -> Iterator[OwnServer]:
    """Run a Kafka broker of the test's own: librdkafka's mock one, which comes with confluent-kafka."""
    with _directory() as directory:
        server = KafkaBroker([], 0, directory, [])
        try:
            server.start()
            server.wait_until_ready()
            yield server
        finally:
            server.end()


@contextmanager
def own_nats(*options: str, configuration: str = "", jetstream: bool = True) -> Iterator[OwnServer]:
    """Run a NATS server of the test's own, with further options such as `--user`, `orders`."""
    nats = program("nats-server", "NATS")
    with _directory() as directory:
        port = free_port()
        (directory / "nats.conf").write_text(configuration)
        command = [nats, "-c", str(directory / "nats.conf"), "-a", "127.0.0.1", "-p", str(port), *options]
        command += ["-js", "-sd", str(directory)] if jetstream else []
        with _running(OwnServer(command, port, directory, _accepts(port))) as server:
            yield server


@contextmanager
def own_mosquitto(*, anonymous: bool = True) -> Iterator[OwnServer]:
    """Run a Mosquitto of the test's own, which lets in whoever has no password, or nobody."""
    mosquitto = program("mosquitto", "Mosquitto")
    with _directory() as directory:
        port = free_port()
        configuration = directory / "mosquitto.conf"
        configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous {str(anonymous).lower()}\n")
        if "user" in (options := unprivileged()):
            shutil.chown(configuration, options["user"])
        command = [mosquitto, "-c", str(configuration)]
        with _running(OwnServer(command, port, directory, _accepts(port))) as server:
            yield server


def _accepts(port: int) -> list[str]:
    """A command that succeeds once something listens at this port."""
    return [sys.executable, "-S", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"]


@contextmanager
def own_sentinel(primary: OwnServer) -> Iterator[OwnServer]:
    """Run a Sentinel that watches a Redis of the test's own under the name `orders`, and needs no other to agree."""
    redis = program("redis-server", "Redis")
    with _directory() as directory:
        port = free_port()
        configuration = directory / "sentinel.conf"
        configuration.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor orders 127.0.0.1 {primary.port} 1\n")
        if "user" in (options := unprivileged()):
            shutil.chown(configuration, options["user"])
        ready = [program("redis-cli", "Redis"), "-e", "-p", str(port), "ping"]
        command = [redis, str(configuration), "--sentinel"]
        with _running(OwnServer(command, port, directory, ready)) as server:
            yield server


@contextmanager
def own_server(command: Callable[[int], list[str]], path: str, files: Mapping[str, str]) -> Iterator[OwnServer]:
    """Run a server of the test's own that answers over HTTP.

    Args:
        command: What starts it in the foreground, by the port where it is to listen.
        path: What it answers with 200 once it serves.
        files: What it finds in its directory.
    """
    with _directory() as directory:
        for name, text in files.items():
            (directory / name).write_text(text)
            if "user" in (options := unprivileged()):
                shutil.chown(directory / name, options["user"])
        port = free_port()
        asks = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}{path}', timeout=1)"
        with _running(OwnServer(command(port), port, directory, [sys.executable, "-S", "-c", asks])) as server:
            yield server


@contextmanager
def _running(server: Started) -> Iterator[Started]:
    try:
        server.start()
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@contextmanager
def _directory() -> Iterator[Path]:
    # Not pytest's tmp_path: the user that the server runs as could not enter it, and socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="otel_health-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        if "user" in (options := unprivileged()):
            shutil.chown(directory, options["user"])
        yield Path(directory)


class Unprivileged(TypedDict, total=False):
    """Who a server runs as, as an option of `subprocess`."""

    user: int


def unprivileged() -> Unprivileged:
    """Return who a server runs as; nothing said is ourselves. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return {"user": users.get("postgres", users["nobody"])}


def free_port() -> int:
    """Return a port of loopback that nobody uses at the moment, and that no outgoing connection is given either."""
    while True:
        port = random.SystemRandom().randrange(10_000, 20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if parent_and_state(stat)[0] == pid:
                found.append(int(stat.parent.name))
    return found


def lives(pid: int) -> bool:
    """Whether a process exists and is more than a corpse that nobody has fetched."""
    with suppress(OSError):
        return parent_and_state(Path(f"/proc/{pid}/stat"))[1] != "Z"
    return False


def stopped(pid: int) -> bool:
    """Whether every thread of a process has stopped, some time after SIGSTOP, or ended."""
    with suppress(OSError):
        return all(parent_and_state(task / "stat")[1] in "TtZX" for task in Path(f"/proc/{pid}/task").iterdir())
    return not lives(pid)


def parent_and_state(stat: Path) -> tuple[int, str]:
    """Return a process's parent and its state from its line in /proc; its name may hold spaces and brackets."""
    state, parent = stat.read_text().rpartition(")")[2].split()[:2]
    return int(parent), state
