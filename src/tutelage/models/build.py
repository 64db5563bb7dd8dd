"""From a recipe's model to a `LanguageModel`, and back to a folder that stock `transformers` loads.

Only safetensors weights and architectures that `transformers` itself carries: no pickles, no code from a model folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import getsource
from pathlib import Path
from sys import modules
from typing import Any

import torch
from torch import nn

from tutelage import recipe
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import new_folder
from tutelage.base.hub import check_hub
from tutelage.base.progress import console
from tutelage.base.run_folder import check_exported
from tutelage.corpus.tokenizer import check_beside, vocabulary_size
from tutelage.corpus.tokenizer import save as save_tokenizer
from tutelage.models.attention import settle
from tutelage.models.heads import TaskHeads, save_heads
from tutelage.models.language_model import LanguageModel
from tutelage.models.presets import preset
from tutelage.recipe import ModelKind

BEHIND_PADDING = ("camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
                  "xlm-roberta-xl")  # fmt: skip
"""Architectures that count positions from behind the padding's id, so that so many are never used."""


def config_for(model: recipe.Model, tokenizer: Any, row_length: int) -> Any:
    """Return the Hugging Face configuration of a model that starts from random weights.

    Its vocabulary and special tokens come from the tokenizer; positions grow to the row length where needed.

    Raises:
        UserError: unknown preset or architecture, or a setting that the architecture does not have.
    """
    from transformers import AutoConfig

    settings: dict[str, Any] = {}
    if model.preset is not None:
        settings |= preset(model.preset)
    settings |= model.config or {}
    for key in ("dtype", "torch_dtype"):
        if key in settings:
            raise UserError(
                f"models.*.config.{key} ({settings[key]}) would train and keep the weights in that type: leave it out; "
                "weights are float32 here, and models.*.precision chooses the arithmetic"
            )
    architecture = settings.pop("model_type", None)
    if architecture is None:
        raise UserError("models.*.config needs `model_type`, as in {model_type: llama, hidden_size: 256}")
    if taken := [key for key in settings if key == "vocab_size" or key.endswith("_token_id")]:
        raise UserError(f"models.*.config.{taken[0]} comes from the recipe's tokenizer (data.tokenizer): leave it out")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if model.reads == "masked":
        ids |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep")}
    try:
        config = AutoConfig.for_model(architecture)
        unknown = [key for key in settings if not _knows(config, key)]
        if unknown:
            close = nearest(unknown[0], config.to_dict())
            raise UserError(f"a {architecture} configuration has no '{unknown[0]}'{close}")
        needed = row_length + ((tokenizer.pad_token_id or 0) + 1 if architecture in BEHIND_PADDING else 0)
        for key in ("max_position_embeddings", "n_positions"):
            there = settings.get(key, getattr(config, key, None))
            if isinstance(there, int) and there < needed:
                settings[key] = needed
        return AutoConfig.for_model(architecture, vocab_size=vocabulary_size(tokenizer), **ids | settings)
    except UserError:
        raise
    except Exception as error:  # each architecture checks its settings in its own way
        raise UserError(
            f"the configuration of a '{architecture}' model with {_given(settings)} was refused: {_told(error)}"
        ) from error


def _knows(config: Any, key: str) -> bool:
    """Tell whether an architecture has a setting: some read one that their configuration does not list (DeBERTa-v3)."""
    if hasattr(config, key) or key in config.attribute_map:
        return True
    from transformers import AutoModel

    code = getsource(modules[AutoModel._model_mapping[type(config)].__module__])
    return f'getattr(config, "{key}"' in code


def build(model: recipe.Model, tokenizer: Any, row_length: int, seed: int) -> LanguageModel:
    """Make a model with random weights drawn from `seed`, or load the weights it starts from."""
    if model.weights is not None:
        made = load(model.weights, tokenizer, model.reads, row_length)
    else:
        config = config_for(model, tokenizer, row_length)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            hf = _from_config(config, model.reads)
        remedy = f"with {_given(config.to_diff_dict())}; mend these settings at models.*.config"
        made = language_model(hf, model.reads, vocabulary_size(tokenizer), remedy)
    if model.hybrid is not None:
        made.check_reads_whole()
    return made


