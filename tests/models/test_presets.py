import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

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


@pytest.mark.parametrize(("name", "millions"), [("modernbert-149m", 149.7), ("modernbert-39m", 39.6)])
def test_modernbert_sizes(name: str, millions: float) -> None:
    assert round(count(name, 50_368) / 1e6, 1) == millions


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in GOLDEN and "bert" not in name])
def test_names_tell_sizes(name: str) -> None:
    vocabulary = 16_000 if name in ("gpt2-10m", "gptj-97m") else 8_000
    told = float(name.split("-")[1].removesuffix("m"))
    assert count(name, vocabulary) / 1e6 == pytest.approx(told, rel=0.3)
