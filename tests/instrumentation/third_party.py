"""Applications that others have written: fetched from the package index, and made as their documentation has it."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.instrumentation.processes import IMPORTED
from tests.servers import missing

PINS: Final = Path(__file__).with_suffix(".txt")
FETCHES_FOR: Final = 120
"""Seconds that all of it may take to come."""


def fetched(cache: pytest.Cache) -> Path:
    """Return where everything in the list is, unpacked: what is pure Python needs no installing."""
    known = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    unpacked = cache.mkdir("third-party") / known
    if not unpacked.exists():
        with tempfile.TemporaryDirectory(dir=unpacked.parent) as name:
            directory = Path(name)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
            pip += ["--no-deps", "--require-hashes", "--dest", str(directory / "archives"), "--requirement", str(PINS)]
            came = subprocess.run(pip, capture_output=True, text=True, timeout=FETCHES_FOR)
            if came.returncode != 0:
                missing(f"applications of others did not come: {came.stderr[-500:]}", "the package index is needed")
            for archive in (directory / "archives").iterdir():
                if archive.suffix == ".whl":
                    shutil.unpack_archive(archive, directory / "unpacked", "zip")
                else:
                    shutil.unpack_archive(archive, directory / "unpacked", filter="data")
            (directory / "unpacked").rename(unpacked)
    return unpacked


class Ports(NamedTuple):
    """Where the servers are that an application speaks to."""

    postgres: int
    redis: int


class Application(NamedTuple):
    """One that is there to be served."""

    directory: Path
    """Where it is to be started."""
    environment: Mapping[str, str]
    """Whom it speaks to, in its own words."""


def fastapi_project(packages: Path, directory: Path, at: Ports) -> Application:
    """FastAPI over SQLAlchemy and Redis, from fastapi-template, which wants Git and uv, and goes on if they fail."""
    for program, does in (("git", "false"), ("uv", "true")):
        (directory / program).symlink_to(str(shutil.which(does)))
    chosen = ["--db", "postgresql", "--orm", "sqlalchemy", "--redis", "--routers", "--dummy", "--migrations"]
    chosen += ["--name", "orders", "--api-type", "rest", "--ci", "none", "--quiet"]
    path = os.pathsep.join([str(directory), os.environ["PATH"]])
    _generate(["-m", "fastapi_template", *chosen], packages, directory, PATH=path)
    return Application(
        directory / "orders",
        {
            "PYTHONPATH": _importing(directory / "orders", packages),
            "ORDERS_DB_HOST": "127.0.0.1",
            "ORDERS_DB_PORT": str(at.postgres),
            "ORDERS_DB_USER": "postgres",
            "ORDERS_REDIS_HOST": "127.0.0.1",
            "ORDERS_REDIS_PORT": str(at.redis),
        },
    )


DEPLOYED: Final = """
from piccolo.conf.apps import AppRegistry
from piccolo.engine.postgres import PostgresEngine
DB = PostgresEngine(config={{"host": "127.0.0.1", "port": {port}, "user": "postgres", "database": "orders"}})
APP_REGISTRY = AppRegistry(apps=["home.piccolo_app", "piccolo_admin.piccolo_app"])
"""


def starlette_project(packages: Path, directory: Path, at: Ports) -> Application:
    """Starlette over asyncpg, from Piccolo, told where its database is by the module that its variable names."""
    _generate(["-m", "piccolo.main", "asgi", "new"], packages, directory, answers="0\n0\n")
    (directory / "deployed.py").write_text(DEPLOYED.format(port=at.postgres))
    return Application(directory, {"PYTHONPATH": _importing(directory, packages), "PICCOLO_CONF": "deployed"})


def django_project(packages: Path, directory: Path, at: Ports) -> Application:
    """Django over PostgreSQL, the example of its debug toolbar, which leaves it to libpq where the server is."""
    (source,) = packages.glob("django_debug_toolbar-*")
    return Application(
        directory,
        {
            "PYTHONPATH": _importing(source, packages),
            "DJANGO_SETTINGS_MODULE": "example.settings",
            "DB_BACKEND": "postgresql",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(at.postgres),
        },
    )


def flask_application(packages: Path, directory: Path, at: Ports) -> Application:
    """Flask over Redis, the dashboard of RQ."""
    environment = {"PYTHONPATH": _importing(packages), "RQ_DASHBOARD_REDIS_URL": f"redis://127.0.0.1:{at.redis}/0"}
    return Application(directory, environment)


def _importing(*directories: Path) -> str:
    return os.pathsep.join([IMPORTED, *map(str, directories)])


def _generate(command: list[str], packages: Path, directory: Path, answers: str = "", **environment: str) -> None:
    made = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(packages), **environment},
        input=answers,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stdout + made.stderr
