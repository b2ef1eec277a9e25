"""The configuration of `medllama report`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medllama.config import option


@dataclass(frozen=True)
class ReportConfig:
    """A run's folder in; a page and its numbers out."""

    # Not of kind "path": the folder holds the page itself, and weights that no figure comes from.
    run: Path = option(help="the run's folder, for example runs/tiny", metavar="DIR")
    output: Path | None = option(
        None,
        help="the page to write; beside it go its numbers as JSON, Markdown and slides (default: report.html in the run's folder)",
        kind="output",
        metavar="FILE",
    )

    def problems(self) -> list[str]:
        from report.records import PURPOSE  # the command line needs the flags alone

        if self.page_path.suffix != ".html":
            return [f"output: {self.page_path} must end in .html"]
        records = {(self.run / name).resolve() for name in PURPOSE}
        taken = [path for path in self.implied_outputs() if path.resolve() in records]
        return [f"output: {taken[0]} is a record of the run, and would be overwritten"] if taken else []

    @property
    def page_path(self) -> Path:
        return self.output or self.run / "report.html"

    @property
    def figures_path(self) -> Path:
        return self.page_path.with_suffix(".json")

    @property
    def markdown_path(self) -> Path:
        return self.page_path.with_suffix(".md")

    @property
    def slides_path(self) -> Path:
        return self.page_path.with_suffix(".pptx")

    def implied_inputs(self) -> list[Path]:
        """The run's records: another report follows where one of them changes."""
        from report.records import record_paths  # the command line needs the flags alone

        return record_paths(self.run)

    def implied_outputs(self) -> list[Path]:
        return [self.figures_path, self.markdown_path, self.slides_path]
