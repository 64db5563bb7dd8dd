"""Models from outside a recipe: Hugging Face folders and hub ids, checked before anything is trained with them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tutelage.base.checksums import sha256_once
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import fingerprint
from tutelage.base.hub import check_hub
from tutelage.base.run_folder import check_exported
from tutelage.models.build import load
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import ModelKind, Teacher, is_path
from tutelage.teaching.teachers import check_same_vocabulary


def check(teacher: Teacher, tokenizer: Any, known: Iterable[str]) -> None:
    """Make sure that a teacher from outside exists and shares the recipe's vocabulary, without loading its weights.

    Its name may be a misspelling of one of the recipe's models, those `known`.

    Raises:
        UserError: nothing of that name, no tokenizer, or another vocabulary.
    """
    check_vocabulary(teacher.model, tokenizer, known)


def check_vocabulary(source: str, tokenizer: Any, known: Iterable[str] = ()) -> None:
    """Make sure that an outside model gives the same ids to the same strings; see `check`."""
    check_same_vocabulary(tokenizer, _tokenizer_of(source, known), source)


def load_teacher(teacher: Teacher, tokenizer: Any, reads: ModelKind, row_length: int) -> LanguageModel:
    """Load a teacher from outside the recipe."""
    check(teacher, tokenizer, ())
    return load(teacher.model, tokenizer, reads, row_length)


def identity(source: str) -> str:
    """Return a digest of a folder's configuration and weights, or the commit of a hub model."""
    path = Path(source).expanduser()
    if is_path(source):
        files = [path / "config.json", *sorted(path.glob("*.safetensors"))]
        if not files[0].is_file():
            raise UserError(f"{path} is no model folder (any more): it has no config.json. A run that depends on it "
                            "cannot be checked without it: put it back")  # fmt: skip
        check_exported(path)
        return fingerprint([sha256_once(file) for file in files])
    return f"{source}@{_commit(source)}"


@lru_cache(maxsize=64)
def _commit(source: str) -> str | None:
    from transformers import AutoConfig

    check_hub(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # many kinds: no such model, no network
        raise UserError(f"'{source}' is neither a folder nor a hub model that can be reached: {error}") from error
    return getattr(config, "_commit_hash", None)


def _tokenizer_of(source: str, known: Iterable[str]) -> Any:
    from transformers import AutoTokenizer

    path = Path(source).expanduser()
    if is_path(source):
        if not (path / "config.json").is_file():
            raise UserError(f"teacher '{source}' is no model folder: it has no config.json")
        check_exported(path)
        if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
            raise UserError(f"teacher '{source}' has no tokenizer (tokenizer.json): its vocabulary cannot be compared; "
                            "`tokenizer.save_pretrained` puts it there")  # fmt: skip
    else:
        check_hub(source)
    try:
        return AutoTokenizer.from_pretrained(str(path) if path.exists() else source, trust_remote_code=False)
    except Exception as error:  # many kinds: no such model, no network, a broken file
        raise UserError(
            f"teacher '{source}' is no model of this recipe{nearest(source, known)} and cannot be loaded from a folder "
            f"or the hub: {error}"
        ) from error
