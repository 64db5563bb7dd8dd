"""Any Hugging Face folder is scored as it is, or refused with a remedy before its weights are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tutelage import api, starter
from tutelage.base.errors import UserError
from tutelage.cli.main import app
from tutelage.compare.summary import read_summary
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.external import missing_characters, open_models

SPECIALS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
MASKED = {**SPECIALS, "mask_token": "<mask>", "cls_token": "<cls>", "sep_token": "<sep>"}


def texts() -> list[str]:
    lines = []
    for file in starter.pairs_folder().iterdir():
        if file.name.endswith(".jsonl"):
            lines += [json.loads(line)["sentence_good"] for line in file.read_text(encoding="utf-8").splitlines()]
    return lines


def make_tokenizer(specials: dict[str, str], size: int = 400) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(specials.values()), initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    backend.train_from_iterator(texts(), trainer)
    if "cls_token" in specials:
        frame = [(specials[key], backend.token_to_id(specials[key])) for key in ("cls_token", "sep_token")]
        backend.post_processor = processors.TemplateProcessing(single="<cls> $A <sep>", special_tokens=frame)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def make_model(folder: Path, kind: str = "causal", seed: int = 0, width: int = 16, **settings: Any) -> Path:
    """A model folder as `save_pretrained` writes it."""
    tokenizer = make_tokenizer(MASKED if kind == "masked" else SPECIALS)
    shape = {"vocab_size": len(tokenizer), "hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 24, "pad_token_id": 0, "initializer_range": 0.3}  # fmt: skip
    torch.manual_seed(seed)
    if kind == "masked":
        config = AutoConfig.for_model("bert", **shape, **settings)
        model = AutoModelForMaskedLM.from_config(config)
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape, **settings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "first")
    make_model(folder / "second", seed=1, width=32)
    make_model(folder / "bert", "masked")
    return folder


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(made / "first", tmp_path / "first"))


def edit(file: Path, **changes: Any) -> None:
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def opened(*folders: Path, year: str = "2025", **settings: Any) -> list[Any]:
    settings = {"kind": None, "revision": None} | settings
    return open_models([str(folder) for folder in folders], CONVENTIONS[year], **settings)


def test_models_are_scored_side_by_side(made: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(
        app,
        ["evaluate", str(made / "first"), str(made / "second"), str(made / "bert"), "-s", "starter-pairs",
         "--out", str(tmp_path)],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    for part in ("starter-pairs", "accuracy (%)", "first", "second", "bert"):
        assert part in run.output
    summary = read_summary(tmp_path / "summary.json")
    assert list(summary.models) == ["first", "second", "bert"]
    assert summary.resolved_recipe["models"]["bert"]["kind"] == "masked"
    assert summary.versions["transformers"]
    assert summary.machine["cores"]
    assert summary.models["second"].parameters > summary.models["first"].parameters
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert str(made) not in page + (tmp_path / "summary.json").read_text()


def test_scores_are_those_of_the_plain_model(made: Path, tmp_path: Path) -> None:
    summary = api.evaluate_models([made / "first"], ["starter-pairs"], tmp_path)
    tokenizer = make_tokenizer(SPECIALS)
    model = AutoModelForCausalLM.from_pretrained(made / "first").double()
    file = next(f for f in starter.pairs_folder().iterdir() if f.name.endswith(".jsonl"))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:5]
    uid = rows[0].get("UID") or file.name.removesuffix(".jsonl")
    with np.load(tmp_path / "first" / "starter-pairs.log_probs.npz") as said:
        kept = said[f"starter-pairs/{uid}"]
    assert kept.dtype == np.float32
    for row, ours in zip(rows, kept, strict=False):
        for key, value in zip(("sentence_good", "sentence_bad"), ours, strict=True):
            ids = torch.tensor([tokenizer(row[key])["input_ids"]])
            with torch.no_grad():
                log_p = model(ids).logits[0].log_softmax(-1)
            slow = sum(log_p[i - 1, ids[0, i]].item() for i in range(1, ids.shape[1]))
            assert value == pytest.approx(slow, abs=1e-4)
    assert summary.models["first"].seeds["0"].suites["starter-pairs"].items == 960


def test_what_was_measured_is_not_measured_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = api.evaluate_models([made / "first"], ["starter-pairs"], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("tutelage.evaluation.named.evaluate", lambda *a: pytest.fail("scored again"))
        again = api.evaluate_models([made / "first"], ["starter-pairs"], tmp_path)
    assert again.models == once.models
    other = api.evaluate_models([made / "first"], ["starter-pairs"], tmp_path, convention="2024")
    assert other.models["first"].seeds["0"].suites["starter-pairs"].convention == "2024"


def test_a_year_that_is_asked_for_chooses_the_settings_of_fine_tuning(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    (tmp_path / "data/glue").mkdir(parents=True)
    rows = [{"sentence1": f"A dog {i}.", "sentence2": "A cat.", "label": i % 2} for i in range(32)]
    for split in ("train", "valid"):
        (tmp_path / f"data/glue/rte.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["evaluate", str(first), "-s", "glue:rte", "--out", str(tmp_path / "out"), "--convention", "2026"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    (model,) = summary["models"].values()
    assert model["seeds"]["0"]["measures"]["glue:rte"]["convention"] == "2026"
    said = "Convention of 2026, arithmetic in fp32. Fine-tuned by the settings of 2026."
    assert said in " ".join(done.output.split())
    assert said in (tmp_path / "out/report.html").read_text()
    monkeypatch.setattr("tutelage.api.recipes.evaluate_external", lambda models, suites, out, settings, *more: settings)
    plain = api.evaluate_models([first], ["glue:rte"], tmp_path)
    assert (plain.convention, plain.finetune.rules) == ("2025", "tutelage")


def test_a_padded_output_layer_counts_whole(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(SPECIALS)
    folder = make_model(tmp_path / "padded")
    edit(folder / "config.json", vocab_size=len(tokenizer) + 28)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    [model] = opened(folder)
    assert model.load().vocab_size == len(tokenizer) + 28


def test_tokens_beyond_the_model_are_told_and_refused_only_when_written(first: Path, tmp_path: Path) -> None:
    """As with GPT-2's class, which adds an unknown token behind the last one of the model."""
    edit(first / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    [model] = opened(first)
    assert any("<|endoftext|>" in remark for remark in model.remarks)
    api.evaluate_models([first], ["starter-pairs"], tmp_path / "out")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    line = {"sentence_good": "The dog.<|endoftext|>", "sentence_bad": "The dog."}
    (pairs / "one.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=r"writes '<\|endoftext\|>' \(token 400\), and the model knows 400"):
        api.evaluate_models([first], [f"pairs:{pairs}"], tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "TokenizersBackend"},
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False},
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"tokenizer_class": "TokenizerOfTomorrow", "backend": "quantum"},
        {"tokenizer_class": None},
    ],
    ids=["v4", "v5", "v4-gpt2", "v4-llama", "v6", "none"],
)
def test_tokenizers_of_other_versions_give_the_same_tokens(first: Path, changes: dict[str, Any]) -> None:
    edit(first / "tokenizer_config.json", **changes)
    [model] = opened(first)
    expected = make_tokenizer(SPECIALS)
    for text in [*texts()[:20], " A space first.", "café – 3.5 %"]:
        ours = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ours == expected(text, add_special_tokens=False)["input_ids"]
    assert not any("otherwise than its tokenizer.json" in remark for remark in model.remarks)