def language_model(
    hf: Any, kind: ModelKind, vocab_size: int | None, remedy: str = "so it cannot be used here"
) -> LanguageModel:
    """Make a `LanguageModel` of a Hugging Face model, which computes for the first time here.

    Raises:
        UserError: it cannot compute from tokens alone, or what `LanguageModel` refuses.
    """
    try:
        settle(hf)
        return LanguageModel(hf, kind, vocab_size)
    except UserError:
        raise
    except Exception as error:  # each architecture fails in its own way
        raise UserError(f"a {kind} {hf.config.model_type} model cannot compute ({_told(error)}), {remedy}") from error


def check_export(model: recipe.Model, tokenizer: Any, row_length: int) -> None:
    """Make sure, before a model is trained, that it can be exported together with the tokenizer; see `check_beside`."""
    from transformers import AutoConfig

    config = config_for(model, tokenizer, row_length) if model.weights is None else AutoConfig.from_pretrained(
        str(Path(model.weights).expanduser()) if recipe.is_path(model.weights) else model.weights,
        trust_remote_code=False,
    )  # fmt: skip
    check_beside(tokenizer, config)


def shape(model: recipe.Model, tokenizer: Any, row_length: int) -> Any:
    """Return a recipe's Hugging Face model without weights (on the `meta` device), to count its cost."""
    if model.weights is not None:
        return load(model.weights, tokenizer, model.reads, row_length).hf
    return _without_weights(config_for(model, tokenizer, row_length), model.reads)


