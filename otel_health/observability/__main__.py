"""Write what one sets up beside a service: rules and alerts, the routes of Alertmanager, dashboards."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

try:
    from otel_health.observability import files
    from otel_health.observability.alertmanager import Routes, alertmanager
    from otel_health.observability.documents import as_yaml
    from otel_health.observability.rules import Options, rules
except ModuleNotFoundError as error:
    sys.exit(f"{error}; type: pip install 'otel-health[observability]'")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one kind of files: to the standard output where it is one file, else below a directory."""
    parser = argparse.ArgumentParser(prog="python -m otel_health.observability", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_options(_kind(kinds, "rules", "the recording rules and alerts of Prometheus"), Options)
    _add_options(_kind(kinds, "alertmanager", "the routes and inhibitions of Alertmanager"), Routes)
    for name, meaning in (("dashboards", "the dashboards of Grafana"), ("all", "everything, as it is shipped")):
        _kind(kinds, name, meaning).add_argument("--to", type=Path, required=True, help="the directory to write below")
    given = vars(parser.parse_args(arguments))
    kind = given.pop("kind")
    try:
        if kind == "rules":
            sys.stdout.write(as_yaml(rules(Options(**given))))
        elif kind == "alertmanager":
            sys.stdout.write(as_yaml(alertmanager(Routes(**given))))
        else:
            _write(given["to"], files.dashboards() if kind == "dashboards" else files.shipped())
    except (ValueError, OSError) as wrong:
        parser.error(str(wrong))


def _kind(kinds: Any, name: str, meaning: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = kinds.add_parser(
        name, help=meaning, description=f"Write {meaning}.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    return made


def _add_options(asked: argparse.ArgumentParser, options: type[Any]) -> None:
    for each in fields(options):
        flag = f"--{each.name.replace('_', '-')}"
        asked.add_argument(flag, type=type(each.default), default=each.default, help=each.metadata["help"])


def _write(directory: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
