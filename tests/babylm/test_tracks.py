"""Track rules: each is found kept, broken or untold from run folders that were made for it, and from a real run."""

import json
from pathlib import Path

import pytest

from tutelage import api
from tutelage.babylm.track_rules import TRACKS, TrackRules
from tutelage.babylm.tracks import Finding, check
from tutelage.base.errors import UserError
from tutelage.recipe.load import recipe_from_text
from tutelage.recipe.words import SCHEDULES

SMALL = SCHEDULES["babylm-strict-small"]
MODEL = {"preset": "llama-1m", "epochs": 10.0}
PER_STEP = 5000
"""Words of a step of the made-up runs, and tokens: one word a token."""


def distilled(*teachers: str) -> dict:
    return MODEL | {"stages": [{"objectives": {"distill": {}}, "teachers": [{"model": name} for name in teachers]}]}


def selected(scorer: str, reference: str, teachers: dict | None = None) -> dict:
    select = {"by": "difference", "scorer": scorer, "reference": reference, "share": "50%"}
    return MODEL | {"stages": [{"select": select} | (teachers or {})]}


class Runs:
    """A made-up experiment that keeps all the rules of strict-small, unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = {
            "settings": {"corpus": "babylm-2025-10m", "tokenizer": {"kind": "bpe", "path": None}},
            "splits": {
                "train": {"words": 9_500_000, "tokens": 9_500_000},
                "val": {"words": 500_000, "tokens": 500_000},
            },
        }

    def add(self, name: str, model: dict = MODEL, words: int = 95_000_000, kept=SMALL, seed: int = 0, data="digest"):
        run = self.folder / name / f"seed-{seed}"
        steps = words // PER_STEP
        for count in kept:
            step = -(-count // PER_STEP)
            if step <= steps:
                self.write(run / "checkpoints" / f"step-{step:09d}" / "state.json", {"tokens": step * PER_STEP})
        self.write(run / "recipe.json", {"model": model, "data": {"train": data}})
        self.write(run / "hf" / "config.json", {})
        epochs = words / self.manifest["splits"]["train"]["words"]
        self.write(run / "finished.json", {"words": words, "tokens": words, "steps": steps, "epochs": epochs})

    def write(self, path: Path, value) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    def check(self, track: str = "babylm-2025-strict-small", model: str = "student") -> list[Finding]:
        self.write(self.folder / "data" / "manifest.json", self.manifest)
        return check(self.folder, track, model)

    def verdicts(self, track: str = "babylm-2025-strict-small") -> dict[str, str]:
        return {finding.rule: finding.verdict for finding in self.check(track)}

    def found(self, rule: str, track: str = "babylm-2025-strict-small") -> tuple[str, str]:
        return next((one.verdict, one.message) for one in self.check(track) if one.rule == rule)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.mark.parametrize("track", TRACKS)
def test_a_run_that_keeps_all_rules(runs: Runs, track: str) -> None:
    if "small" not in track:
        runs.manifest["splits"]["train"] = {"words": 95_000_000, "tokens": 95_000_000}
    runs.add("student", words=950_000_000 if "small" not in track else 95_000_000, kept=TRACKS[track].schedule)
    found = runs.verdicts(track)
    unknown = {"who wrote the corpus"} | ({"generated words"} if track.endswith("interaction") else set())
    assert {rule for rule, verdict in found.items() if verdict == "unknown"} == unknown
    assert "broken" not in found.values()
    assert found.keys() >= {"words of the corpus", "tokenizer", "epochs", "words seen", "teacher access", "checkpoints"}
    assert all(finding.source for finding in runs.check(track))


def test_too_large_a_corpus(runs: Runs) -> None:
    runs.add("student")
    runs.manifest["splits"]["train"]["words"] = 10_000_001
    verdict, said = runs.found("words of the corpus")
    assert (verdict, "10,000,001 words of training text, 10,000,000 are allowed" in said) == ("broken", True)
    assert runs.verdicts("babylm-2025-strict")["words of the corpus"] == "kept"
    runs.manifest["splits"]["train"]["words"] = 9_900_000
    assert "with the 500,000 held out" in runs.found("words of the corpus")[1]


def test_a_corpus_counted_in_characters_is_not_judged_by_words(runs: Runs) -> None:
    runs.add("student")
    runs.manifest["settings"]["unit"] = "characters"
    verdict, said = runs.found("words of the corpus")
    assert (verdict, "counted in characters" in said) == ("unknown", True)


def test_too_many_epochs(runs: Runs) -> None:
    runs.add("student", words=95_000_000 + PER_STEP)
    assert runs.found("epochs")[0] == "broken"
    assert runs.verdicts()["words seen"] == "kept"
    runs.add("student", words=105_000_000, seed=1)
    assert runs.found("words seen") == ("broken", "105,000,000 words, repeats included; 100,000,000 are allowed")


def test_teachers_of_the_same_words_are_fine(runs: Runs) -> None:
    runs.add("student", distilled("large", "other"))
    runs.add("large", distilled("largest"))
    runs.add("other", words=95_000_000 * 2)
    runs.add("largest")
    for track in TRACKS:
        found = [one for one in runs.check(track) if one.rule == "teacher access"]
        assert [one.verdict for one in found] == ["kept"] * 3
    assert runs.found("epochs of teachers")[0] == "unknown"


def test_teachers_of_other_words_bring_their_words(runs: Runs) -> None:
    runs.add("student", distilled("large"))
    runs.add("large", data="other digest")
    assert runs.found("teacher access")[0] == "unknown"


@pytest.mark.parametrize(
    ("teacher", "verdicts"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", ("broken", "broken", "broken", "unknown", "unknown")),
        ("Qwen/Qwen3-8B", ("unknown", "unknown", "broken", "unknown", "unknown")),
        ("Qwen/Qwen2.5-72B-Instruct", ("unknown", "unknown", "broken", "broken", "broken")),
        ("Qwen/Qwen2.5-0.5B", ("broken", "broken", "broken", "unknown", "unknown")),
        ("someone/a-model", ("unknown", "unknown", "broken", "unknown", "unknown")),
    ],
)
def test_outside_teachers(runs: Runs, teacher: str, verdicts: tuple[str, ...]) -> None:
    runs.add("student", distilled(teacher))
    assert tuple(runs.verdicts(track)["teacher access"] for track in TRACKS) == verdicts
    assert "unverified" in runs.found("teacher access", "babylm-2026-strict")[1] or verdicts[-1] == "broken"


def test_a_teachers_teacher_from_outside_reaches_the_student(runs: Runs) -> None:
    runs.add("student", distilled("large"))
    runs.add("large", distilled("someone/a-model"))
    found = [one for one in runs.check("babylm-2025-interaction") if one.rule == "teacher access"]
    assert [one.verdict for one in found] == ["kept", "broken"]
    assert "'someone/a-model', a model from outside, reaches large" in found[1].message


@pytest.mark.parametrize(
    ("scorer", "verdicts"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", ("broken", "broken", "unknown", "unknown", "unknown")),
        ("Qwen/Qwen2.5-72B-Instruct", ("unknown", "unknown", "broken", "broken", "broken")),
        ("openai-community/gpt2-xl", ("unknown", "unknown", "unknown", "unknown", "unknown")),
    ],
)
def test_scorers_from_outside_count_too(runs: Runs, scorer: str, verdicts: tuple[str, ...]) -> None:
    runs.add("student", selected(scorer, "small"))
    runs.add("small")
    assert tuple(runs.verdicts(track)["teacher access"] for track in TRACKS) != ("kept",) * 5
    for track, verdict in zip(TRACKS, verdicts, strict=True):
        small, outside = (one for one in runs.check(track) if one.rule == "teacher access")
        assert small.verdict == "kept"
        assert small.message == "'small', whose losses chose the rows or tokens, was trained on the same words"
        assert outside.verdict == verdict
        assert f"the losses of '{scorer}', a model from outside, chose the rows or tokens of student" in str(outside)


def test_a_scorer_that_outside_models_taught_passes_on_a_choice_only(runs: Runs) -> None:
    runs.add("student", selected("small", "large"))
    runs.add("small", distilled("someone/a-model"))
    runs.add("large", words=95_000_000 * 2)
    found = [one for one in runs.check("babylm-2025-interaction") if one.rule == "teacher access"]
    assert [one.verdict for one in found] == ["kept", "kept", "unknown"]
    assert "reaches small, and student by the choice of rows or tokens only" in found[2].message
    # As a teacher as well, it passes more on.
    both = selected("small", "large", {"objectives": {"distill": {}}, "teachers": [{"model": "small"}]})
    runs.add("student", both)
    found = [one for one in runs.check("babylm-2025-interaction") if one.rule == "teacher access"]
    assert [one.verdict for one in found] == ["kept", "kept", "broken"]
    assert runs.found("epochs of teachers")[0] == "unknown"


def test_a_scorers_weights_from_outside(runs: Runs) -> None:
    runs.add("student", selected("small", "large"))
    runs.add("small", {"weights": "someone/base", "epochs": 10.0})
    runs.add("large")
    assert "small starts from 'someone/base'" in runs.found("weights from outside")[1]


def test_weights_and_tokenizers_from_outside(runs: Runs) -> None:
    runs.add("student", {"weights": "someone/base", "epochs": 10.0})
    runs.manifest["settings"]["tokenizer"] = {"kind": "pretrained", "path": "gpt2"}
    found = runs.verdicts()
    assert (found["weights from outside"], found["tokenizer"]) == ("unknown", "unknown")


def test_missing_checkpoints_are_named(runs: Runs) -> None:
    runs.add("student", kept=[words for words in SMALL if words not in (3_000_000, 40_000_000)])
    verdict, said = runs.found("checkpoints")
    assert verdict == "broken"
    assert said.startswith("2 of 18 are not there: chck_3M, chck_40M;")
    # One seed that has them all is enough: it can be handed in.
    runs.add("student", seed=1)
    assert runs.found("checkpoints") == ("kept", "all 18 that were reached are there (of seed 1)")


def test_a_checkpoint_a_step_later_is_another_one(runs: Runs) -> None:
    runs.add("student", kept=[words + PER_STEP if words == 2_000_000 else words for words in SMALL])
    assert runs.found("checkpoints")[0] == "broken"


def test_training_that_ended_early(runs: Runs) -> None:
    runs.add("student", words=20_000_000)
    assert runs.found("checkpoints") == ("kept", "all 11 that were reached are there")
    runs.add("short", words=500_000)
    found = {one.rule: one for one in check(runs.folder, "babylm-2026-strict", "short")}
    assert "before the first one, chck_1M" in found["checkpoints"].message


def test_the_starter_corpus_was_written_by_a_model(runs: Runs) -> None:
    runs.manifest["settings"]["corpus"] = "starter"
    runs.add("student")
    found = [runs.verdicts(track)["who wrote the corpus"] for track in TRACKS]
    assert found == ["broken", "broken", "unknown", "unknown", "unknown"]


def test_lost_models_are_told(runs: Runs) -> None:
    runs.add("student")
    (runs.folder / "student" / "seed-0" / "hf" / "config.json").unlink()
    assert runs.found("form")[0] == "broken"


def test_bad_questions(runs: Runs, tmp_path: Path) -> None:
    runs.add("student")
    runs.check()
    with pytest.raises(UserError, match="unknown track 'babylm-2026-strickt'; did you mean 'babylm-2026-strict'"):
        check(runs.folder, "babylm-2026-strickt")
    with pytest.raises(UserError, match=r"no finished model 'studnt' .*did you mean 'student'"):
        check(runs.folder, "babylm-2026-strict", "studnt")
    with pytest.raises(UserError, match="is no folder of an experiment"):
        check(tmp_path, "babylm-2026-strict")
    runs.write(runs.folder / "student" / "seed-0" / "recipe.json", {"model": {"epochs": -1}, "data": {}})
    with pytest.raises(UserError, match="is no record of this version"):
        check(runs.folder, "babylm-2026-strict")
    empty = Runs(tmp_path / "empty")
    empty.write(empty.folder / "data" / "manifest.json", empty.manifest)
    with pytest.raises(UserError, match="holds no finished model"):
        check(empty.folder, "babylm-2026-strict")


REAL = """
name: real
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 32}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 8
    checkpoints: [200, 400]
    stages: [{teachers: [teacher], objectives: {next_token: 0.5, distill: 0.5}}]
    optim: {batch_rows: 8}
  teacher: {like: student, without: teachers, checkpoints: [200]}