def shape_of(source: str, kind: ModelKind) -> Any:
    """Return the Hugging Face model of a folder or hub id without its weights, as `shape` does."""
    from transformers import AutoConfig

    path = Path(source).expanduser()
    if not recipe.is_path(source):
        check_hub(source)
    try:
        config = AutoConfig.from_pretrained(str(path) if path.exists() else source, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; each means that this source cannot be loaded
        raise UserError(f"cannot load the configuration of '{source}': {error}") from error
    return _without_weights(config, kind)


def _without_weights(config: Any, kind: ModelKind) -> Any:
    with torch.device("meta"):
        hf = _from_config(config, kind)
    hf.tie_weights()
    return hf


def _from_config(config: Any, reads: ModelKind) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    factory = AutoModelForMaskedLM if reads == "masked" else AutoModelForCausalLM
    try:
        return factory.from_config(config, attn_implementation=attention())
    except Exception as error:  # each architecture refuses settings in its own way
        raise UserError(
            f"cannot build a {reads} model of type '{config.model_type}' with {_given(config.to_diff_dict())}: "
            f"{_told(error)}"
        ) from error


def _given(settings: dict[str, Any]) -> str:
    """Name the numbers of a configuration, but for those of tokens."""
    numbers = {key: value for key, value in settings.items() if isinstance(value, int | float)}
    return ", ".join(f"{key}={value}" for key, value in numbers.items() if not key.endswith("_token_id"))


def _told(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def load(source: str, tokenizer: Any, kind: ModelKind, row_length: int = 0) -> LanguageModel:
    """Load a model from a Hugging Face folder or hub id, with room for the vocabulary and a row.

    See `read_weights` for what it refuses.
    """
    model = language_model(read_weights(source, kind), kind, vocabulary_size(tokenizer))
    if model.positions is not None and model.positions < row_length:
        raise UserError(f"'{source}' has {model.positions} positions, fewer than data.rows.length={row_length}")
    return model


def read_weights(source: str, kind: ModelKind) -> Any:
    """Load the Hugging Face model of a folder or hub id, in float32.

    Raises:
        UserError: no such folder, no (safetensors) weights in it, or weights that do not fit its configuration.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    path = Path(source).expanduser()
    if recipe.is_path(source):
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is no model folder: it has no config.json")
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{path} has no weights (*.safetensors); weights in other formats are not loaded, since "
                            "those can run code: save them with `model.save_pretrained`")  # fmt: skip
        check_exported(path)
        source = str(path)
    else:
        check_hub(source)
    factory = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    refuse_other_kind(source, kind)
    safe: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        hf, found = factory.from_pretrained(source, dtype=torch.float32, attn_implementation=attention(), **safe)
    except Exception as error:  # transformers raises many kinds; each means that this source cannot be loaded
        raise UserError(f"cannot load the {kind} model '{source}': {_told(error)}") from error
    if found["missing_keys"] or found["mismatched_keys"]:
        names = sorted(found["missing_keys"] or found["mismatched_keys"])
        raise UserError(f"'{source}' lacks weights that a {kind} {hf.config.model_type} needs: {', '.join(names[:5])}")
    _check_surplus(hf, sorted(found["unexpected_keys"]), source)
    if (broken := not_finite(hf)) is not None:
        raise UserError(f"'{source}' gives NaN: its weights '{broken}' are not finite, so the file is damaged or its "
                        "training went wrong; take a sound copy")  # fmt: skip
    return hf


def not_finite(model: nn.Module) -> str | None:
    """Name the first weights of a model that hold NaN or infinity; None where there are none."""
    return next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)


def refuse_other_kind(source: str, kind: ModelKind) -> None:
    """Refuse a type of which transformers has no model of this kind: its own message names all that it has.

    Raises:
        UserError: there is none, or the configuration cannot be read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; each means that this source cannot be loaded
        raise UserError(f"cannot load the {kind} model '{source}': {_told(error)}") from error
    factories = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
    if type(config) not in factories[kind]._model_mapping:
        others = [name for name, factory in factories.items() if type(config) in factory._model_mapping]
        remedy = f"it has {others[0]} ones (--kind {others[0]})" if others else "and none of the other kind"
        raise UserError(f"'{source}': transformers has no {kind} model of type '{config.model_type}'; {remedy}")


def _check_surplus(hf: Any, names: Sequence[str], source: str) -> None:
    """Refuse weights of layers that the configuration lacks; tell others that no part of the model takes.

    Raises:
        UserError: the file has more layers than the model.
    """
    if not names:
        return
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    known = {_layer_of(name) for name in hf.state_dict()}
    if any(layer is not None and layer not in known for layer in map(_layer_of, names)):
        raise UserError(
            f"'{source}' has weights of layers that its config.json does not have ({listed}): the two do not belong "
            "together; put the config.json beside the weights it was saved with"
        )
    console.print(f"[yellow]{source}: weights that a {type(hf).__name__} has no place for are left out: {listed}")


def _layer_of(name: str) -> str | None:
    """The layer that a weight belongs to, as in `model.layers.3`; None outside of layers."""
    found = re.match(r"(.*?\.\d+)\.", name)
    return found and found[1]


def attention() -> str:
    """Name the attention implementation to use.

    On a CPU the plain product and softmax: on some processors the bf16 backward pass of
    `scaled_dot_product_attention` is several times slower at these row lengths (see docs/decisions.md); elsewhere the
    latter.
    """
    return "sdpa" if torch.cuda.is_available() else "eager"


def save(model: LanguageModel, tokenizer: Any, folder: Path, card: str, heads: TaskHeads | None = None) -> None:
    """Write weights, configuration, tokenizer and model card as a folder that `transformers` loads; heads beside it."""
    with new_folder(folder) as temporary:
        model.hf.save_pretrained(temporary)
        save_tokenizer(tokenizer, temporary)
        if heads is not None:
            save_heads(heads, temporary, model.kind)
        (temporary / "README.md").write_text(card, encoding="utf-8")
