"""The certificate as `package` needs it: read, checked for shape, and asked which bytes it vouches for.

`convert.verify` writes it. Nothing is taken on trust: a certificate without a verdict, or whose verdict and files disagree,
is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllama.errors import CheckFailed, InputError
from medllama.files import read_json

FORMATS = (1,)
AGAIN = 'run "medllama verify" on these files again'


@dataclass(frozen=True)
class CertifiedFile:
    """One GGUF that passed: its name, size and digest, what it was held against ("merged", "base" or "adapter"), and the
    names of the checks that it passed."""

    name: str
    sha256: str
    bytes: int
    type: str
    model: str
    passed: tuple[str, ...]

    @property
    def tag(self) -> str:
        """Its type as Ollama's library writes it in tags: `q4_K_M`, `f16`."""
        return self.type[:1].lower() + self.type[1:] if "_" in self.type else self.type.lower()


@dataclass(frozen=True)
class Certificate:
    """A certificate whose verdict is "pass"."""

    path: Path
    content: dict[str, Any]
    files: tuple[CertifiedFile, ...]

    @property
    def base(self) -> dict[str, Any]:
        return self._table("base") or {}

    @property
    def adapter(self) -> dict[str, Any] | None:
        return self._table("adapter")

    def is_whole(self, file: CertifiedFile) -> bool:
        """Whether a file is the model by itself: neither an adapter nor the base that one belongs to."""
        return file.model != "adapter" and (file.model != "base" or self.adapter is None)

    @property
    def data(self) -> dict[str, Any] | None:
        return self._table("data")

    @property
    def max_length(self) -> int | None:
        """The length in tokens that the model was trained with, where it is recorded."""
        value = self.content.get("max_length")
        return value if isinstance(value, int) else None

    @property
    def trained_records(self) -> int | None:
        """How many records the model was trained on, where it is recorded."""
        value = self.content.get("trained_records")
        return value if isinstance(value, int) else None

    def text(self, key: str) -> str | None:
        """A text of the certificate, or None where it says that there is none. A missing key is refused."""
        if key not in self.content:
            raise InputError(f"{self.path} does not say {key!r}", hint=AGAIN)
        value = self.content[key]
        return value if isinstance(value, str) and value else None

    def for_digest(self, sha256: str, path: Path) -> CertifiedFile:
        """The entry that vouches for these bytes. Raises CheckFailed where none does, whatever the file is called."""
        found = next((file for file in self.files if file.sha256 == sha256), None)
        if found is None:
            raise CheckFailed(
                f"{path} is not a file that {self.path} vouches for: its SHA-256 is {sha256}",
                hint=f"it changed since, or is another file; {AGAIN}",
            )
        return found

    def without_paths(self) -> str:
        """The certificate as JSON text without the folders of base and adapter, which are nobody else's business."""
        kept = {
            key: {name: entry for name, entry in value.items() if name != "path"} if isinstance(value, dict) else value
            for key, value in self.content.items()
        }
        return json.dumps(kept, indent=2, ensure_ascii=False) + "\n"

    def _table(self, key: str) -> dict[str, Any] | None:
        value = self.content.get(key)
        return value if isinstance(value, dict) else None


def read_certificate(path: Path) -> Certificate:
    """The certificate in `path`. Raises InputError where it is none, CheckFailed where it does not pass."""
    if not path.exists():
        raise InputError(f"there is no certificate {path}", hint='prove the files first: "medllama verify --help"')
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") not in FORMATS:
        raise InputError(f"{path} is no certificate of a format known here", hint=AGAIN)
    entries = content.get("files")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} names no files", hint=AGAIN)
    files = []
    for entry in entries:
        if _verdict(entry, path) != "pass":
            raise CheckFailed(
                f"{entry.get('name')} did not pass: {', '.join(_named(entry, 'fail')) or 'see the certificate'} failed in {path}",
                hint="the certificate names each check's figure, bound and likely cause; convert again, then verify",
            )
        files.append(_file(entry, path))
    if _verdict(content, path) != "pass":
        raise CheckFailed(f"the verdict of {path} is {content['verdict']!r}", hint=AGAIN)
    return Certificate(path, content, tuple(files))


def _verdict(entry: Any, path: Path) -> str:
    verdict = entry.get("verdict") if isinstance(entry, dict) else None
    if not isinstance(verdict, str):
        raise InputError(f"{path} has an entry without a verdict", hint=AGAIN)
    return "fail" if isinstance(entry.get("checks"), list) and _named(entry, "fail") else verdict


def _named(entry: dict[str, Any], verdict: str) -> list[str]:
    """The names of the checks with this verdict."""
    return [str(check.get("name")) for check in entry.get("checks") or [] if check.get("verdict") == verdict]


def _file(entry: dict[str, Any], path: Path) -> CertifiedFile:
    name, sha256, size = entry.get("name"), entry.get("sha256"), entry.get("bytes")
    if not isinstance(name, str) or not isinstance(sha256, str) or not isinstance(size, int):
        raise InputError(f"{path} does not give name, sha256 and bytes of each file", hint=AGAIN)
    passed = tuple(_named(entry, "pass"))
    if not passed:
        raise InputError(f"{path} lists no passed check for {name}", hint=AGAIN)
    return CertifiedFile(
        name, sha256.lower(), size, str(entry.get("type") or "unknown"), str(entry.get("model")), passed
    )
