"""What a BabyLM submission of 2025 and 2026 holds: tasks, their files, sub-tasks, sizes and shapes of predictions.

The numbers are those that the published code checks before it collates: `evaluation_pipeline/collate_preds.py` of
github.com/babylm/evaluation-pipeline-2025 (August 2025) and, for 2026, of github.com/babylm-org/babylm-eval, folder
`strict` (July 2026). Sub-tasks are written as the data files are named, since the scorers open them by these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tutelage.evaluation.benchmarks.conventions import Backend
from tutelage.recipe.words import SCHEDULES, revision

Year = Literal["2025", "2026"]
TrackName = Literal["strict-small", "strict", "interaction"]
SubmissionBackend = Backend | Literal["enc_dec_mask", "enc_dec_prefix"]
Shape = Literal["completion", "sentence", "probability", "example", "label", "reading"]
"""What a prediction is. `completion`: the text of the chosen option. `sentence`: the same with its prefix.
`probability`: a completion, and the probability of the first option. `example`: a completion under a key of its own.
`label`: a class number. `reading`: the surprisal of a word and of the one before it."""


@dataclass(frozen=True)
class SubmissionTask:
    """A benchmark of a submission."""

    key: str
    """Its name in the collated file."""
    folder: str
    """Of its predictions, below `<model>/<revision>/zero_shot/<backend>`, or below `.../finetune` for labels."""
    evaluation: str
    """What measures it, by the name that recipes have for it."""
    shape: Shape
    sizes: Mapping[str, int]
    """Items of each sub-task. For examples, whose keys are those of the data file, the empty name counts them."""
    classes: int = 2
    """Of a label."""


@dataclass(frozen=True)
class SubmissionFormat:
    """A year's submission."""

    year: Year
    full: tuple[SubmissionTask, ...]
    """Benchmarks of the final model."""
    fast: tuple[SubmissionTask, ...]
    """Those of every checkpoint, of which scores are collated."""
    surprisals: str
    """Key of the surprisals of words at every checkpoint (age of acquisition)."""
    keys: tuple[str, ...]
    """Of the collated file, in its order."""
    optional: bool
    """Whether a benchmark may be missing (null); else the published code stops."""
    glue: tuple[SubmissionTask, ...]
    """Fine-tuned tasks, which share the key `glue`."""
    words: int = 8005
    """Contexts of words whose surprisal is measured."""


def schedule(track: TrackName) -> tuple[str, ...]:
    """Name the revisions that a track asks for: `chck_1M` and so on, as far as was trained."""
    return tuple(map(revision, SCHEDULES["babylm-strict-small" if track == "strict-small" else "babylm-strict"]))


def prediction_file(name: str, backend: str, task: SubmissionTask) -> str:
    """Return where a revision's predictions of a task lie, below the model's folder."""
    kind = "finetune" if task.shape == "label" else f"zero_shot/{backend}"
    return f"{name}/{kind}/{task.folder}/predictions.json"


def collated_file(backend: str) -> str:
    """Name the collated file, which lies in the model's folder."""
    return f"all_full_preds_and_fast_scores_{backend}.json"


