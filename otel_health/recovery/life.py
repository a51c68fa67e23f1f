"""One life of a supervised function: a task on the loop, or a thread that nothing can end."""

import asyncio
import inspect
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from otel_health.check import is_async
from otel_health.compose import set_once
from otel_health.run import awaited, close, pressed
from otel_health.threads import call_on

Work = Callable[[], object]
"""A function without arguments that works until it is told to end: async on the loop, any other in a thread."""


class Life:
    """Calls the function at once; `ended` is done when nothing of it is alive any more.

    Args:
        name: What the task, or the thread, is called.
        work: A coroutine function runs on the loop, any other in a thread of its own; an awaitable that it returns
            is awaited on the loop.
        context: The context variables that it sees.
    """

    def __init__(self, name: str, work: Work, context: Context) -> None:
        self._name = name
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[BaseException | None] | None = None
        self._cancelled = False
        self._forsaken = False
        self.ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        """What ended it; None where it returned."""
        if is_async(work):
            self._drive(work)
            return
        try:
            threading.Thread(target=self._call, args=(work,), name=f"otel_health-{name}", daemon=True).start()
        except RuntimeError as error:  # The system has no thread left.
            self.ended.set_result(error)

    @property
    def is_thread(self) -> bool:
        """Whether a thread lives it, which can be asked for nothing."""
        return self._task is None

    def cancel(self) -> None:
        """Ask it to end, where it can be asked; a thread at least drives nothing on when it returns."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def forsake(self) -> None:
        """Drive it no further, whatever it does."""
        self._forsaken = True
        self.cancel()

    # On the loop.

    def _drive(self, work: Work) -> None:
        self._task = self._loop.create_task(self._live(work), name=self._name, context=self._context)
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[BaseException | None]) -> None:
        if task.cancelled():  # Before its first step.
            set_once(self.ended, asyncio.CancelledError())
        else:
            set_once(self.ended, task.exception() or task.result())

    async def _live(self, work: Work) -> BaseException | None:
        try:
            made = work()
            await self._driven(made if isinstance(made, types.CoroutineType) else awaited(made))  # type: ignore[arg-type, misc, unused-ignore]
        except BaseException as error:  # The supervisor looks at every end.
            if isinstance(error, KeyboardInterrupt) and pressed(error):
                raise
            return error
        return None

    @types.coroutine
    def _driven(self, coroutine: Coroutine[Any, Any, object]) -> Generator[Any, None, None]:
        """Drive the coroutine step by step, so that one that denies its cancellation can be left."""
        thrown: BaseException | None = None
        while True:
            try:
                suspended = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration:
                return
            thrown = None
            try:
                yield suspended
            except BaseException as error:
                if self._forsaken or isinstance(error, GeneratorExit):
                    close(coroutine)
                    raise
                thrown = error

    # In a thread.

    def _call(self, work: Work) -> None:
        value: object = None
        error: BaseException | None = None
        try:
            value = self._context.run(work)
        except BaseException as raised:  # noqa: BLE001 - as in _live.
            error = raised
        if not call_on(self._loop, self._called, value, error) and isinstance(value, types.CoroutineType):
            close(value)

    def _called(self, value: object, error: BaseException | None) -> None:
        if inspect.isawaitable(value) and not self._cancelled:
            self._drive(lambda: value)
            return
        if isinstance(value, types.CoroutineType):
            close(value)
        set_once(self.ended, error)
