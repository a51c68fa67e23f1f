"""What a forked child finds: a closed Checker that works, whatever the parent was doing at the time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PARENT = '''
import asyncio, faulthandler, logging, os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)  # That threads are alive is what is tested.
from otel_health import Checker, Status
from otel_health.lifecycle import Drain, LivenessServer, LoopMonitor
from otel_health.prometheus import PrometheusExporter

logging.getLogger("otel_health").addHandler(logging.NullHandler())
logging.getLogger("otel_health").propagate = False

def in_child(ask):
    """What `ask` prints in a forked child, which dies of a deadlock and says where it is."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        try:
            ask()
            sys.stdout.flush()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

async def opened(checker):
    async with checker:
        deadline = time.monotonic() + 10
        while not checker.report().status.up:
            assert time.monotonic() < deadline, checker.report()
            await asyncio.sleep(0.01)
        return checker.report()
'''


def run(program: str) -> str:
    """What a program prints that forks; it has to end well, and in silence otherwise."""
    ran = subprocess.run(
        [sys.executable, "-c", PARENT + program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_a_checker_that_was_warmed_up_before_the_fork_lives_in_the_child() -> None:
    """Threads, events and metrics too: what a preloading server does to an application that asks at import."""
    printed = run("""
exporter = PrometheusExporter()
checker = Checker(meter_provider=exporter.meter_provider)
checker.add("sync", lambda: time.sleep(0.01))
gate = checker.gate("gate", ready=True)

async def warm_up():
    assert (await checker.run()).status.up
    print((await exporter.scraped()).text.count(b"otel_health_check_up{"))

async def work():
    async with checker:
        await warm_up()

def ask():
    assert checker.report().status is Status.PASS  # What the parent knew, until it expires.
    gate.close(); gate.open()
    asyncio.run(work())
    asyncio.run(warm_up())

asyncio.run(warm_up())
print(in_child(ask))
""")
    assert printed == "2\n2\n2\n0\n"


def test_an_open_checker_is_closed_in_the_child_and_may_be_opened_there() -> None:
    """Forked out of its own loop, while checks run, hang and block threads: none of them is alive in the child."""
    printed = run("""
checker = Checker(interval=0.05, timeout=0.3)
first = True

async def hangs():
    try:
        await asyncio.Event().wait() if first else None
    finally:
        print("cleaned up", os.getpid() == parent)

def blocks():
    if first:
        time.sleep(2)

parent = os.getpid()
checker.add("hangs", hangs)
checker.add("blocks", blocks)
checker.add("passes", lambda: None, probes={"other"})
server = LivenessServer(checker, port=0, host="127.0.0.1")

def ask():
    global first
    first = False
    assert not checker.is_open and "event-loop" not in checker
    assert all(component.abandoned_runs == 0 for component, _ in checker.engine.states())
    asyncio.run(opened(checker))

async def main():
    async with checker, LoopMonitor(checker), Drain(checker), server:
        await asyncio.sleep(0.15)
        print(in_child(ask))
        await asyncio.sleep(0.5)
        print(in_child(ask))
        assert checker.is_open and "event-loop" in checker
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert in_child(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM

asyncio.run(main())
""")
    assert printed.replace("cleaned up True\n", "").startswith("cleaned up False\n0\n")
    assert printed.count("\n0\n") == 2


def test_what_changes_after_the_fork_is_answered() -> None:
    """An answer that was kept before the next change is not kept beyond it."""
    printed = run("""
checker = Checker()
gate = checker.gate("config", ready=True)
app = checker.asgi()

async def ask():
    sent = []
    scope = {"type": "http", "method": "GET", "path": "/readyz", "query_string": b"", "headers": []}
    async def send(message):
        sent.append(message)
    await app(scope, None, send)
    return sent[0]["status"]

def child():
    loop = asyncio.new_event_loop()
    statuses = [loop.run_until_complete(ask())]
    for turn in (gate.close, gate.open, gate.close):
        turn()
        statuses.append(loop.run_until_complete(ask()))
    loop.close()
    print(statuses)

asyncio.run(checker.run())
print(in_child(child))
""")

    assert printed == "[200, 503, 200, 503]\n0\n"


def test_what_the_child_inherits_expires() -> None:
    """Nobody renews it there, and so nobody believes it for longer than anywhere else."""
    printed = run("""
checker = Checker(interval=0.2, timeout=0.1)
checker.add("redis", lambda: None)

def ask():
    assert checker.report().status.up
    begun = time.monotonic()
    while checker.report().status.up:
        assert time.monotonic() - begun < 5
        time.sleep(0.01)
    assert time.monotonic() - begun <= 1.5
    assert checker.report().components["redis"].error_type == "stale"

async def main():
    async with checker:
        while not checker.report().status.up:
            await asyncio.sleep(0.01)
        print(in_child(ask))

asyncio.run(main())
""")
    assert printed == "0\n"


@pytest.mark.parametrize("lock", ["checker.engine.registry._lock", "gate._guard", "checker.engine._instruments._lock"])
def test_locks_that_somebody_holds_are_made_anew(lock: str) -> None:
    """The thread that holds them does not exist in the child, and would never let go."""
    printed = run(f"""
checker = Checker()
gate = checker.gate("gate")
held, done = threading.Event(), threading.Event()

def hold():
    with {lock}, checker.engine._runner._threads._lock, checker.engine.events._thread._lock:
        held.set()
        done.wait()

holder = threading.Thread(target=hold)
holder.start()
held.wait()

def ask():
    gate.open()
    checker.add("sync", lambda: None)
    asyncio.run(opened(checker))

print(in_child(ask))
done.set()
holder.join()
""")
    assert printed == "0\n"


def test_nobody_looks_in_the_child_because_somebody_looked_in_the_parent() -> None:
    """A profile that is under way at the fork keeps the debug pages of the child from nobody."""
    printed = run("""
from otel_health import debug

def ask():
    with debug._alone() as admitted:
        assert admitted

with debug._alone() as admitted:
    print(in_child(ask), admitted)
""")
    assert printed == "0 True\n"


def test_many_forks_under_load() -> None:
    """From a thread beside the loop, at any moment of whatever that does."""
    printed = run("""
checker = Checker(interval=0.01, timeout=0.5, meter_provider=PrometheusExporter().meter_provider)
for number in range(20):
    checker.add(f"sync-{number}", lambda: time.sleep(0.001))
    checker.gate(f"gate-{number}", ready=True)
ended = threading.Event()

async def main():
    async with checker:
        while not ended.is_set():
            await asyncio.sleep(0.01)

thread = threading.Thread(target=asyncio.run, args=(main(),))
thread.start()
while not checker.is_open:
    time.sleep(0.001)

def ask():
    asyncio.run(opened(checker))

print({in_child(ask) for _ in range(15)})
ended.set()
thread.join()
""")
    assert printed == "{0}\n"


def test_nothing_of_the_parents_is_cleaned_up_in_the_child() -> None:
    """A check under way may hold a connection: its `finally`, run in the child, would speak on the parent's."""
    printed = run("""
import gc
checker = Checker(timeout=5)

@checker.check("hangs")
async def hangs():
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        print("cleaned up")

async def asks():
    asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.1)

loop = asyncio.new_event_loop()
loop.run_until_complete(asks())

def ask():
    global loop, checker
    del loop, checker
    gc.collect()

print(in_child(ask), flush=True)
os._exit(0)
""")
    assert printed == "0\n"


def test_a_drain_may_be_entered_again_in_the_child() -> None:
    """Before the handler that was there before the parent's."""
    printed = run("""
checker = Checker()
drain = Drain(checker, delay=0.1, cap=5)

async def wait():
    async with checker, drain:
        os.kill(os.getpid(), signal.SIGTERM)
        await drain.wait()
        print("drained")
        await asyncio.sleep(0.05)

async def main():
    async with checker, drain:
        print(in_child(lambda: asyncio.run(wait())))

asyncio.run(main())
""")
    assert printed == "drained\n0\n"


def test_a_child_of_a_worker_is_no_worker() -> None:
    """It gives up the lock, or nobody could lead after its parent's end; and nothing of the parent's is removed."""
    printed = run("""
import tempfile
from otel_health.workers import Workers
from otel_health.workers.leadership import Leadership
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(dir="/tmp")
exporter = PrometheusExporter()
checker = Checker(meter_provider=exporter.meter_provider)
checker.add("redis", lambda: None, shared=True)
workers = Workers(checker, exporter=exporter, group="orders")

async def again():
    assert not workers.leads and workers.others() == [] and "workers" not in checker
    async with checker, workers:
        assert not workers.leads
        assert workers.others() == [os.getppid()]
        while not checker.report().status.up:
            await asyncio.sleep(0.01)

def lingers():
    os.close(ends[0])
    os.write(ends[1], b".")
    time.sleep(30)

async def main():
    async with checker, workers:
        here = sorted(os.listdir(workers.place))
        print(in_child(lambda: asyncio.run(again())), sorted(os.listdir(workers.place)) == here, workers.leads)
        place = workers.place
        child = os.fork()
        if child == 0:
            lingers()
        os.read(ends[0], 1)
        workers._leadership.give_up()  # As the kernel does at the parent's end.
        print(Leadership(place / "leader").seek())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

ends = os.pipe()
asyncio.run(main())
import shutil
shutil.rmtree(os.environ["XDG_RUNTIME_DIR"])
""")
    assert printed == "0 True True\nTrue\n"
