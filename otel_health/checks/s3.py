"""S3: a bucket can be reached, and written to if asked."""

import inspect
from typing import Protocol

from otel_health.check import CheckFunc, is_async


class Client(Protocol):
    """What is used of an S3 client of boto3, or of aiobotocore, whose methods return awaitables."""

    def head_bucket(self, *, Bucket: str) -> object:  # noqa: N803 - as AWS names it.
        """Ask for a bucket's existence."""

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> object:  # noqa: N803
        """Write an object."""

    def delete_object(self, *, Bucket: str, Key: str) -> object:  # noqa: N803
        """Delete an object."""

    def close(self) -> object:
        """Close the client; never called, its shape tells whether the client is asynchronous."""


def answers(client: Client, *, bucket: str, write_key: str | None = None) -> CheckFunc:
    """Return a check that a bucket is there and may be listed, with the client that the application holds.

    It proves the way to the store, the credentials and the bucket. With `write_key` it also writes an empty object
    of that name and deletes it. It works with every store that speaks S3. That the objects are readable is not seen.

    Cost: one HEAD request, billed as any other; every 30 to 60 s is fine. With `write_key` two more, and where the
    bucket keeps versions a version and a marker each time. Not critical unless nothing works without it. The
    client's own retries and time limits apply: botocore's defaults outlast any deadline, so a store that hangs
    leaves the check `hung` for minutes; give the client `Config(connect_timeout=2, read_timeout=2,
    retries={"max_attempts": 1})`.

    Args:
        client: `boto3.client("s3")`, which may be shared by threads, or an open client of aiobotocore.
        bucket: The bucket's name.
        write_key: The name of an object that is nobody else's, to be written and deleted.

    Raises:
        TypeError: The client is none.
        ValueError: The bucket or the key has no name.

    Example:
        >>> checker.add("invoices", s3.answers(client, bucket="invoices"), interval=60, critical=False)
    """
    if not callable(getattr(client, "head_bucket", None)):
        raise TypeError(f"s3: {type(client).__name__} is no S3 client; pass boto3.client('s3') or one of aiobotocore")
    if not isinstance(bucket, str) or not bucket:
        raise ValueError("s3: give the bucket's name")
    if write_key is not None and not write_key:
        raise ValueError("s3: write_key must be the name of an object, such as 'health'")

    def blocking() -> None:
        client.head_bucket(Bucket=bucket)
        if write_key is not None:
            client.put_object(Bucket=bucket, Key=write_key, Body=b"")
            client.delete_object(Bucket=bucket, Key=write_key)

    async def on_loop() -> None:
        await _answer(client.head_bucket(Bucket=bucket))
        if write_key is not None:
            await _answer(client.put_object(Bucket=bucket, Key=write_key, Body=b""))
            await _answer(client.delete_object(Bucket=bucket, Key=write_key))

    return on_loop if is_async(client.close) else blocking


async def _answer(call: object) -> None:
    assert inspect.isawaitable(call)
    await call
