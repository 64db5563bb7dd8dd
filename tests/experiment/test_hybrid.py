"""The objective `hybrid`: what recipes may say, models that are trained, taught and stopped, and what is exported."""

import json
from pathlib import Path

import pytest
import torch

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: both
data: {corpus: starter, words: 20000, tokenizer: {vocab_size: 500, extra_tokens: EXTRA}, rows: {length: 32}}
models:
  teacher:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    epochs: 0.1
    evaluations: 1
    optim: {batch_rows: 8, lr: 1.0e-2}
    stages: [{objectives: {hybrid: {rate: 0.3, final_rate: 0.15}}}]
  student:
    like: teacher
    stages:
      - span: 50%
        teachers: [teacher]
        objectives: {hybrid: {weight: 0.5, rate: 0.3, final_rate: 0.15TAUGHT}, distill: 0.5}CACHE
      - {objectives: {hybrid: {rate: 0.3, final_rate: 0.15TAUGHT}}}
  control: {like: student, without: teachers}
  plain: {like: teacher, stages: [{}]}
"""


def written(extra: str = "['<mask>']", cache: str = "", taught: str = "") -> str:
    return RECIPE.replace("EXTRA", extra).replace("CACHE", cache).replace("TAUGHT", taught)


def test_controls_keep_both_ways() -> None:
    models = recipe_from_text(written()).models
    assert models["control"].hybrid == models["student"].hybrid
    assert models["control"].stages[0].objectives.hybrid.weight == 1
    assert models["student"].reads == "causal"
    assert models["plain"].hybrid is None


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{objectives: {hybrid: 1, next_token: 1}}]", "`next_token` and `hybrid` exclude each other"),
        ("[{objectives: {hybrid: {share: 1.5}}}]", r"hybrid\.share: .*less than or equal to 1"),
        ("[{objectives: {hybrid: {shar: 1}}}]", "did you mean 'share'"),
        ("[{span: 2, objectives: {hybrid: 1}}, {}]", "stages differ in `hybrid`; give all the same settings"),
        (
            "[{span: 2, objectives: {hybrid: 1}}, {objectives: {hybrid: {rate: 0.4}}}]",
            r"differ in `masked\.rate`",
        ),
        ("[{objectives: {hybrid: {final_rate: 0.1}}}]", "`final_rate` changes from pass to pass: give .* in `epochs`"),
        ("[{objectives: {hybrid: 1}}], cuda_graphs: on", "reads all rows one way"),
    ],
)
def test_mistakes_are_told(stages: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from_text(f"name: x\nmodels:\n  a: {{preset: llama-1m, steps: 9, stages: {stages}}}\n", "x.yaml")


def test_a_tokenizer_without_mask_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`hybrid` needs a mask token: data\.tokenizer\.extra_tokens must have"):
        api.train(recipe_from_text(written("[]")), runs=tmp_path)
    assert not (tmp_path / "both" / "teacher").exists()


def test_a_teacher_that_reads_one_way_teaches_such_rows_alone(tmp_path: Path) -> None:
    text = written().replace("teachers: [teacher]", "teachers: [plain]")
    with pytest.raises(UserError, match=r"student: its teacher 'plain' has never read a row whole.*`hybrid\.taught:"):
        api.train(recipe_from_text(text), runs=tmp_path / "refused")
    text = written(taught=", taught: causal").replace("teachers: [teacher]", "teachers: [plain]")
    api.train(recipe_from_text(text), runs=tmp_path, model="student")
    assert (tmp_path / "both/student/seed-0/finished.json").exists()


def test_a_model_that_takes_no_masks_is_refused(tmp_path: Path) -> None:
    shape = "{model_type: mamba, hidden_size: 16, num_hidden_layers: 1}"
    lines = [f"    config: {shape}" if "config:" in line else line for line in written().splitlines()]
    with pytest.raises(UserError, match="MambaForCausalLM cannot read rows whole"):
        api.train(recipe_from_text("\n".join(lines)), runs=tmp_path, model="teacher")


@pytest.mark.parametrize("steps", [6, 11])
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    what = recipe_from_text(written().replace("evaluations: 1", "evaluations: 1\n    save_minutes: 0.000001"))
    step, left = torch.optim.AdamW.step, iter(range(steps))

    def last_steps(optimizer: torch.optim.AdamW) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        step(optimizer)

    api.train(what, runs=tmp_path / "quiet", model="student")
    monkeypatch.setattr(torch.optim.AdamW, "step", last_steps)
    with pytest.raises(KeyboardInterrupt):
        api.train(what, runs=tmp_path / "stopped", model="student")
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / "both" / "student" / "seed-0" / "finished.json").exists()
    api.train(what, runs=tmp_path / "stopped", model="student")
    for name in ("metrics.jsonl", "hf/model.safetensors"):
        quiet, stopped = (tmp_path / which / "both/student/seed-0" / name for which in ("quiet", "stopped"))
        assert quiet.read_bytes() == stopped.read_bytes()


def test_a_cached_teacher_says_what_a_live_one_says(tmp_path: Path) -> None:
    found = []
    for cache in ("", "\n        cache: hidden"):
        api.train(recipe_from_text(written(cache=cache)), runs=tmp_path / f"runs{len(cache)}", model="student")
        found.append((tmp_path / f"runs{len(cache)}" / "both/student/seed-0/metrics.jsonl").read_text())
    assert found[0] == found[1]


def test_what_is_exported_reads_both_ways_in_stock_transformers(tmp_path: Path) -> None:
    """A model that learned texts by heart tells a hidden token from both sides, and the next one from the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    (tmp_path / "texts").mkdir()
    for number in range(8):
        turned = words[number:] + words[:number]
        (tmp_path / "texts" / f"{number}.txt").write_text("\n\n".join([" ".join(turned * 6)] * 15))
    text = f"""
name: circle
data: {{corpus: {tmp_path}/texts, tokenizer: {{vocab_size: 300}}, rows: {{length: 16}}}}
models:
  both:
    config: {{model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}}
    epochs: 4
    evaluations: 1
    optim: {{batch_rows: 16, lr: 1.0e-2, warmup_steps: 10}}
    stages: [{{objectives: {{hybrid: {{share: 0.5, rate: 0.3}}}}}}]
"""
    api.train(recipe_from_text(text), runs=tmp_path)
    folder = tmp_path / "circle/both/seed-0/hf"
    hf, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(" ".join(words * 2), add_special_tokens=False, return_tensors="pt")["input_ids"]
    place = ids.shape[1] // 2
    hidden = ids.clone()
    hidden[0, place] = tokenizer.mask_token_id
    hf.config.is_causal = False
    with torch.no_grad():
        both = hf(input_ids=hidden).logits[0, place - 1].log_softmax(-1)[ids[0, place]]
    hf.config.is_causal = True
    with torch.no_grad():
        causal = hf(input_ids=ids).logits[0, place - 1].log_softmax(-1)[ids[0, place]]
    assert both > -0.2
    assert causal > -0.2
    # A number out of its place is told by what follows as well as by what stands before.
    wrong = [*words[:3], "six", *words[4:]]
    pair = {"sentence_good": " ".join(words * 2), "sentence_bad": " ".join(wrong * 2)}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    suite = f"pairs:{tmp_path}/pairs.jsonl"
    summary = api.evaluate_models([folder], [suite], tmp_path / "out", kind="mntp")
    (entry,) = summary.models.values()
    assert entry.seeds["0"].suites[suite].accuracy == 1
