"""Every check has the same shape: one file, one test file, rows in the table, and nothing that it does not need."""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import otel_health.checks
from otel_health.check import CheckFunc

PACKAGE = Path(otel_health.checks.__file__).parent
TABLE = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()

TECHNOLOGIES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
each = pytest.mark.parametrize("technology", TECHNOLOGIES)


def factories(technology: str) -> dict[str, Callable[..., CheckFunc]]:
    """The public functions of a technology: each returns a check function."""
    module = importlib.import_module(f"otel_health.checks.{technology}")
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


EVERY = [(technology, name) for technology in TECHNOLOGIES for name in factories(technology)]
every = pytest.mark.parametrize(("technology", "name"), EVERY, ids=[".".join(pair) for pair in EVERY])


def test_the_package_is_flat() -> None:
    """One file for each technology, and no directories."""
    assert [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"] == []
    assert TECHNOLOGIES


@each
def test_it_imports_check_compose_and_the_standard_library_alone(technology: str) -> None:
    """No client library, no other check, nothing of the Checker; those of the network have a client of our own."""
    tree = ast.parse((PACKAGE / f"{technology}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}

    others = {name for name in foreign if not name.startswith("otel_health.client.")}
    assert others <= {"otel_health.check", "otel_health.compose"}


@each
def test_it_is_proven_by_a_test_file_of_its_own(technology: str) -> None:
    """`postgres.py` is proven by `test_postgres.py`."""
    assert (Path(__file__).parent / f"test_{technology}.py").exists()


@every
def test_it_says_what_one_has_to_know(technology: str, name: str) -> None:
    """A sentence, what it costs, how often to ask, what it raises where it can, and an example that names it."""
    function = factories(technology)[name]
    documentation = inspect.getdoc(function) or ""

    assert documentation.splitlines()[0].startswith("Return a check that ")
    assert documentation.splitlines()[0].endswith(".")
    for part in ("Cost:", "is fine.", "Raises:", "Example:", f"{technology}.{name}("):
        assert part in documentation.replace("\n", " "), part
    described = documentation.partition("Args:")[2]
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        assert f"{parameter.name}: " in described, parameter.name


@every
def test_it_returns_a_check_function_and_its_options_have_names(technology: str, name: str) -> None:
    """What it is given first is the client or the target, if there is one; all else is keyword-only."""
    signature = inspect.signature(factories(technology)[name])
    first, *options = signature.parameters.values()

    assert signature.return_annotation is CheckFunc or signature.return_annotation == CheckFunc
    assert first.kind in (first.POSITIONAL_OR_KEYWORD, first.VAR_POSITIONAL) or first.default is not first.empty
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


@every
def test_it_has_a_row_in_the_table(technology: str, name: str) -> None:
    """The documentation says what it proves, what it costs and how often to ask."""
    rows = [line for line in TABLE.splitlines() if line.startswith(f"| `{technology}.{name}`")]

    assert len(rows) == 1
    assert len(rows[0].strip("|").split(" | ")) == 5


def test_the_table_names_nothing_that_is_not_there() -> None:
    """A row without a function is a promise that nobody keeps."""
    named = set(re.findall(r"^\| `(\w+\.\w+)`", TABLE, re.MULTILINE))

    assert named == {".".join(pair) for pair in EVERY}
