"""Models that were not trained here, from any Hugging Face folder or hub id, as `tutelage evaluate` takes them.

Only safetensors weights and architectures that `transformers` itself carries: no pickles, no code from a model folder.
What can be refused without the weights is refused before they are read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast, __version__

from tutelage.base.errors import UserError
from tutelage.base.files import explain_disk_errors, fingerprint, read_json
from tutelage.base.network import check_address
from tutelage.base.progress import console, human
from tutelage.base.run_folder import check_exported
from tutelage.corpus.tokenizer import tokenizer_id, vocabulary_size
from tutelage.evaluation.benchmarks.conventions import Convention
from tutelage.models.build import language_model, read_weights
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import ModelKind, is_path
from tutelage.teaching import outside

Reads = ModelKind | Literal["mntp"]
"""How a model reads; `mntp`: a causal one that learned to read rows whole, and masked tokens at the place before."""
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What is fetched from a hub repository; only files at its top."""
PROBES = ("The quick brown fox jumps over the lazy dog.", " It's 3.5 %, isn't it?", "A naïve café –\nTwo lines.")
"""Texts on which a tokenizer as loaded is compared with its own file."""


@dataclass(frozen=True)
class ExternalModel:
    """A model that is about to be evaluated; its weights are not read yet."""

    source: str
    """Folder or hub id, as it was given."""
    label: str
    """Its name in tables."""
    folder: Path
    kind: Reads
    architecture: str
    """The family, such as `llama`."""
    tokenizer: PreTrainedTokenizerFast
    identity: str
    """Digest of its weights and configuration, or hub id and commit."""
    remarks: tuple[str, ...]
    """What a reader of its scores must know."""

    def load(self) -> LanguageModel:
        """Read the weights.

        The model keeps its whole output layer, also where that is wider than the tokenizer: its softmax was trained
        over all of it, and every other harness computes it so.

        Raises:
            UserError: weights that are missing or do not fit, or a model that cannot be scored here.
        """
        if self.kind != "mntp":
            return language_model(read_weights(str(self.folder), self.kind), self.kind, None)
        hf = read_weights(str(self.folder), "causal")
        hf.config.is_causal = False
        return language_model(hf, "masked", None)

    @property
    def tokenizer_id(self) -> str:
        """Digest of how the tokenizer encodes, and of the tokens around a text."""
        frames = [self.tokenizer(text, verbose=False)["input_ids"] for text in PROBES]
        specials = {name: getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "mask")}
        return fingerprint([tokenizer_id(self.tokenizer), frames, specials])


def open_models(
    sources: Sequence[str], convention: Convention, kind: Reads | None, revision: str | None
) -> list[ExternalModel]:
    """Find models, fetch those of the hub, and check everything but the weights.

    Args:
        sources: folders and hub ids, each once.
        convention: the year's rules, which may need special tokens.
        kind: by default as their configuration says.
        revision: branch, tag or commit of hub models.

    Raises:
        UserError: see the parts; also a model named twice.
    """
    if len(set(sources)) < len(sources):
        raise UserError(f"a model is named twice: {', '.join(sources)}")
    folders = [_locate(source, revision) for source in sources]
    named = zip(sources, _labels(sources, revision), folders, strict=True)
    return [_open(*one, convention, kind) for one in named]


def _open(source: str, label: str, folder: Path, convention: Convention, kind: Reads | None) -> ExternalModel:
    config = _config(folder)
    reads = kind or _kind(config, source)
    tokenizer, remarks = _tokenizer(folder, source)
    _check_specials(tokenizer, reads, convention, source)
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None and vocabulary_size(tokenizer) > vocabulary:
        extra = sorted(token for token, index in tokenizer.get_vocab().items() if index >= vocabulary)
        remarks.append(f"its tokenizer has tokens that the model does not know ({', '.join(map(repr, extra[:3]))})")
    identity = outside.identity(str(folder.absolute())) if is_path(source) else f"{source}@{folder.name}"
    return ExternalModel(source, label, folder, reads, str(config.model_type), tokenizer, identity, tuple(remarks))


# --- files


