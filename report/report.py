"""`medllama report`: what a run made, as one page for people, as Markdown and slides, and as numbers for programs.

    medllama report tiny
    medllama report --run runs/tiny --output tiny.html

The run's records go in (report/records.py says which); report.html, report.md, report.pptx and report.json come out. report.json
holds every number with the file that it comes from (report/figures.py), and the others are made from it alone. What a run has not
made is said to be missing. Nothing is measured here, and weights are not read.
"""

from __future__ import annotations

from medllama import progress
from medllama.files import write_json, write_text
from medllama.stages import StageResult
from report.config import ReportConfig
from report.figures import collect
from report.markdown import render_markdown
from report.page import render
from report.slides import write_slides


def report(config: ReportConfig) -> StageResult:
    """Write the page and its numbers. Raises InputError where the folder holds no run, or a record is damaged."""
    progress.update("reading the run")
    figures = collect(config.run)
    page = render(figures)
    write_json(config.figures_path, figures)
    write_text(config.page_path, page)
    write_text(config.markdown_path, render_markdown(figures))
    write_slides(figures, config.slides_path)
    missing = [part["file"] for part in figures["missing"]]
    line = f"{config.page_path.name} ({len(page.encode()) / 1e3:.0f} kB), .md, .pptx and .json"
    line += (
        f"; missing: {', '.join(missing)}"
        if missing
        else f"; {figures['headline']['verdict']} than its base"
        * (figures["headline"]["verdict"] in ("better", "worse"))
    )
    return StageResult(config.page_path, {"line": line, "verdict": figures["headline"]["verdict"], "missing": missing})
