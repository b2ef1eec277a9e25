"""Folders, compressed files and tar archives -> the bytes of each article, one at a time, at bounded size.

    for place, content in contents(Path("oa_comm.tar.gz")):       # ("oa_comm.tar.gz!PMC1/a.nxml", b"<?xml ...")

Archives are read from their beginning to their end and never unpacked. What cannot be read is a Dropped with its place. An archive
that breaks off stops the run, because nobody knows how many articles are lost with its rest, unless a person has said that
what can be read of it will do (`may_break_off`).
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from finetune.data.records import Dropped
from finetune.sources.jats.article import MAXIMUM_BYTES
from medllama.errors import InputError

ARTICLES = (".xml", ".nxml", ".xml.gz", ".nxml.gz")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What tarfile takes into memory however long it is: extended headers, and names of members.
LONG_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
LONGEST_HEADER = 1_000_000  # bytes
BROKEN = (EOFError, OSError, tarfile.TarError, zlib.error, lzma.LZMAError)


def articles_in(path: Path) -> list[Path]:
    """A file, or those of a folder at any depth that are articles or archives by their names, sorted."""
    if path.is_file() and path.name.lower().endswith(ARTICLES + ARCHIVES):
        return [path]
    if not path.is_dir():
        raise InputError(
            f"{path} is {'no XML and no tar archive' if path.exists() else 'missing'}",
            hint=f"give a folder of articles, or a file that ends in {', '.join(ARTICLES + ARCHIVES)}",
        )
    files = [
        Path(folder) / name
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(ARTICLES + ARCHIVES) and (Path(folder) / name).is_file()
    ]
    if not files:
        raise InputError(
            f"{path} holds no article", hint=f"expected files that end in {', '.join(ARTICLES + ARCHIVES)}"
        )
    return sorted(files)


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


class TarMember(tarfile.TarInfo):
    """A member of an archive. tarfile takes a header that is cut or damaged for the end; only the zeros of an end are one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> TarMember:
        member = super().frombuf(buf, encoding, errors)
        if member.type in LONG_HEADERS and member.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> TarMember:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # which the stubs leave out
            raise
        except (
            tarfile.HeaderError,
            ValueError,
        ) as error:  # ValueError: a number that is none, in a sparse file's header
            raise tarfile.ReadError(str(error)) from None


def contents(path: Path, *, may_break_off: bool = False) -> Iterator[tuple[str, bytes | Dropped]]:
    """(place, bytes or what is wrong) for each article of a file or an archive."""
    if is_archive(path):
        yield from _members(path, may_break_off)
        return
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield str(path), file.read(MAXIMUM_BYTES + 1)  # one more than allowed, so that too much is seen
    except BROKEN as error:
        yield str(path), Dropped("file cannot be read", str(path), _said(error))


def _members(path: Path, may_break_off: bool) -> Iterator[tuple[str, bytes | Dropped]]:
    number = 0
    try:
        with tarfile.open(path, "r|*", tarinfo=TarMember) as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header that it has seen
                if member.name.lower().endswith(ARTICLES):
                    place = f"{path}!{_printable(member.name)}"
                    content = _member(archive, member, place)
                    number += 1
                    yield place, content
    except BROKEN as error:
        said = f"after {number:,} article{'s' * (number != 1)}: {_said(error)}"
        if not may_break_off:
            raise InputError(
                f"{path} breaks off {said}",
                hint="copy the archive again, or take what can be read of it: ?incomplete=yes",
            ) from None
        yield str(path), Dropped("archive breaks off", str(path), said)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> bytes | Dropped:
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        return Dropped("path leaves the archive", place)
    file = archive.extractfile(member) if member.isfile() else None
    if file is None:
        return Dropped("no file but a link or a device", place)
    with file:
        if not member.name.lower().endswith(".gz"):
            return file.read(MAXIMUM_BYTES + 1)
        try:
            return _unzipped(file)
        except BROKEN as error:
            return Dropped("file cannot be read", place, _said(error))


def _unzipped(file: IO[bytes]) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(file.read(MAXIMUM_BYTES + 1))) as inner:
        return inner.read(MAXIMUM_BYTES + 1)


def stem_of(place: str) -> str:
    """The name of the article's file without folders, suffixes and line: what stands for an identifier where there is none."""
    name = place.rpartition(":")[0].rpartition("!")[2]
    return PurePosixPath(name.replace("\\", "/")).name.partition(".")[0] or "article"


def _said(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


def _printable(name: str) -> str:
    return name if name.isprintable() and name.isascii() else ascii(name)[1:-1]
