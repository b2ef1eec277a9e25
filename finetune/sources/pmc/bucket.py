"""Anonymous S3: objects by key, the versions of an article, the newest inventory. boto3 connects, retries and backs off.

bucket = Bucket("pmc-oa-opendata", endpoint=None, concurrency=8)
bucket.get("metadata/PMC13900.1.json")         bytes, None where there is no such object
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from medllama.errors import InputError
from medllama.files import atomic_file

ATTEMPTS = 5
CONNECT_SECONDS, READ_SECONDS = 15, 60
MAXIMUM_OBJECT_BYTES = 200_000_000
Result = TypeVar("Result")


class Bucket:
    """A public bucket. Methods may be called from several threads. Raises InputError where the service cannot be reached."""

    def __init__(self, name: str, *, endpoint: str | None, concurrency: int) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        self.name = name
        self.endpoint = endpoint
        config = Config(
            signature_version=UNSIGNED,
            region_name="us-east-1",
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=concurrency,
            s3={"addressing_style": "path"} if endpoint else {},
        )
        try:
            self._client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
        except ValueError as error:
            raise InputError(f"{endpoint} is no endpoint: {error}", hint="write endpoint=https://HOST[:PORT]") from None

    def get(self, key: str) -> bytes | None:
        """The bytes of an object, None where there is none."""

        def read() -> bytes:
            answer = self._client.get_object(Bucket=self.name, Key=key)
            if answer["ContentLength"] > MAXIMUM_OBJECT_BYTES:
                raise InputError(
                    f"{self._where}: {key} has {answer['ContentLength']:,} bytes", hint="no article is so large"
                )
            return bytes(answer["Body"].read())  # without a number of bytes, which would not check that all have come

        return self._asked(read)

    def size(self, key: str) -> int | None:
        """The length of an object in bytes."""
        return self._asked(lambda: int(self._client.head_object(Bucket=self.name, Key=key)["ContentLength"]))

    def download(self, key: str, path: Path) -> bool:
        """Write an object to `path`, whole or not at all; False where there is none."""

        def write() -> bool:
            body = self._client.get_object(Bucket=self.name, Key=key)["Body"]
            with atomic_file(path) as partial, partial.open("wb") as file:
                shutil.copyfileobj(body, file, 1 << 20)
            return True

        return bool(self._asked(write))

    def versions(self, document_id: str) -> list[int]:
        """The versions of an article, ascending; empty where the bucket has none."""
        return sorted(
            int(number)
            for prefix in self._prefixes(f"{document_id}.")
            if (number := prefix.removeprefix(f"{document_id}.").rstrip("/")).isdecimal()
        )

    def folders(self, prefix: str) -> list[str]:
        """The folders right below a prefix, in the order of their names."""
        return sorted(self._prefixes(prefix))

    def _prefixes(self, prefix: str) -> list[str]:
        def ask() -> list[str]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix, Delimiter="/"
            )
            return [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])]

        return self._asked(ask) or []

    def _asked(self, ask: Callable[[], Result]) -> Result | None:
        """The answer, None for 404. boto3 retries requests; an answer that breaks off in its middle is asked for again here."""
        from botocore import exceptions
        from urllib3.exceptions import HTTPError

        broken_off = (
            exceptions.IncompleteReadError,
            exceptions.ResponseStreamingError,
            exceptions.ReadTimeoutError,
            HTTPError,
        )
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except exceptions.ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise InputError(
                    f"{self._where}: {error}", hint="check ?bucket= and ?endpoint=, or try again later"
                ) from None
            except broken_off as error:
                reason: Exception = error
                time.sleep(min(2.0**attempt / 4, 8))
            except exceptions.BotoCoreError as error:  # boto3 has tried it often enough
                reason = error
                break
        raise InputError(
            f"{self._where} cannot be reached: {reason}",
            hint="check the network; what was fetched is kept, and the same command goes on from there",
        )

    @property
    def _where(self) -> str:
        return f"bucket {self.name}" + (f" at {self.endpoint}" if self.endpoint else "")


def md5_of(content: bytes) -> str:
    """The checksum that the bucket's metadata gives; it guards against damage, not against malice."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
