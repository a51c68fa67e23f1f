"""The servers that some checks need beside those of `tests.servers`: each made for what is asked of it."""

import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Final

import pymysql
import redis
import trustme

from tests.checks import test_ldap, test_s3
from tests.checks.conftest import Started
from tests.checks.programs import python
from tests.servers import OwnServer, free_port, own_mariadb, own_redis, own_sentinel, own_standby

AUTHORITY: Final = trustme.CA()
TRUSTING: Final = ssl.create_default_context()
AUTHORITY.configure_trust(TRUSTING)


def with_more(stack: ExitStack, servers: Started) -> Started:
    """Give these servers too, by their names in `MORE`; they run until the stack is closed."""

    @cache
    def started(name: str) -> OwnServer:
        make = MORE.get(name)
        return servers(name) if make is None else stack.enter_context(make(servers))

    return started


@contextmanager
def mariadb_replica(_: Started) -> Iterator[OwnServer]:
    """A MariaDB that replicates another."""
    with own_mariadb("--server-id=1", "--log-bin") as primary, own_mariadb("--server-id=2") as made:
        with closing(pymysql.connect(host="127.0.0.1", port=made.port, user="root")) as administrator:
            source = f"MASTER_HOST = '127.0.0.1', MASTER_PORT = {primary.port}, MASTER_USER = 'root'"
            administrator.cursor().execute(f"CHANGE MASTER TO {source}, MASTER_USE_GTID = slave_pos")
            administrator.cursor().execute("START REPLICA")
        yield made


@contextmanager
def redis_replica(_: Started) -> Iterator[OwnServer]:
    """A Redis that replicates another."""
    quick = ("--repl-diskless-sync-delay", "0")
    with own_redis(*quick) as primary, own_redis("--replicaof", "127.0.0.1", str(primary.port)) as made:
        yield made


@contextmanager
def redis_node(_: Started) -> Iterator[OwnServer]:
    """A cluster of Redis that is one node."""
    with own_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as made:
        with redis.Redis(port=made.port) as administrator:
            administrator.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield made


@contextmanager
def store(_: Started) -> Iterator[OwnServer]:
    """An S3 with the bucket `invoices`."""
    with test_s3.store() as made:
        test_s3.bucket(made.port)
        yield made


@contextmanager
def mail(_: Started, security: str) -> Iterator[OwnServer]:
    """A mail server that is secured so, with a certificate of `AUTHORITY`."""
    issued = AUTHORITY.issue_cert("localhost", "127.0.0.1")
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        certificate, key = Path(home) / "certificate", Path(home) / "key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        with python("tests.checks.smtp_server", security, str(certificate), str(key)) as made:
            yield made


MORE: Final[dict[str, Callable[[Started], AbstractContextManager[OwnServer]]]] = {
    "standby": lambda servers: own_standby(servers("postgres")),
    "mariadb replica": mariadb_replica,
    "redis replica": redis_replica,
    "redis node": redis_node,
    "sentinel": lambda servers: own_sentinel(servers("redis")),
    "directory": lambda _: test_ldap.directory(),
    "store": store,
    "mail by starttls": partial(mail, security="starttls"),
    "mail by tls": partial(mail, security="tls"),
    "grpc": lambda _: python("tests.checks.grpc_server"),
    "receiver": lambda _: python("tests.otlp_receiver"),
}
