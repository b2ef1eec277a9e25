"""A local server with the layout and the manners of the bucket: objects, listings by prefix, and faults that a test asks for."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests import loopback
from tests.loopback import LoopbackHandler

NAME = "pmc-oa-opendata"


class BucketServer:
    """`objects` by key; `asked` counts the requests for each; `faults` maps a key to answers that come first."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, list[Callable[[LoopbackHandler], None]]] = {}
        self.endpoint = ""

    def add(self, name: str, xml: bytes, **metadata: Any) -> None:
        """One version of an article with its metadata, as the bucket holds them."""
        document_id, _, version = name.partition(".")
        values = {
            "pmcid": document_id,
            "version": int(version),
            "is_pmc_openaccess": True,
            "is_manuscript": False,
            "is_historical_ocr": False,
            "is_retracted": False,
            "license_code": "CC BY",
            "xml_url": f"s3://{NAME}/{name}/{name}.xml?md5={hashlib.md5(xml).hexdigest()}",
        }
        content = json.dumps(values | metadata).encode()
        self.objects |= {
            f"{name}/{name}.xml": xml,
            f"{name}/{name}.json": content,
            f"metadata/{name}.json": content,
        }

    def add_inventory(self, day: str) -> None:
        """The inventory of all metadata, in two parts."""
        folder = f"inventory-reports/{NAME}/metadata/"
        rows = [
            (NAME, key, "2026-01-01T00:00:00.000Z", hashlib.md5(content).hexdigest())
            for key, content in self.objects.items()
            if key.startswith("metadata/")
        ]
        parts = []
        for number, part in enumerate((rows[::2], rows[1::2])):
            text = io.StringIO()
            csv.writer(text, quoting=csv.QUOTE_ALL).writerows(part)
            parts.append(f"{folder}data/{day}-{number}.csv.gz")
            self.objects[parts[-1]] = gzip.compress(text.getvalue().encode())
        manifest = {"files": [{"key": key, "size": len(self.objects[key])} for key in parts]}
        self.objects[f"{folder}{day}/manifest.json"] = json.dumps(manifest).encode()


@contextlib.contextmanager
def serving() -> Iterator[BucketServer]:
    """A server on a port of its own, for as long as the block lasts."""
    bucket = BucketServer()
    with loopback.serving(_Handler, bucket=bucket) as host:
        bucket.endpoint = f"http://{host}"
        yield bucket


class _Handler(LoopbackHandler):
    bucket: BucketServer

    def do_GET(self) -> None:
        assert "Authorization" not in self.headers, "anonymous requests are not signed"
        bucket, parts = self.bucket, urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{NAME}").lstrip("/")
        if not key:
            self.answer(200, listing(bucket.objects, parse_qs(parts.query)))
            return
        bucket.asked[key] += 1
        if bucket.faults.get(key):
            bucket.faults[key].pop(0)(self)
        elif key in bucket.objects:
            self.answer(200, bucket.objects[key])
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET


def listing(objects: dict[str, bytes], query: dict[str, list[str]]) -> bytes:
    """ListObjectsV2's answer, two entries a page."""
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    after = query.get("continuation-token", [""])[0]
    found = {
        key[: key.index(delimiter, len(prefix)) + 1] if delimiter and delimiter in key[len(prefix) :] else key
        for key in objects
        if key.startswith(prefix)
    }
    rest = sorted(name for name in found if name > after)
    page = rest[:2]
    entries = "".join(
        f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        if name.endswith("/")
        else f"<Contents><Key>{escape(name)}</Key></Contents>"
        for name in page
    )
    more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(rest) > 2 else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{NAME}</Name><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
    ).encode()


def fails(handler: Any) -> None:
    """An answer that a client should ask for again."""
    handler.answer(503, b"<Error><Code>SlowDown</Code></Error>")


def breaks_off(handler: Any) -> None:
    """An answer that ends before its announced length."""
    handler.answer(200, b"<article>", {"Content-Length": "5000"})
    handler.close_connection = True


def damages(handler: Any) -> None:
    """An answer with other bytes."""
    handler.answer(200, b"<article>other</article>")
