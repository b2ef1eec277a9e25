"""Every error that medllama raises on purpose, and how it reads to a person.

    MedllamaError            exit status 1, printed as `error: ...` and `hint: ...`
    ├── UsageError           the command line was wrong; exit status 2
    ├── RecipeError          the recipe was wrong: every problem at once
    ├── InputError           a file or folder is missing, malformed, or not what it says
    ├── UnsupportedError     a feature that is refused by name, never approximated
    ├── CheckFailed          a proof did not hold; the figures stand in the certificate
    └── ResourceError        disk, memory or a lock

They are caught in one place, `medllama.cli.main`. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import re

BEGINS_WITH_A_WORD = re.compile("(?!medllama)[a-z]+ ")  # and not with a path or a name, which keep their letters


class MedllamaError(Exception):
    """Something failed in a way that a person can mend.

    `message` says what failed and names the offending value or path, `hint` says what to do next.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def sentence(self) -> str:
        """The message and the hint for a page or a program: one line of whole sentences."""
        said = self.message[:1].upper() + self.message[1:] if BEGINS_WITH_A_WORD.match(self.message) else self.message
        parts = [said, *([f"Hint: {self.hint}"] if self.hint else [])]
        return " ".join(part if part.endswith((".", "?")) else f"{part}." for part in parts)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(MedllamaError):
    """The command line was wrong."""

    exit_status = 2


class RecipeError(MedllamaError):
    """A recipe or a configuration was wrong; `problems` lists all that was found, one line each."""

    def __init__(self, origin: str, problems: list[str], *, hint: str = "") -> None:
        self.problems = problems
        lines = problems[0] if len(problems) == 1 else f"{len(problems)} problems\n  " + "\n  ".join(problems)
        super().__init__(f"{origin}: {lines}", hint=hint)


class InputError(MedllamaError):
    """A file or folder is missing, malformed, or not what it says it is."""


class UnsupportedError(MedllamaError):
    """A feature that medllama refuses by name rather than approximate."""


class CheckFailed(MedllamaError):
    """A check of a certificate or of a package did not hold."""


class ResourceError(MedllamaError):
    """Not enough disk or memory, or another process holds what is needed."""