"""


def test_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.train(recipe_from_text(REAL), runs=tmp_path)
    found = check(tmp_path / "real", "babylm-2025-strict-small")
    assert {finding.model for finding in found} == {"student", "teacher"}
    broken = {(finding.model, finding.rule) for finding in found if finding.verdict == "broken"}
    assert broken == {("student", "who wrote the corpus"), ("teacher", "who wrote the corpus")}
    assert "'teacher', whose output distribution teaches, was trained on the same words" in str(found)
    # A schedule that such a short run reaches.
    monkeypatch.setitem(TRACKS, "short", TrackRules("2025", 10**7, 10, (200, 400)))
    by_model = {one.model: one for one in check(tmp_path / "real", "short") if one.rule == "checkpoints"}
    assert by_model["student"].verdict == "kept"
    assert by_model["teacher"].verdict == "broken"
    assert "1 of 2 are not there: chck_400" in by_model["teacher"].message


EXAMPLES = """
name: examples
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {kind: examples, length: 128, buckets: [16, 32, 64]}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 24
    checkpoints: [SCHEDULE]
    optim: {batch_rows: 4}
"""


def test_checkpoints_of_texts_of_many_lengths_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of examples differ in length: the one that reaches a number of words may overshoot a mean step."""
    schedule = tuple(range(50, 1000, 50))
    api.train(recipe_from_text(EXAMPLES.replace("SCHEDULE", ", ".join(map(str, schedule)))), runs=tmp_path)
    run = tmp_path / "examples" / "student" / "seed-0"
    done = json.loads((run / "finished.json").read_text())
    mean, per_token = done["tokens"] / done["steps"], done["words"] / done["tokens"]
    reached = [words for words in schedule if words <= done["words"]]
    kept = [json.loads(file.read_text())["tokens"] for file in sorted(run.glob("checkpoints/*/state.json"))]
    beyond = [min(tokens for tokens in kept if tokens * per_token >= words) - words / per_token for words in reached]
    assert max(beyond) > mean, "no step overshoots here, and the test shows nothing"
    monkeypatch.setitem(TRACKS, "short", TrackRules("2025", 10**7, 10, schedule))
    found = next(one for one in check(tmp_path / "examples", "short") if one.rule == "checkpoints")
    assert found.verdict == "kept", found.message
