"""etcd beyond what every server is put to: alarms, redirects, and servers that are something else."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from otel_health.checks import etcd
from tests.checks.clients import http_async, http_sync
from tests.checks.conftest import Started
from tests.checks.results import result_of
from tests.servers import own_etcd

clients = pytest.mark.parametrize("opened", [http_async, http_sync])


@pytest.mark.parametrize("make", [etcd.answers, etcd.writable])
def test_what_is_no_client_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no HTTP client") as caught:
        make("http://orders:s3cret@etcd:2379")

    assert "s3cret" not in str(caught.value)


@clients
async def test_an_alarm_is_told(servers: Started, opened: Any) -> None:
    """etcd refuses writes while it lacks space: `writable` fails and says why, and passes when that is over."""
    port = servers("etcd").port
    async with http_async(port) as administrator, opened(port) as client:
        status = (await administrator.post("/v3/maintenance/status", json={})).json()
        alarm = {"memberID": status["header"]["member_id"], "alarm": "NOSPACE"}
        check = etcd.writable(client)
        assert (await result_of(check)).status == "pass"
        await administrator.post("/v3/maintenance/alarm", json={"action": "ACTIVATE", **alarm})
        try:
            refused = await administrator.post("/v3/kv/put", json={"key": "YQ==", "value": "YQ=="})
            raised = await result_of(check)
            assert (await result_of(etcd.answers(client))).status == "pass"
        finally:
            await administrator.post("/v3/maintenance/alarm", json={"action": "DEACTIVATE", **alarm})

        assert refused.status_code != 200
        assert (raised.status, raised.message) == ("fail", "etcd refuses writes: alarm NOSPACE")
        assert (await result_of(check)).status == "pass"


@clients
async def test_who_may_not_read_is_told(opened: Any) -> None:
    """Without a token, and with a wrong one, `answers` fails; alarms are told to anybody."""
    root, granted = {"name": "root", "password": "right"}, {"user": "root", "role": "root"}
    with own_etcd() as server:
        async with http_async(server.port) as administrator:
            for path, body in (
                ("user/add", root),
                ("role/add", {"name": "root"}),
                ("user/grant", granted),
                ("enable", {}),
            ):
                (await administrator.post(f"/v3/auth/{path}", json=body)).raise_for_status()
            token = (await administrator.post("/v3/auth/authenticate", json=root)).json()["token"]
        told = {}
        for name, headers in {
            "none": {},
            "wrong": {"Authorization": "s3cret"},
            "right": {"Authorization": token},
        }.items():
            async with opened(server.port, headers=headers) as client:
                told[name] = (await result_of(etcd.answers(client))).message
                assert (await result_of(etcd.writable(client))).status == "pass"

    assert told == {
        "none": "etcd answered with status 400",
        "wrong": "etcd answered with status 401",
        "right": None,
    }


@clients
@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (302, {}, "etcd answered with status 302"),
        (503, {"error": "no leader"}, "etcd answered with status 503"),
        (200, {"hello": "world"}, "what answered is not etcd"),
        (200, [], "what answered is not etcd"),
    ],
)
async def test_what_is_not_etcd_fails(opened: Any, status: int, body: object, message: str) -> None:
    """A redirect is not followed, even by a client that would; an answer of something else is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = json.dumps(body).encode()
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            async with opened(server.server_port, follow_redirects=True) as client:
                result = await result_of(etcd.answers(client))
        finally:
            server.shutdown()
            thread.join()

    assert (result.status, result.message) == ("fail", message)
