"""Data as the files that Prometheus and its kin read."""

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and what occurs twice twice."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(document: object) -> str:
    """Return the document as YAML, in the order in which it is written down."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
