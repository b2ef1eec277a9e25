"""`store:DIR`: a package straight into an Ollama store on disk, with no server.

    medllama publish --package DIR --to store:~/.ollama/models

    DIR/blobs/sha256-HEX                                  the layers, the model's being the certified GGUF itself
    DIR/manifests/registry.ollama.ai/library/NAME/TAG     renamed into place last

Every blob is complete under its name before a manifest names it, so a model is there as a whole or not at all, however the
process ends. What is there already is not written again. Blobs are prepared in DIR/.medllama.partial, outside of what
Ollama looks at: it deletes blobs that no manifest names when it starts. A running server needs no restart.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medllama import progress
from medllama.errors import CheckFailed, InputError, ResourceError
from medllama.files import expand, make_folder, require_disk, sha256_file, sync
from publish.gate import Package
from publish.layers import Layer, Model, read_entries
from publish.reference import LATEST, ModelName, check_case, parse_name
from publish.targets import MARK, Published, Target, size

STAGING, LOCK = ".medllama.partial", ".medllama.lock"
OWN_NAMES = {"blobs", "manifests", STAGING, LOCK}
COPY_BYTES = 1 << 20
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP)
MODE = 0o644  # the server often runs as a user of its own


@dataclass(frozen=True)
class Store(Target):
    """An Ollama store: the folder that OLLAMA_MODELS names."""

    folder: Path
    name = None

    @classmethod
    def parse(cls, place: str) -> Store:
        if not place:
            raise InputError(
                "store: names no folder", hint="write store:DIR, Ollama's own being store:~/.ollama/models"
            )
        folder = expand(place)
        entries = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder", hint="name the folder of the store")
        if entries and not entries & OWN_NAMES:
            inside = folder / "models" if (folder / "models").is_dir() else Path("~/.ollama/models")
            raise InputError(
                f"{folder} is no Ollama store: it has neither blobs nor manifests", hint=f"did you mean {inside}?"
            )
        return cls(folder)

    def base(self, package: Package) -> Layer:
        """The base's file in this store, which must be one that the adapter was proven on."""
        name = parse_name(package.base_in_ollama)
        name = name.with_tag(name.tag or LATEST)
        path = self.manifest_path(name)
        put = f"publish it there first: medllama publish --package BASE_PACKAGE --to store:{self.folder} --name {name}"
        if not path.is_file():
            raise InputError(f"{self.folder} has no model {name}, the adapter's base", hint=put)
        for layer in read_entries(path.read_bytes()):
            if layer.kind == "model" and layer.digest in package.base_types:
                return replace(layer, source=self.blob_path(layer.digest))
        raise CheckFailed(f"{name} in {self.folder} is not the base that the adapter was proven on", hint=put)

    def publish(self, package: Package, name: ModelName, models: Sequence[Model]) -> Published:
        """Blobs first, all of them; then the manifests."""
        layers = {layer.digest: layer for model in models for layer in model.blobs}
        manifests = {name.with_tag(model.tag): model.manifest for model in models}
        missing: list[Layer] = []
        written: list[ModelName] = []
        line = f"{self.folder} has all of it already; nothing written"
        if not self.has_all(layers.values(), manifests):
            with self.locked():
                self.require_free(manifests)
                missing = [layer for layer in layers.values() if not self.has(layer)]
                self._stage_all(missing, f"publishing {name}")
                written = self.commit(missing, manifests)
            line = f"{len(written)} of {len(models)} tags and {len(missing)} of {len(layers)} layers written to {self.folder}"
        return Published(
            line,
            tuple(f"ollama run {tag}" for tag in manifests),
            self.folder,
            {"written_blobs": len(missing), "written_manifests": len(written)},
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against other publishes, which wait. The lock ends with the process, however it ends."""
        for folder in (self.folder / "blobs", self.folder / "manifests", self.folder / STAGING):
            make_folder(folder)
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.message(f"another medllama is writing to {self.folder}: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            (self.folder / STAGING).mkdir(exist_ok=True)
            try:
                yield
            finally:
                with suppress(OSError):  # a download that was cut stays, to be gone on with
                    (self.folder / STAGING).rmdir()

    def manifest_path(self, name: ModelName) -> Path:
        return self.folder / "manifests" / name.host / name.namespace / name.model / name.tag

    def blob_path(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "-")

    def staged_path(self, digest: str) -> Path:
        return self.folder / STAGING / digest.replace(":", "-")

    def has(self, layer: Layer) -> bool:
        """Whether the blob is there in its full size; its name says what is in it."""
        path = self.blob_path(layer.digest)
        return path.is_file() and path.stat().st_size == layer.size_bytes

    def has_all(self, layers: Iterable[Layer], manifests: Mapping[ModelName, bytes]) -> bool:
        """Whether nothing is left to do."""
        return all(map(self.has, layers)) and all(
            self._has_manifest(name, content) for name, content in manifests.items()
        )

    def _has_manifest(self, name: ModelName, content: bytes) -> bool:
        path = self.manifest_path(name)
        return path.is_file() and path.read_bytes() == content

    def require_free(self, names: Mapping[ModelName, bytes]) -> None:
        """Raise InputError where a model of that name is there that medllama did not make."""
        for name in names:
            path = self.manifest_path(name)
            check_case(name, [it.name for it in path.parent.glob("*")], str(self.folder))
            if path.exists() and not self._is_ours(path):
                raise InputError(
                    f"{self.folder} already has a model {name} that medllama did not make",
                    hint=f"publish under another --name, or remove that one: ollama rm {name}",
                )

    def _is_ours(self, manifest: Path) -> bool:
        # A crash can leave a manifest empty: then nobody knows whose it was.
        licences = [self.blob_path(it.digest) for it in read_entries(manifest.read_bytes()) if it.kind == "license"]
        return any(path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace") for path in licences)

    def _stage_all(self, layers: Sequence[Layer], purpose: str) -> None:
        """Stage every blob, or leave none behind. What cannot be linked needs room, and that is asked for before the first copy."""
        disk = self.folder.stat().st_dev
        copied = [it for it in layers if isinstance(it.source, bytes) or it.source.stat().st_dev != disk]
        require_space(self.folder, sum(layer.size_bytes for layer in copied), purpose)
        try:
            for layer in layers:
                self._stage(layer)
        except BaseException:
            for layer in layers:
                self.staged_path(layer.digest).unlink(missing_ok=True)
            raise

    def _stage(self, layer: Layer) -> None:
        """Bring one blob into the staging folder, linked or copied, and hash what lies there then."""
        target = self.staged_path(layer.digest)
        target.unlink(missing_ok=True)
        if isinstance(layer.source, bytes):
            target.write_bytes(layer.source)
            found = hashlib.sha256(layer.source).hexdigest()
        else:
            found = _link(layer.source, target) or _copy(layer.source, target, layer.size_bytes)
        if f"sha256:{found}" != layer.digest:
            raise CheckFailed(
                f"{layer.source if isinstance(layer.source, Path) else layer.kind} changed while it was published",
                hint="leave the package alone until the command ends, and run it again",
            )

    def commit(self, staged: Sequence[Layer], manifests: Mapping[ModelName, bytes]) -> list[ModelName]:
        """Give the staged blobs their names, then the manifests theirs; return the names that were written."""
        for layer in staged:
            path = self.staged_path(layer.digest)
            if path.stat().st_nlink == 1:
                path.chmod(MODE)
            sync(path)
            path.replace(self.blob_path(layer.digest))
        sync(self.folder / "blobs")
        written = []
        for name, content in manifests.items():
            path, staged_manifest = self.manifest_path(name), self.folder / STAGING / "manifest"
            if self._has_manifest(name, content):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            staged_manifest.write_bytes(content)
            staged_manifest.chmod(MODE)
            sync(staged_manifest)
            staged_manifest.replace(path)
            sync(path.parent)
            written.append(name)
        if gone := [layer for layer in staged if not self.has(layer)]:
            raise ResourceError(
                f"{self.blob_path(gone[0].digest)} vanished: a server that started just now cleaned the store",
                hint="run the same command again",
            )
        return written


def _link(source: Path, target: Path) -> str | None:
    """Link a file and return its SHA-256; None where the disk cannot link it."""
    progress.update(f"{source.name}: linking and hashing")
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return None
    return sha256_file(target)


def require_space(path: Path, needed_bytes: int, purpose: str) -> None:
    """Raise ResourceError unless the store's disk has room."""
    try:
        require_disk(path, needed_bytes, purpose)
    except ResourceError as error:
        raise ResourceError(
            error.message, hint="free some space (ollama list, ollama rm), or name another store"
        ) from None


def _copy(source: Path, target: Path, total_bytes: int) -> str:
    """Copy a file and return the SHA-256 of what was copied."""
    require_space(target, total_bytes, f"publishing {source.name}")
    digest, done = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(COPY_BYTES):
            digest.update(chunk)
            writer.write(chunk)
            done += len(chunk)
            progress.update(f"{source.name}: {size(done)} copied", done, total_bytes)
    return digest.hexdigest()