def test_a_class_that_overrules_its_file_is_told(first: Path) -> None:
    state = json.loads((first / "tokenizer.json").read_text())
    state["pre_tokenizer"]["add_prefix_space"] = True
    (first / "tokenizer.json").write_text(json.dumps(state))
    edit(first / "tokenizer_config.json", tokenizer_class="GPT2TokenizerFast", add_prefix_space=False)
    [model] = opened(first)
    assert any("otherwise than its tokenizer.json says" in remark for remark in model.remarks)


def test_a_tokenizer_of_an_unknown_format_says_what_to_do(first: Path) -> None:
    state = json.loads((first / "tokenizer.json").read_text())
    state["model"]["type"] = "BytePairsOfTomorrow"
    (first / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"cannot be loaded by transformers 5.*write it again"):
        opened(first)


def spoil(folder: Path, how: str) -> None:
    if how == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / name).unlink(missing_ok=True)
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "trunk":
        edit(folder / "config.json", architectures=["LlamaModel"])
    elif how == "own code":
        edit(folder / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    elif how == "unknown":
        edit(folder / "config.json", model_type="tomorrow", transformers_version="7.0.0")
    elif how == "t5":
        (folder / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    elif how == "no mask":
        edit(folder / "config.json", architectures=["BertForMaskedLM"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no tokenizer", r"no tokenizer \(tokenizer\.json\)|cannot be loaded"),
        ("no config", "no model folder.*save_pretrained"),
        ("adapter", "it is an adapter: merge"),
        ("no weights", r"no weights \(\*\.safetensors\): copy model\.safetensors"),
        ("pickle", r"pytorch_model\.bin is in a format that can run code"),
        ("trunk", "names LlamaModel, which is no language model; say what it is"),
        ("own code", "'mine' is code of the model's own, which is never run"),
        ("unknown", r"saved by transformers 7\.0\.0"),
        ("t5", "encoder-decoder model"),
        ("no mask", "has no mask token"),
    ],
)
def test_what_cannot_be_scored_says_why(first: Path, how: str, message: str) -> None:
    spoil(first, how)
    with pytest.raises(UserError, match=message):
        opened(first)


def test_a_kind_that_is_said_overrules(first: Path) -> None:
    edit(first / "config.json", architectures=["LlamaModel"])
    [model] = opened(first, kind="causal")
    assert model.kind == "causal"


def test_weights_that_do_not_fit_are_named(first: Path, tmp_path: Path) -> None:
    edit(first / "config.json", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lacks weights that a causal llama needs: .*layers\.1"):
        api.evaluate_models([first], ["starter-pairs"], tmp_path / "out")


def test_a_convention_without_its_start_token_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "bare")
    bare = make_tokenizer({"unk_token": "<unk>"})
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    bare.save_pretrained(folder)
    with pytest.raises(
        UserError, match=r"convention of 2023 starts every sentence with the eos token.*--convention 2025"
    ):
        opened(folder, year="2023")
    assert opened(folder, year="2025")


def test_characters_that_a_tokenizer_cannot_write(first: Path, tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, **{letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz .,'-?!", 1)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    small = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert missing_characters(small, ["a B", "b", "é B", "e\u0301"]) == ("Bé", 2)
    assert missing_characters(make_tokenizer(SPECIALS), ["é – 日"]) == ("", 0)
    (first / "tokenizer_config.json").unlink()
    (first / "special_tokens_map.json").unlink(missing_ok=True)
    small.save_pretrained(first)
    with pytest.raises(UserError, match=r"texts of starter-pairs hold characters.*Is this the tokenizer"):
        api.evaluate_models([first], ["starter-pairs"], tmp_path / "out")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    lines = [{"sentence_good": f"the dog {i}.", "sentence_bad": f"the {i} dog."} for i in "abcdefgh"]
    lines.append({"sentence_good": "The dog.", "sentence_bad": "the dog The."})
    (pairs / "one.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    api.evaluate_models([first], [f"pairs:{pairs}"], tmp_path / "out")
    assert "2 of 18 texts" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nothing", "-s", "starter-pairs"], "there is no folder nothing"),
        (["{first}", "-s", "blmip"], "did you mean 'blimp'"),
        (["{first}", "-s", "test"], "'test' is held-out text of a recipe"),
        (["{first}"], "is a model, not a recipe; to score it, name a suite"),
        (["quickstart", "-s", "blimp"], "quickstart is a recipe: its models are scored"),
        (["{first}", "{first}", "-s", "starter-pairs"], "named twice"),
        (["{first}", "-s", "starter-pairs", "--revision", "main"], "is a folder, and a revision"),
        (["{first}", "-s", "starter-pairs", "--convention", "2022"], "convention: Input should be '2023'"),
    ],
)
def test_wrong_commands_are_answered(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["evaluate", *(part.format(first=made / "first") for part in arguments)])
    assert isinstance(run.exception, UserError)
    assert message in str(run.exception)


def test_options_of_models_are_refused_with_a_recipe() -> None:
    run = CliRunner().invoke(app, ["evaluate", "quickstart", "--convention", "2024", "--out", "x"])
    assert run.exit_code == 2
    assert "--convention, --out goes with --suite" in " ".join(run.output.split())


def test_labels_tell_models_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "run" / model / f"seed-{seed}" / "hf" for model in ("student", "control") for seed in (0, 1)]
    for folder in folders:
        folder.mkdir(parents=True)
        shutil.copytree(make_model(tmp_path / "x"), folder, dirs_exist_ok=True)
    assert [model.label for model in opened(*folders)] == [
        "student/seed-0", "student/seed-1", "control/seed-0", "control/seed-1",
    ]  # fmt: skip
    assert [model.label for model in opened(tmp_path / "x")] == ["x"]
    assert [model.label for model in opened(folders[0])] == ["student/seed-0"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: what a repository holds, and its files."""

    folder: Path
    commit = "c" * 40

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/owner/name/tree/"):
            files = [(file.name, file.stat().st_size) for file in self.folder.iterdir()] + [("onnx/model.json", 10)]
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in files]
            self.send(json.dumps(tree).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in self.folder.iterdir()]
            siblings.append({"rfilename": "onnx/model.json", "size": 10})
            found = {"id": "owner/name", "modelId": "owner/name", "sha": self.commit, "siblings": siblings}
            self.send(json.dumps(found).encode(), body, {"Content-Type": "application/json"})
        elif "/resolve/" in path and (file := self.folder / path.rpartition("/")[2]).is_file():
            headers = {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha1(file.name.encode()).hexdigest()}"'}
            self.send(file.read_bytes(), body, headers)
        else:
            self.send_error(404)

    def send(self, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(made: Path) -> Iterator[tuple[str, type[Hub]]]:
    handler = type("OneHub", (Hub,), {"folder": made / "first"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def from_hub(endpoint: str, folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command with a hub of its own, read when huggingface_hub is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1", **more}
    command = [sys.executable, "-m", "tutelage", "evaluate", "owner/name", "-s", "starter-pairs", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | settings
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_model_is_fetched_once_and_works_offline(made: Path, tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, _ = hub
    first = from_hub(endpoint, tmp_path, "--revision", "main", "--out", "one")
    assert first.returncode == 0, first.stderr
    assert "on the hub; what is not here yet is downloaded" in first.stderr
    assert "owner/name@main" in first.stdout
    fetched = {file.name for file in tmp_path.glob("cache/hub/models--owner--name/snapshots/*/*")}
    assert fetched == {file.name for file in (made / "first").iterdir()}
    local = api.evaluate_models([made / "first"], ["starter-pairs"], tmp_path / "local")
    summary = read_summary(tmp_path / "one" / "summary.json")
    ours, theirs = (next(iter(s.models.values())).seeds["0"].suites for s in (local, summary))
    assert ours == theirs
    assert summary.resolved_recipe["models"]["owner/name@main"]["identity"] == f"owner/name@{Hub.commit}"
    offline = from_hub("http://127.0.0.1:9", tmp_path, "--revision", "main", "--out", "two", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr


def test_a_hub_model_that_cannot_be_had_says_why(tmp_path: Path, made: Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    handler.folder = tmp_path / "pickles"
    shutil.copytree(made / "first", handler.folder)
    spoil(handler.folder, "pickle")
    pickles = from_hub(endpoint, tmp_path)
    assert pickles.returncode == 1
    assert "error: the hub model 'owner/name' has no safetensors weights" in pickles.stderr
    nowhere = from_hub("http://127.0.0.1:9", tmp_path)
    assert nowhere.returncode == 1
    assert "error: 'owner/name' is no folder, and cannot be reached on the hub" in nowhere.stderr


def test_the_check_against_lm_eval(made: Path) -> None:
    pytest.importorskip("lm_eval")
    pytest.importorskip("datasets")
    script = Path(__file__).parents[2] / "examples" / "lm_eval_check.py"
    command = [sys.executable, str(script), str(made / "first"), "--suite", "starter-pairs", "--limit", "20"]
    run = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("both agree\n")
