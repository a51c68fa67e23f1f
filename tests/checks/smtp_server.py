"""A mail server (aiosmtpd): `python -m tests.checks.smtp_server PORT SECURITY [CERTIFICATE KEY]`.

It takes the password "right" of the user "orders", and over TLS only.
"""

import asyncio
import ssl
import sys
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:  # noqa: ARG001
    """Take one user's one password."""
    assert isinstance(data, LoginPassword)
    return AuthResult(success=(data.login, data.password) == (b"orders", b"right"), handled=False)


async def serve(port: int, security: str, *identity: str) -> None:
    """Serve until the end."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if identity:
        tls.load_cert_chain(*identity)

    def protocol() -> SMTP:
        return SMTP(
            object(),
            hostname="mail.test",
            tls_context=tls if security == "starttls" else None,
            require_starttls=security == "starttls",
            authenticator=authenticate,
            auth_require_tls=security == "starttls",
            auth_required=False,
        )

    at_once = tls if security == "tls" else None
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, ssl=at_once)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
