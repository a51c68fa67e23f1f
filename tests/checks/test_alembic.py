"""Alembic: migrations that are made, pending, or of another release."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from otel_health.checks import alembic
from tests.checks.clients import async_engine, engine
from tests.checks.conftest import Started
from tests.checks.results import result_of
from tests.checks.test_postgres import execute

engines = pytest.mark.parametrize("opened", [engine, async_engine])


@pytest.fixture
def migrations(tmp_path: Path) -> Config:
    """A directory of two empty migrations."""
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option("path_separator", "os")
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text(
        "from alembic import context\n"
        "context.configure(connection=context.config.attributes['connection'])\n"
        "with context.begin_transaction():\n"
        "    context.run_migrations()\n"
    )
    for revision, before in (("one", None), ("two", "one")):
        steps = "def upgrade(): ...\ndef downgrade(): ...\n"
        (versions / f"{revision}.py").write_text(f"revision = {revision!r}\ndown_revision = {before!r}\n{steps}")
    return config


@asynccontextmanager
async def migrated_to(servers: Started, config: Config, revision: str) -> AsyncIterator[int]:
    """A database with the migrations up to this one; gives the port of its server."""
    server = servers("postgres")
    made = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres")
    with made.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    made.dispose()
    try:
        yield server.port
    finally:
        await execute(server, "DROP TABLE IF EXISTS alembic_version")


@engines
@pytest.mark.parametrize(
    ("revision", "status", "message"),
    [("two", "pass", None), ("one", "fail", "migrations are pending: from one to two")],
)
async def test_it_tells_whether_migrations_are_pending(
    servers: Started, migrations: Config, opened: Callable[..., Any], revision: str, status: str, message: str | None
) -> None:
    """At the head it passes; before it, it fails and says from where to where."""
    scripts = ScriptDirectory.from_config(migrations)
    async with migrated_to(servers, migrations, revision) as port, opened(port) as made:
        result = await result_of(alembic.migrated(made, scripts=scripts))

    assert (result.status, result.message) == (status, message)


@engines
async def test_a_database_that_a_newer_release_has_migrated_warns(
    servers: Started, migrations: Config, opened: Callable[..., Any]
) -> None:
    """During a rolling deployment the older release stays up."""
    scripts = ScriptDirectory.from_config(migrations)
    async with migrated_to(servers, migrations, "two") as port, opened(port) as made:
        await execute(servers("postgres"), "UPDATE alembic_version SET version_num = 'three'")
        result = await result_of(alembic.migrated(made, scripts=scripts))

    assert (result.status, result.message) == ("warn", "the database is ahead of this code, at three")


@engines
async def test_a_database_that_was_never_migrated_fails(
    servers: Started, migrations: Config, opened: Callable[..., Any]
) -> None:
    """The table is not there, and the error says so."""
    async with opened(servers("postgres").port) as made:
        result = await result_of(alembic.migrated(made, scripts=ScriptDirectory.from_config(migrations)))

    assert (result.status, result.refined_error_type) == ("fail", "ProgrammingError")


def test_what_makes_no_sense_is_refused(migrations: Config) -> None:
    """Something that is no engine, and a name that is more than a name."""
    scripts = ScriptDirectory.from_config(migrations)
    made = sqlalchemy.create_engine("sqlite://")

    with pytest.raises(TypeError, match="str is no engine"):
        alembic.migrated("sqlite://", scripts=scripts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot name a table"):
        alembic.migrated(made, scripts=scripts, version_table="v; DROP TABLE orders")