def _locate(source: str, revision: str | None) -> Path:
    """Return a model's folder, downloaded where it is of the hub."""
    if not is_path(source):
        return _download(source, revision)
    folder = Path(source).expanduser()
    if revision is not None:
        raise UserError(f"{source} is a folder, and a revision ('{revision}') is one of a hub model; leave it out")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a model's folder or a hub id such as owner/name")
    if not (folder / "config.json").is_file():
        remedy = "give the folder that `save_pretrained` wrote; of a run, `runs/NAME/MODEL/seed-0/hf`"
        if (folder / "adapter_config.json").is_file():
            remedy = "it is an adapter: merge it into its base model (`model.merge_and_unload()`, `save_pretrained`)"
        raise UserError(f"{folder} is no model folder, it has no config.json: {remedy}")
    if not any(folder.glob("*.safetensors")):
        remedy = "copy model.safetensors beside config.json"
        if others := sorted(file.name for end in ("bin", "pt", "pth", "h5") for file in folder.glob(f"*.{end}")):
            remedy = (
                f"{others[0]} is in a format that can run code when it is read; where you trust it, load it with "
                "transformers and write it again with `save_pretrained`"
            )
        raise UserError(f"{folder} has no weights (*.safetensors): {remedy}")
    check_exported(folder)
    return folder


