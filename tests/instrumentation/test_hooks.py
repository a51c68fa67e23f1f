"""Methods that are led through ours, and given back without a trace."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from otel_health_instrumentation import HealthInstrumentor
from otel_health_instrumentation.hooks import Hooks, Seam
from tests.instrumentation.conftest import Instrument
from tests.instrumentation.processes import in_fresh_interpreter


def louder(original: Callable[..., str]) -> Callable[..., str]:
    """Lead a method through an exclamation."""
    return lambda self: original(self) + "!"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that nobody has imported."""
    name = f"{tmp_path.name}_module".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "class Person:\n    def greet(self):\n        return 'hello'\nclass Child(Person):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def imported(name: str) -> Any:
    """The module of that name."""
    return __import__(name)


@pytest.mark.parametrize("before", [False, True])
def test_a_method_is_hooked_whenever_its_module_is_imported(
    before: bool,  # noqa: FBT001 - a parameter of the test.
    module: str,
) -> None:
    """Before or after; and it is the same again when it was given back, twice over."""
    if before:
        imported(module)
    for _ in range(2):
        hooks = Hooks(Seam(module, "Person", "greet", louder))
        hooks.hook()
        assert imported(module).Person().greet() == "hello!"
        hooks.unhook()
        assert imported(module).Person().greet() == "hello"
        assert imported(module).Person.greet.__qualname__ == "Person.greet"


def test_what_is_imported_after_it_is_over_is_left_alone(module: str) -> None:
    """The import hook cannot be taken back, but nobody asks it for anything."""
    hooks = Hooks(Seam(module, "Person", "greet", louder))
    hooks.hook()
    hooks.unhook()

    assert imported(module).Person().greet() == "hello"


def test_what_is_hooked_is_the_class_that_has_the_method(module: str) -> None:
    """Instrumentors put a subclass in the place of a class, and take it away again."""
    hooks = Hooks(Seam(module, "Child", "greet", louder))
    hooks.hook()
    assert imported(module).Person().greet() == "hello!"
    assert "greet" not in vars(imported(module).Child)

    hooks.unhook()

    assert imported(module).Child().greet() == "hello"


def test_who_wrapped_ours_keeps_his(module: str) -> None:
    """We take away what is ours and nobody else's."""
    hooks = Hooks(Seam(module, "Person", "greet", louder))
    hooks.hook()
    person = imported(module).Person
    ours = person.greet
    person.greet = lambda self: ours(self) + "?"

    hooks.unhook()

    assert person().greet() == "hello!?"


def test_what_is_not_there_costs_the_others_nothing(module: str, caplog: pytest.LogCaptureFixture) -> None:
    """Another version of a library may have renamed it: one line, and the import goes on."""
    hooks = Hooks(Seam(module, "Nobody", "greet", louder), Seam(module, "Person", "greet", louder))
    hooks.hook()

    assert imported(module).Person().greet() == "hello!"
    hooks.unhook()
    assert f"could not hook {module}:Nobody.greet: AttributeError" in caplog.text


def test_instrumenting_leaves_no_trace_twice_over(instrument: Instrument, threads: Callable[[], int]) -> None:
    """Every class is byte for byte what it was."""
    before = {owner: dict(vars(owner)) for owner in (Starlette, FastAPI)}
    for _ in range(2):
        instrument()
        assert vars(Starlette)["__call__"] is not before[Starlette]["__call__"]
        HealthInstrumentor().uninstrument()
        assert {owner: dict(vars(owner)) for owner in (Starlette, FastAPI)} == before
        assert HealthInstrumentor().checker is None
        assert threads() == 0


def test_instrumenting_starts_nothing() -> None:
    """No thread and no socket: what is forked later inherits none."""
    program = """
import os, threading
from otel_health_instrumentation import HealthInstrumentor
before = set(os.listdir("/proc/self/fd"))
HealthInstrumentor().instrument()
print(threading.active_count(), set(os.listdir("/proc/self/fd")) - before)
"""
    assert in_fresh_interpreter(program) == "1 set()"
