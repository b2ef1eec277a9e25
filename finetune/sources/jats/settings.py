"""The `?name=yes` settings that the readers of articles share."""

from __future__ import annotations

from finetune.sources import SourceRequest
from medllama.errors import InputError


def choice(request: SourceRequest, setting: str, default: bool) -> bool:
    """Whether a setting is yes. Raises InputError where it is neither yes nor no."""
    value = request.setting(setting, "yes" if default else "no")
    if value not in ("yes", "no"):
        raise InputError(
            f"--source {request.name}: {setting}={value} is neither yes nor no", hint=f"write {setting}=yes"
        )
    return value == "yes"
