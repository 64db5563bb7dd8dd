"""Reports of one experiment: a table for the terminal, a page for the browser, a folder for publication."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.base.files import explain_disk_errors, read_json, write_json, write_text
from tutelage.compare.summary import Summary, read_summary
from tutelage.report.html import html_report
from tutelage.report.markdown import markdown_report
from tutelage.report.plot_training import thin
from tutelage.report.plots import draw, save
from tutelage.report.terminal import terminal_table

__all__ = ["html_report", "markdown_report", "publish", "terminal_table", "write_html"]


def write_html(summary: Summary | Mapping[str, Any], file: Path) -> Path:
    """Write the HTML report to a file, atomically; returns the file."""
    write_text(file, html_report(summary))
    return file


def publish(summary: Summary | Mapping[str, Any], folder: Path) -> Path:
    """Write `report.md`, `plots/*.png` and `summary.json`, each atomically; returns the folder.

    An older summary of the same recipe is replaced; one of another recipe is refused. Curves are thinned to what a plot
    can show, and the paths of item margins are left out: they mean nothing elsewhere.
    """
    checked = read_summary(_publishable(read_summary(summary)))
    _refuse_other_recipe(checked, folder)
    plots = draw(checked)
    plots_folder = folder / "plots"
    save(plots, plots_folder)
    _forget_old_plots(folder, {f"{plot.name}.png" for plot in plots})
    write_text(folder / "report.md", markdown_report(checked, plots_folder, plots))
    # Last, because it is what marks the folder as complete.
    write_json(folder / "summary.json", checked.as_json())
    return folder


def _publishable(summary: Summary) -> dict[str, Any]:
    value = summary.as_json()
    for name, model in summary.models.items():
        for seed, run in model.seeds.items():
            published = value["models"][name]["seeds"][seed]
            published["suite_items"] = None
            published["curves"] = {term: thin(points) for term, points in run.curves.items()}
    return value


def _refuse_other_recipe(summary: Summary, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot publish to {folder}: it is a file; name a folder")
    found = read_json(folder / "summary.json") if (folder / "summary.json").exists() else {"recipe": summary.recipe}
    other = found.get("recipe") if isinstance(found, dict) else None
    if other != summary.recipe:
        raise UserError(
            f"{folder} holds the results of the recipe {other!r}, not of {summary.recipe!r}; "
            f"publish to another folder, such as {folder.parent / summary.recipe}"
        )


def _forget_old_plots(folder: Path, current: set[str]) -> None:
    """Remove plots that the report about to be replaced showed and the new one does not; other files stay."""
    report = folder / "report.md"
    if not report.is_file():
        return
    earlier = set(re.findall(r"\]\(plots/([a-z0-9-]+\.png)\)", report.read_text(encoding="utf-8")))
    with explain_disk_errors(folder):
        for name in earlier - current:
            (folder / "plots" / name).unlink(missing_ok=True)
