"""The verbs of the command line as functions, with the same names; those of a study begin with `study_`.

Each is imported when it is first used, so that writing a study does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.api.recipes import bench as bench
    from tutelage.api.recipes import cache_build as cache_build
    from tutelage.api.recipes import cache_info as cache_info
    from tutelage.api.recipes import cache_verify as cache_verify
    from tutelage.api.recipes import check as check
    from tutelage.api.recipes import data_get as data_get
    from tutelage.api.recipes import data_list as data_list
    from tutelage.api.recipes import evaluate as evaluate
    from tutelage.api.recipes import evaluate_models as evaluate_models
    from tutelage.api.recipes import export as export
    from tutelage.api.recipes import export_babylm as export_babylm
    from tutelage.api.recipes import prepare as prepare
    from tutelage.api.recipes import report as report
    from tutelage.api.recipes import run as run
    from tutelage.api.recipes import score as score
    from tutelage.api.recipes import show as show
    from tutelage.api.recipes import submission_check as submission_check
    from tutelage.api.recipes import submission_write as submission_write
    from tutelage.api.recipes import train as train
    from tutelage.api.studies import study_audit as study_audit
    from tutelage.api.studies import study_costs as study_costs
    from tutelage.api.studies import study_filter as study_filter
    from tutelage.api.studies import study_label as study_label
    from tutelage.api.studies import study_plan as study_plan
    from tutelage.api.studies import study_prompts as study_prompts
    from tutelage.api.studies import study_run as study_run
    from tutelage.api.studies import study_show as study_show
    from tutelage.api.studies import study_write as study_write

__all__ = [
    "bench",
    "cache_build",
    "cache_info",
    "cache_verify",
    "check",
    "data_get",
    "data_list",
    "evaluate",
    "evaluate_models",
    "export",
    "export_babylm",
    "prepare",
    "report",
    "run",
    "score",
    "show",
    "study_audit",
    "study_costs",
    "study_filter",
    "study_label",
    "study_plan",
    "study_prompts",
    "study_run",
    "study_show",
    "study_write",
    "submission_check",
    "submission_write",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a verb."""
    if name not in __all__:
        raise AttributeError(f"module 'tutelage.api' has no verb '{name}'")
    room = "studies" if name.startswith("study_") else "recipes"
    return getattr(import_module(f"tutelage.api.{room}"), name)


def __dir__() -> list[str]:
    """List the verbs."""
    return sorted(__all__)
