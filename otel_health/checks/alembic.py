"""Migrations by Alembic, through the SQLAlchemy engine that the application holds."""

import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

from otel_health.check import CheckFunc, Degraded, Failed


class Scripts(Protocol):
    """What is used of an `alembic.script.ScriptDirectory`."""

    def get_heads(self) -> list[str]: ...
    def walk_revisions(self) -> Iterable[Any]: ...


class Engine(Protocol):
    """What is used of a `sqlalchemy.Engine`, or of an `AsyncEngine`."""

    def connect(self) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]: ...


def migrated(engine: Engine, *, scripts: Scripts, version_table: str = "alembic_version") -> CheckFunc:
    """Return a check that the database has every migration that this code was written for.

    It fails while migrations are pending. It warns while the database has some that this code does not know: a newer
    release has migrated it, and during a rolling deployment that must not take the older one away. The scripts are read
    when the check is made. Cost: one query on a table of a row. Every 60 s is fine.

    Args:
        engine: What `create_engine` or `create_async_engine` returned.
        scripts: `ScriptDirectory.from_config(config)`.
        version_table: Where Alembic keeps the revision, with its schema if it needs one.

    Raises:
        TypeError: It is no engine.
        ValueError: The table's name is none.

    Example:
        >>> scripts = ScriptDirectory.from_config(Config("alembic.ini"))
        >>> checker.add("migrations", alembic.migrated(engine, scripts=scripts), probes={"startupz", "readyz"})
    """
    if not hasattr(engine, "connect") or not hasattr(engine, "pool"):
        raise TypeError(f"alembic: {type(engine).__name__} is no engine; pass what create_engine returned")
    if not re.fullmatch(r"\w+(\.\w+)?", version_table):
        raise ValueError(f"alembic: {version_table!r} cannot name a table; give a name, or schema.name")
    heads = set(scripts.get_heads())
    known = {revision.revision for revision in scripts.walk_revisions()}
    query = f"SELECT version_num FROM {version_table}"

    def conclude(rows: Iterable[Any]) -> None:
        current = {row[0] for row in rows}
        if current == heads:
            return
        if current - known:
            raise Degraded(f"the database is ahead of this code, at {', '.join(sorted(current))}")
        raise Failed(f"migrations are pending: from {_listed(current)} to {_listed(heads)}")

    def check() -> None:
        with engine.connect() as connection:  # type: ignore[union-attr]
            conclude(connection.exec_driver_sql(query).all())

    async def check_async() -> None:
        async with engine.connect() as connection:  # type: ignore[union-attr]
            conclude((await connection.exec_driver_sql(query)).all())

    return check_async if hasattr(engine, "sync_engine") else check


def _listed(revisions: set[str]) -> str:
    return ", ".join(sorted(revisions)) or "nothing"
