"""`hf:USER/REPO`: the package as a model repository of the Hugging Face Hub, in one commit.

    medllama publish --package DIR --to hf:ada/medllama --dry-run
    medllama publish --package DIR --to hf:ada/medllama      after: hf auth login

All files of the package, and beside them `template`, `system` and `params`, where `ollama run hf.co/USER/REPO` looks for what
a Modelfile says. It is one commit, which also takes out what only an earlier package had: the repository has all of it or
nothing. HF_ENDPOINT names another hub. Uploads, their resumption and the token are huggingface_hub's own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from medllama import progress
from medllama.errors import InputError, MedllamaError, ResourceError
from publish.gate import Package
from publish.layers import Model
from publish.reference import ModelName
from publish.targets import Published, Target, size

HOST = "hf.co"
FIRST_FILES = {".gitattributes", "README.md", "LICENSE"}  # what the hub itself puts into a new repository
OUR_FILES = {"certificate.json", "SHA256SUMS"}
OLLAMA_FILES = {"template", "system", "params"}
Result = TypeVar("Result")


@dataclass(frozen=True)
class HuggingFace(Target):
    """A repository of the hub."""

    name: ModelName
    has_tags = False
    why_no_adapters = "ollama run hf.co/... takes whole models"

    @classmethod
    def parse(cls, place: str) -> HuggingFace:
        user, _, repository = place.partition("/")
        hint = "write hf:USER/REPO"
        try:
            validate_repo_id(place)
        except HFValidationError as error:
            raise InputError(f"hf:{place} is no repository: {error}", hint=hint) from None
        if not repository:
            raise InputError(f"hf:{place} does not name you at the hub", hint=hint)
        return cls(ModelName(HOST, user, repository))

    @property
    def repository(self) -> str:
        return self.name.repository

    def plan(self, package: Package, name: ModelName, models: Sequence[Model]) -> list[str]:
        files = files_of(package)
        sizes = {path: operation.upload_info.size for path, operation in files.items()}
        lines = [f"  {size(count):>11}  {path}" for path, count in sizes.items()]
        return [f"{HOST}/{self.repository}", *lines, f"{len(files)} files, {size(sum(sizes.values()))}"]

    def publish(self, package: Package, name: ModelName, models: Sequence[Model]) -> Published:
        if not sys.stderr.isatty():
            disable_progress_bars()
        if package.template is None:
            progress.message(
                f"note: the package has no TEMPLATE, and for ollama run {HOST}/... the hub picks one that may be wrong;"
                " llama.cpp takes the file's own"
            )
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="medllama")
        self._told(api, "making the repository", lambda: api.create_repo(self.repository, exist_ok=True))
        present = set(self._told(api, "reading the repository", lambda: api.list_repo_files(self.repository)))
        if present - FIRST_FILES and not present >= OUR_FILES:
            raise InputError(
                f"{self.repository} holds something that medllama did not make", hint="publish to another repository"
            )
        files = files_of(package)
        gone = [CommitOperationDelete(path) for path in sorted(present - files.keys()) if _is_ours(path)]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [*files.values(), *gone]
        commit = self._told(
            api,
            "uploading",
            lambda: api.create_commit(
                self.repository, operations, commit_message="Publish with medllama, certificate included"
            ),
        )
        shown = f"{HOST}/{self.repository}"
        return Published(
            f"{len(files)} files in {shown}" + (f", {len(gone)} of an earlier package taken out" if gone else ""),
            (f"ollama run {shown}", *(f"ollama run {shown}:{file.type}" for file in package.files)),
            None,
            {"commit": commit.oid, "url": commit.commit_url},
        )

    def _told(self, api: HfApi, work: str, action: Callable[[], Result]) -> Result:
        """The result of `action`; what it raises is said to people."""
        try:
            return action()
        except OfflineModeIsEnabled:
            hint = "unset it to publish: env -u HF_HUB_OFFLINE medllama publish ..."
            raise ResourceError("HF_HUB_OFFLINE is set", hint=hint) from None
        except (HTTPError, RuntimeError, ConnectionError) as error:
            # Uploads run in threads, and a thread's fault comes as the cause of a RuntimeError.
            fault = error.__cause__ if isinstance(error, RuntimeError) else None
            raise self._meaning(fault or error, work, api.endpoint) from None
        except (ValueError, KeyError, TypeError, AttributeError):  # what the library makes of another service's answer
            raise ResourceError(
                f"{work} failed: {api.endpoint} does not answer as the hub does", hint="is HF_ENDPOINT right?"
            ) from None

    def _meaning(self, fault: BaseException, work: str, endpoint: str) -> MedllamaError:
        again = "run the same command again: what arrived is not sent twice"
        if not isinstance(fault, HfHubHTTPError):
            said = f"{work} failed at {endpoint}: {fault or type(fault).__name__}"
            return ResourceError(said, hint=f"can it be reached from here? Then {again}")
        status = fault.response.status_code
        said = f"{work} failed: {endpoint} says {status}: {fault.server_message or fault}"
        if status == 401:
            return InputError(said, hint="log in with a token that may write: hf auth login")
        if status in (403, 404):
            hint = f"is {self.name.namespace} yours, and may the token write? hf auth whoami"
            return InputError(said, hint=hint)
        if status == 413:
            return ResourceError(said, hint="the hub's quota is used up, or a file is too large for it")
        return ResourceError(said, hint=again)


def _is_ours(path: str) -> bool:
    """Whether a file is of an earlier package: left there, people would run it under the new one's card."""
    return path.endswith(".gguf") or path.startswith("Modelfile") or path in OLLAMA_FILES


def files_of(package: Package) -> dict[str, CommitOperationAdd]:
    """What the repository gets, by path: the package's files, and what Ollama reads there in the Modelfile's place."""
    names = sorted(path.name for path in package.folder.iterdir() if not path.name.startswith("."))
    contents: dict[str, str | bytes] = {name: str(package.folder / name) for name in names}
    if package.template is not None:
        contents["template"] = package.template.encode()
    if package.system:
        contents["system"] = package.system.encode()
    contents["params"] = json.dumps(package.parameters, indent=2).encode()
    return {path: CommitOperationAdd(path, content) for path, content in contents.items()}
