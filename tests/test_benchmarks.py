"""The benchmarks' own parts: turns, answers off the wire, tables and the chart."""

import socket
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.__main__ import marked
from tests.benchmarks.chart import chart
from tests.benchmarks.interleaved import in_turns, ratio
from tests.benchmarks.servers import read_answer
from tests.benchmarks.tables import Row

ROOT = Path(__file__).parents[1]


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's end and a client's; what is sent in pieces arrives in pieces."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends[1].settimeout(10.0)
    yield ends
    for end in ends:
        end.close()


def test_everyone_has_one_turn_in_a_round_there_and_back() -> None:
    """Nobody is always the first."""
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    in_turns({"a": lambda: turn("a"), "b": lambda: turn("b")}, 2)

    assert order == ["a", "b", "b", "a"]


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round that disturbed one side alone is outvoted by the others."""
    assert ratio({"ours": [1.0, 2.0, 9.0], "theirs": [2.0, 4.0, 3.0]}, "ours", "theirs") == 0.5


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ],
)
def test_an_answer_is_read_to_its_end(answer: bytes, wire: tuple[socket.socket, socket.socket]) -> None:
    """Nothing of it is left for the next one, though it comes in pieces."""
    server, client = wire
    for begin in range(0, len(answer), 5):
        server.sendall(answer[begin : begin + 5])

    read_answer(client)

    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)


def test_only_the_expected_status_counts(wire: tuple[socket.socket, socket.socket]) -> None:
    """A server that refuses is not measured as a fast one."""
    server, client = wire
    server.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")

    with pytest.raises(RuntimeError, match="503"):
        read_answer(client)


def test_text_goes_between_the_marks() -> None:
    """The rest of the page stays as it is."""
    page = "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n"

    assert marked(page, "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="end of figures"):
        marked("no marks", "new\n")


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_the_pages_have_their_marks(page: str) -> None:
    """A run of ten minutes does not fail at its end."""
    assert "figure" in marked((ROOT / page).read_text(), "figure\n")


def test_a_goal_is_the_most_or_the_least_that_will_do() -> None:
    """A missed goal is shown as missed."""
    assert Row("times the floor", 1.1, 1.2).held
    assert not Row("times the floor", 1.3, 1.2).held
    assert Row("share of the limit", 0.9, 0.9, least=True).held
    assert not Row("share of the limit", 0.8, 0.9, least=True).held


def test_the_chart_draws_what_it_is_given() -> None:
    """A flat rate is a flat line, a falling one falls, and no label covers another."""
    table = {
        str(number): {
            "short": {"of_starlette": 1.1},
            "starlette": {"of_starlette": 1.0},
            "svcs": {"of_starlette": peer},
        }
        for number, peer in ((1, 1.45), (100, 0.5), (1000, 0.02))
    }

    drawn = ET.fromstring(chart(table))

    lines = [line.attrib["points"].split() for line in drawn.findall("{*}polyline")]
    heights = [[float(point.split(",")[1]) for point in line] for line in lines]
    _, verdict, peer_falls = heights
    assert len({*verdict}) == 1
    assert peer_falls == sorted(peer_falls)
    assert peer_falls[0] < peer_falls[-1]
    labels = {text.text: float(text.attrib["y"]) for text in drawn.findall("{*}text")}
    assert labels["bare Starlette = 100 %"] - labels["otel_health, verdict alone"] >= 16