def final_files(form: SubmissionFormat, backend: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the final model by the path of its file, below the model's folder.

    `values` have keys of tasks, of the surprisals, or `aoa`; what is not there or null is left out.
    """
    words = f"main/zero_shot/{backend}/AoA_word"
    places = {prediction_file("main", backend, task): task.key for task in (*form.full, *form.glue)}
    places[f"{words}/surprisal.json"] = form.surprisals
    if form.optional:
        places[f"{words}/aoa_score.json"] = "aoa"
    return {place: values[key] for place, key in places.items() if values.get(key) is not None}


def _sizes(written: str) -> dict[str, int]:
    return {name: int(size) for name, size in (pair.split() for pair in written.split(","))}


def _by_operations(split: str, *sizes: int) -> dict[str, int]:
    return {f"{split}_{operations}_ops": size for operations, size in enumerate(sizes)}


_BLIMP = _sizes(
    """
    adjunct_island 928, anaphor_gender_agreement 971, anaphor_number_agreement 931, animate_subject_passive 895,
    animate_subject_trans 923, causative 818, complex_NP_island 846,
    coordinate_structure_constraint_complex_left_branch 906, coordinate_structure_constraint_object_extraction 949,
    determiner_noun_agreement_1 929, determiner_noun_agreement_2 931, determiner_noun_agreement_irregular_1 681,
    determiner_noun_agreement_irregular_2 820, determiner_noun_agreement_with_adj_2 941,
    determiner_noun_agreement_with_adj_irregular_1 718, determiner_noun_agreement_with_adj_irregular_2 840,
    determiner_noun_agreement_with_adjective_1 933, distractor_agreement_relational_noun 788,
    distractor_agreement_relative_clause 871, drop_argument 920, ellipsis_n_bar_1 802, ellipsis_n_bar_2 828,
    existential_there_object_raising 812, existential_there_quantifiers_1 930, existential_there_quantifiers_2 911,
    existential_there_subject_raising 924, expletive_it_object_raising 759, inchoative 855, intransitive 868,
    irregular_past_participle_adjectives 961, irregular_past_participle_verbs 942,
    irregular_plural_subject_verb_agreement_1 804, irregular_plural_subject_verb_agreement_2 892,
    left_branch_island_echo_question 947, left_branch_island_simple_question 951,
    matrix_question_npi_licensor_present 929, npi_present_1 909, npi_present_2 914, only_npi_licensor_present 882,
    only_npi_scope 837, passive_1 840, passive_2 903, principle_A_c_command 946, principle_A_case_1 912,
    principle_A_case_2 915, principle_A_domain_1 914, principle_A_domain_2 915, principle_A_domain_3 941,
    principle_A_reconstruction 967, regular_plural_subject_verb_agreement_1 890,
    regular_plural_subject_verb_agreement_2 945, sentential_negation_npi_licensor_present 919,
    sentential_negation_npi_scope 871, sentential_subject_island 961, superlative_quantifiers_1 979,
    superlative_quantifiers_2 986, tough_vs_raising_1 948, tough_vs_raising_2 920, transitive 868, wh_island 960,
    wh_questions_object_gap 859, wh_questions_subject_gap 898, wh_questions_subject_gap_long_distance 857,
    wh_vs_that_no_gap 861, wh_vs_that_no_gap_long_distance 875, wh_vs_that_with_gap 919,
    wh_vs_that_with_gap_long_distance 910
    """
)
_SUPPLEMENT = _sizes(
    "hypernym 842, qa_congruence_easy 64, qa_congruence_tricky 165, subject_aux_inversion 3867, turn_taking 280"
)
_EWOK = _sizes(
    """
    agent-properties 2210, material-dynamics 770, material-properties 170, physical-dynamics 120,
    physical-interactions 556, physical-relations 818, quantitative-properties 314, social-interactions 294,
    social-properties 328, social-relations 1548, spatial-relations 490
    """
)
_COMPS = _sizes("base 49340, wugs 13896, wugs_dist_before 13896, wugs_dist_in_between 13896")
_REGULAR = {
    "2025": _by_operations("regular", 606, 607, 606, 606, 568, 159),
    "2026": _by_operations("regular", 517, 409, 405, 425, 388, 94),
}
_ENTITIES = {
    "2025": _REGULAR["2025"]
    | _by_operations("ambiref", 607, 607, 604, 604, 615, 187)
    | _by_operations("move_contents", 605, 606, 605, 606, 529, 156),
    # Without the items of which an option says "nothing".
    "2026": _REGULAR["2026"]
    | _by_operations("ambiref", 508, 428, 413, 409, 434, 123)
    | _by_operations("move_contents", 516, 437, 399, 406, 353, 116),
}
_GLUE = _sizes("boolq 1635, mnli 4908, mrpc 204, multirc 2424, qqp 20215, rte 139, wsc 52")

_GLUE_TASKS = tuple(
    SubmissionTask(name, name, f"glue:{name}", "label", {name: size}, 3 if name == "mnli" else 2)
    for name, size in _GLUE.items()
)
_BOTH_FULL = (
    SubmissionTask("blimp", "blimp/blimp_filtered", "blimp-filtered", "completion", _BLIMP),
    SubmissionTask("blimp_supplement", "blimp/supplement_filtered", "blimp-supplement", "completion", _SUPPLEMENT),
)
_BOTH_FAST = (
    SubmissionTask("blimp", "blimp/blimp_fast", "blimp-fast", "completion", dict.fromkeys(_BLIMP, 200)),
    SubmissionTask("blimp_supplement", "blimp/supplement_fast", "blimp-supplement-fast", "completion",
                   dict.fromkeys(_SUPPLEMENT, 50)),
)  # fmt: skip
_EWOK_FULL = SubmissionTask("ewok", "ewok/ewok_filtered", "ewok", "completion", _EWOK)
_EWOK_FAST = SubmissionTask("ewok", "ewok/ewok_fast", "ewok-fast", "completion", dict.fromkeys(_EWOK, 100))
_ENTITIES_FULL = SubmissionTask(
    "entity_tracking", "entity_tracking/entity_tracking", "entity-tracking", "completion", _ENTITIES["2025"]
)
_ENTITIES_FAST = SubmissionTask(
    "entity_tracking", "entity_tracking/entity_tracking_fast", "entity-tracking-fast", "completion", _REGULAR["2025"]
)
_WUGS = (
    SubmissionTask("wug_adj", "wug_adj/wug_adj_nominalization", "wug-adj", "probability", {"wug_adj": 200}),
    SubmissionTask("wug_past", "wug_past/wug_past_tense", "wug-past", "probability", {"wug_past": 50}),
)
_COMPS_FULL = SubmissionTask("comps", "comps/comps", "comps", "sentence", _COMPS)
_READING = SubmissionTask("reading", "reading", "reading:published", "reading", {"reading": 1726})
_PIQA = (
    SubmissionTask("global_piqa_parallel", "global_piqa_parallel/global_piqa_parallel", "global-piqa", "example",
                   {"": 103}),
    SubmissionTask("global_piqa_nonparallel", "global_piqa_nonparallel/global_piqa_nonparallel",
                   "global-piqa-nonparallel", "example", {"": 100}),
)  # fmt: skip

FORMATS: Mapping[Year, SubmissionFormat] = {
    "2025": SubmissionFormat(
        year="2025",
        full=(*_BOTH_FULL, _EWOK_FULL, _ENTITIES_FULL, *_WUGS, _COMPS_FULL, _READING),
        fast=(*_BOTH_FAST, _EWOK_FAST, _ENTITIES_FAST, *_WUGS, _READING),
        glue=_GLUE_TASKS,
        surprisals="aoa",
        keys=("blimp", "blimp_supplement", "ewok", "entity_tracking", "wug_adj", "wug_past", "comps", "reading", "aoa",
              "glue", "fast_eval_results"),
        optional=False,
    ),
    "2026": SubmissionFormat(
        year="2026",
        full=(
            *_BOTH_FULL,
            replace(_EWOK_FULL, shape="sentence"),
            replace(_ENTITIES_FULL, key="entity_tracking_filtered", sizes=_ENTITIES["2026"]),
            _COMPS_FULL, *_PIQA, _READING,
        ),
        fast=(
            *_BOTH_FAST,
            replace(_EWOK_FAST, shape="sentence"),
            replace(_ENTITIES_FAST, key="entity_tracking_filtered", sizes=_REGULAR["2026"]),
            *_PIQA, _READING,
        ),
        glue=_GLUE_TASKS,
        surprisals="aoa_surprisals",
        keys=("blimp", "blimp_supplement", "ewok", "entity_tracking_filtered", "comps", "global_piqa_parallel",
              "global_piqa_nonparallel", "reading", "aoa_surprisals", "aoa", "glue", "fast_eval_results"),
        optional=True,
    ),
}  # fmt: skip