def _download(source: str, revision: str | None) -> Path:
    """Fetch a hub model's files, those that are not here yet; without a network those that are here do."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils.tqdm import enable_progress_bars

    check_address(ENDPOINT)
    fetch = partial(snapshot_download, source, revision=revision, allow_patterns=list(FILES), ignore_patterns=["*/*"])
    try:
        found = HfApi().model_info(source, revision=revision, files_metadata=True).siblings or []
    except Exception as error:  # many kinds: no such model, gated, no network
        try:
            return Path(str(fetch(local_files_only=True)))
        except Exception:
            raise UserError(
                f"'{source}' is no folder, and cannot be reached on the hub: {_first_line(error)}. Check the name; a "
                "gated model needs `hf auth login`; without a network, copy its folder here"
            ) from error
    files = [file for file in found if "/" not in file.rfilename]
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise UserError(
            f"the hub model '{source}' has no safetensors weights, and other formats can run code when they are read; "
            "ask its authors for them (the hub converts on request), or write them yourself with `save_pretrained`"
        )
    size = sum(file.size or 0 for file in files if Path(file.rfilename).suffix in (".json", ".safetensors"))
    console.print(f"{source}: {human(size)}B on the hub; what is not here yet is downloaded")
    # transformers' bars are switched off elsewhere, and with them the hub's.
    enable_progress_bars()
    with explain_disk_errors(Path.home()):
        try:
            return Path(str(fetch()))
        except OSError:
            raise
        except Exception as error:
            raise UserError(f"downloading '{source}' failed: {_first_line(error)}; the same command resumes") from error


def _labels(sources: Sequence[str], revision: str | None) -> list[str]:
    """Short names: hub ids whole, of folders as much of the end of their path as tells them apart."""
    parts = [Path(s).expanduser().absolute().parts if is_path(s) else (s,) for s in sources]
    # `hf` is what every trained model's folder is called.
    parts = [found[:-1] if found[-1] == "hf" and len(found) > 2 else found for found in parts]
    labels = []
    for found in parts:
        length = 1
        while length < len(found) and sum(other[-length:] == found[-length:] for other in parts) > 1:
            length += 1
        length += found[-1].startswith("seed-") and length < min(2, len(found))
        labels.append("/".join(found[-length:]) + ("" if revision is None else f"@{revision}"))
    return labels


# --- configuration


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # an unknown architecture, a broken file, code of its own
        settings = read_json(folder / "config.json")
        if isinstance(settings, dict) and "auto_map" in settings:
            raise UserError(
                f"{folder}: the architecture '{settings.get('model_type')}' is code of the model's own, which is never "
                "run here; only architectures that transformers carries can be evaluated"
            ) from error
        made = settings.get("transformers_version") if isinstance(settings, dict) else None
        by = f"saved by transformers {made}; this is {__version__}" if made else f"this is transformers {__version__}"
        raise UserError(f"{folder}: its config.json cannot be used ({by}): {_first_line(error)}") from error


def _kind(config: Any, source: str) -> Reads:
    """Tell causal models from masked ones by the architectures its configuration names."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    )

    names = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{source} is an encoder-decoder model ({config.model_type}): causal and masked ones are scored"
        )
    causal, masked = map(_names, (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES))
    for name in names:
        if name in causal | masked:
            both_ways = getattr(config, "is_causal", True) is False
            return "masked" if name in masked else "mntp" if both_ways else "causal"
    # What was saved with another head beside it, as BertForPreTraining.
    if (
        set(names) & _names(MODEL_FOR_PRETRAINING_MAPPING_NAMES)
        and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        return "masked"
    told = f"names {', '.join(names)}, which is no language model" if names else "names no architecture"
    raise UserError(f"{source}: its config.json {told}; say what it is: --kind causal, or --kind masked")


def _names(mapping: Any) -> set[str]:
    return {name for names in mapping.values() for name in (names if isinstance(names, tuple) else (names,))}


# --- tokenizer


def _tokenizer(folder: Path, source: str) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Load a model's own tokenizer, and say where its class and its file disagree."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # none there, an unknown format, code of its own
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
            remedy = "copy the one it was trained with beside its config.json"
            raise UserError(f"{source} has no tokenizer (tokenizer.json): {remedy}") from error
        raise UserError(
            f"the tokenizer of {source} cannot be loaded by transformers {__version__}: {_first_line(error)}. If "
            "another version wrote it, load it there and write it again with `tokenizer.save_pretrained`, or copy the "
            "tokenizer.json it was trained with beside its config.json, without tokenizer_config.json"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(
            f"{source} has no fast tokenizer, and scoring needs to know which characters each token covers: convert it "
            "to a tokenizer.json (`PreTrainedTokenizerFast`)"
        )
    return tokenizer, _disagreement(tokenizer, folder)


def _disagreement(tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[str]:
    """Compare a tokenizer with its file: classes of some versions of transformers rebuild parts of it."""
    if not (folder / "tokenizer.json").is_file():
        return []
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    for text in PROBES:
        ours = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if ours != plain.encode(text, add_special_tokens=False).ids:
            return [
                f"its {type(tokenizer).__name__} tokenizes {text[:20]!r}... otherwise than its tokenizer.json says; "
                "the class is followed, as in other harnesses (delete tokenizer_config.json to follow the file)"
            ]
    return []


def _check_specials(tokenizer: PreTrainedTokenizerFast, kind: Reads, convention: Convention, source: str) -> None:
    if kind != "causal" and tokenizer.mask_token_id is None:
        raise UserError(
            f"the tokenizer of {source} has no mask token, without which a masked model cannot be scored: name it in "
            "tokenizer_config.json (`mask_token`), or say --kind causal if the model is causal"
        )
    starts = convention.causal.start if kind == "causal" else ()
    if starts and all(getattr(tokenizer, f"{name}_token_id") is None for name in starts):
        raise UserError(
            f"the convention of {convention.name} starts every sentence with the {' or '.join(starts)} token, and the "
            f"tokenizer of {source} has none: choose --convention 2025, or name the token in tokenizer_config.json"
        )


def missing_characters(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[str, int]:
    """Return characters of some texts that a tokenizer cannot write, and in how many texts they stand.

    A character is missing if by itself it becomes the unknown token, or nothing. Spaces and combining marks are left
    out: normalizers may join them to their neighbours.
    """
    letters = [c for c in sorted({*chain(*texts)}) if not c.isspace() and not unicodedata.combining(c)]
    encoded = tokenizer(letters, add_special_tokens=False, verbose=False)["input_ids"] if letters else []
    missing = {c for c, ids in zip(letters, encoded, strict=True) if not ids or tokenizer.unk_token_id in ids}
    return "".join(sorted(missing)), sum(not missing.isdisjoint(text) for text in texts)


def _first_line(error: Exception) -> str:
    """Return the first line of an error that says something; its class where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
