from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from tutelage import recipe
from tutelage.experiment.show import print_presets
from tutelage.models.build import build
from tutelage.models.presets import PRESETS

GOLDEN = {
    "llama-58m": (16_000, 58_343_936),
    "llama-360m": (16_000, 359_973_888),
    "gpt2-705m": (16_000, 704_928_768),
    "llama-16m": (16_000, 16_584_960),
    "llama-97m": (16_000, 97_241_856),
    "llama-95m": (16_000, 95_371_008),
    "gpt2-97m": (16_000, 97_540_608),
    "llama-345m": (16_000, 345_355_200),
}


def count(name: str, vocabulary: int) -> int:
    settings = dict(PRESETS[name])
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=vocabulary, **settings)
    factory = AutoModelForMaskedLM if "bert" in name else AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(config)
        model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", GOLDEN)
def test_papers_shapes_have_the_papers_sizes(name: str) -> None:
    vocabulary, parameters = GOLDEN[name]
    assert count(name, vocabulary) == parameters


def test_presets_are_shown_with_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    print_presets()
    shown = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if "-" in line[:12]}
    assert shown.keys() == PRESETS.keys()
    assert (shown["llama-58m"], shown["gpt2-705m"], shown["llama-345m"]) == ("58.3M", "705M", "345M")


@pytest.mark.parametrize(("name", "millions"), [("modernbert-149m", 149.7), ("modernbert-39m", 39.6)])
def test_modernbert_sizes(name: str, millions: float) -> None:
    assert round(count(name, 50_368) / 1e6, 1) == millions


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in GOLDEN and "bert" not in name])
def test_names_tell_sizes(name: str) -> None:
    vocabulary = 16_000 if name in ("gpt2-10m", "gptj-97m") else 8_000
    told = float(name.split("-")[1].removesuffix("m"))
    assert count(name, vocabulary) / 1e6 == pytest.approx(told, rel=0.3)


class MadeUpTokenizer(SimpleNamespace):
    bos_token_id = eos_token_id = cls_token_id = sep_token_id = 0
    pad_token_id = 3

    def __len__(self) -> int:
        return 20

    def get_vocab(self) -> dict[str, int]:
        return {"last": 20 - 1}


@pytest.mark.parametrize("settings", [{}, {"max_position_embeddings": 8}])
@pytest.mark.parametrize("architecture", ["roberta", "bert", "gpt2", "llama", "opt"])
def test_positions_suffice_for_a_row(architecture: str, settings: dict) -> None:
    """Also where an architecture's own number is too small, or its first positions are never used."""
    masked = architecture in ("roberta", "bert")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = recipe.Model.model_validate(
        {"config": {"model_type": architecture, **small, **settings}, "kind": "masked" if masked else "causal",
         "steps": 1, "stages": [{"objectives": {"masked" if masked else "next_token": 1}}]}
    )  # fmt: skip
    built = build(model, MadeUpTokenizer(), 2100, 0)
    assert built.positions is None or built.positions >= 2100
    assert built.hidden(torch.full((1, 2100), 9)).isfinite().all()
