"""The dashboards that are shipped, drawn with what a real Prometheus has seen of a service."""

import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser

from otel_health.observability.files import dashboards
from otel_health.observability.rules import Options, rules
from tests.observability.stack import Prometheus, comes_true, own_prometheus
from tests.servers import free_port
from tests.services import serving

HERE: Final = Path(__file__).parent
SECONDS: Final = 210
"""For which the service is watched: it takes so long until all has happened to it."""

STEP: Final = 2
"""Seconds between two points of a line."""

INSTANCES: Final = {"a": "orders-7f9c6b5d-a1x2k", "b": "orders-7f9c6b5d-b7k9p", "c": "orders-7f9c6b5d-c3m4z"}
"""As Kubernetes would call the instances."""

RULES: Final = rules(Options(interval="1s", slow_interval="1s", slo=94.0))

CHOSEN: Final = {"$job": "orders", "$instance": ".+", "$__range": f"{SECONDS}s", "$__rate_interval": "8s"}
COMPONENT: Final = {"overview": ".+", "component": "payments", "slo": ".+"}
"""Which component is chosen in which dashboard."""


def draw(browser: Browser, pictures: Path) -> None:
    """Write one picture of each dashboard, `overview.png` and so on."""
    _bundle()
    # A label of time stands at every half minute: none is to be cut at an edge. The service starts meanwhile.
    begins = math.ceil(time.time() / 30) * 30 + 15
    ends = begins + SECONDS
    with _watched(begins) as prometheus:
        threading.Event().wait(ends - time.time())
        for file, text in dashboards().items():
            name = file.removesuffix(".json")
            board = json.loads(text)
            panels = [
                {"panel": panel, "answers": [_asked(prometheus, each, name, begins, ends) for each in panel["targets"]]}
                for panel in board["panels"]
            ]
            drawn = {"title": board["title"], "panels": panels, "begun": begins, "ended": ends, "step": STEP}
            _picture(browser, drawn, pictures / f"{name}.png")


@contextmanager
def _watched(begins: int) -> Iterator[Prometheus]:
    """A Prometheus that scrapes all instances of the service by the time when the picture begins."""
    ports = {instance: free_port() for instance in INSTANCES}
    source = (HERE / "orders.py").read_text()
    with ExitStack() as running:
        for instance, port in ports.items():
            directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
            service = serving(directory, source=source, BEGINS=str(begins), INSTANCE=instance, LIVENESS=str(port))
            running.enter_context(service)
        targets = {"orders": {INSTANCES[instance]: port for instance, port in ports.items()}}
        prometheus = running.enter_context(own_prometheus(targets, RULES))
        comes_true(lambda: prometheus.now('count(otel_health_probe_up{probe="readyz"} == 1) == 3'))
        yield prometheus


def _asked(prometheus: Prometheus, target: dict[str, Any], name: str, begins: int, ends: int) -> dict[str, Any]:
    """A query of a panel with its answer, as Grafana asks it."""
    expression = target["expr"]
    for variable, value in {**CHOSEN, "$component": COMPONENT[name]}.items():
        expression = expression.replace(variable, value)
    if target.get("instant"):
        result = prometheus.ask("query", query=expression, time=str(ends))["result"]
    else:
        times = {"start": str(begins), "end": str(ends), "step": str(STEP)}
        result = prometheus.ask("query_range", query=expression, **times)["result"]
    return {"target": target, "result": result}


def _picture(browser: Browser, drawn: dict[str, Any], path: Path) -> None:
    page = browser.new_page(viewport={"width": 1616, "height": 1000})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(f"window.dashboard = {json.dumps(drawn)}")
    page.goto((HERE / "index.html").as_uri())
    page.wait_for_timeout(1000)  # What is drawn on a canvas does not say when it is done.
    if errors:
        sys.exit(f"{path.name} cannot be drawn: {errors[0]}")
    page.wait_for_function("document.fonts.ready.then(() => !document.querySelector('.waiting'))")
    page.locator("#dashboard").screenshot(path=path)
    page.close()


def _bundle() -> None:
    """Fetch Grafana's components, once, and make one script of them and the drawing."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("the dashboards are drawn with Grafana's components, which npm fetches: install Node.js 20 or newer")
    if not (HERE / "node_modules" / ".package-lock.json").exists():
        print("fetching Grafana's components (400 MB)", flush=True)
        subprocess.run([npm, "install"], cwd=HERE, check=True)
    loaders = [f"--loader:.{suffix}=dataurl" for suffix in ("svg", "ttf", "woff", "woff2")]
    defined = ['--define:process.env.NODE_ENV="production"', "--define:global=window"]
    options = ["--bundle", "--outfile=bundle.js", "--jsx=automatic", "--log-level=error", *loaders, *defined]
    subprocess.run(["node_modules/.bin/esbuild", "dashboard.jsx", *options], cwd=HERE, check=True)
