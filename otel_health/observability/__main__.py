"""Write what one sets up beside a service: rules and alerts, the routes of Alertmanager, dashboards."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, NamedTuple

from otel_health.observability.alertmanager import Routes, alertmanager
from otel_health.observability.documents import as_yaml
from otel_health.observability.rules import Options, rules


class Kind(NamedTuple):
    """One kind of file: what it is called, what it may be asked for, and how it is made."""

    meaning: str
    options: type[Any]
    made: Callable[[Any], object]


KINDS: Final = {
    "rules": Kind("the recording rules and alerts of Prometheus", Options, rules),
    "alertmanager": Kind("the routes and inhibitions of Alertmanager", Routes, alertmanager),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one kind of file to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m otel_health.observability", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in KINDS.items():
        asked = kinds.add_parser(name, help=kind.meaning, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for each in fields(kind.options):
            flag = f"--{each.name.replace('_', '-')}"
            asked.add_argument(flag, type=type(each.default), default=each.default, help=each.metadata["help"])
    given = vars(parser.parse_args(arguments))
    kind = KINDS[given.pop("kind")]
    try:
        sys.stdout.write(as_yaml(kind.made(kind.options(**given))))
    except ValueError as wrong:
        parser.error(str(wrong))


if __name__ == "__main__":
    main()
