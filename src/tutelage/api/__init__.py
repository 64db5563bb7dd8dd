# ruff: noqa: F403, F405 - the verbs are listed below, for readers and type checkers
"""The verbs of the command line as functions, with the same names; those of a study begin with `study_`.

Each is imported when it is first used, so that writing a study does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.api.recipes import *
    from tutelage.api.studies import *

__all__ = [
    "bench", "cache_build", "cache_info", "cache_verify", "check", "data_get", "data_list", "evaluate",
    "evaluate_models", "export", "export_babylm", "prepare", "report", "run", "score", "show", "study_audit",
    "study_costs", "study_filter", "study_label", "study_plan", "study_prompts", "study_run", "study_show",
    "study_write", "submission_check", "submission_write", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a verb."""
    if name not in __all__:
        raise AttributeError(f"module 'tutelage.api' has no verb '{name}'")
    room = "studies" if name.startswith("study_") else "recipes"
    return getattr(import_module(f"tutelage.api.{room}"), name)


def __dir__() -> list[str]:
    """List the verbs."""
    return sorted(__all__)
