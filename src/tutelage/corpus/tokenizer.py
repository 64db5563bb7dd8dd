"""The tokenizer: byte-level BPE as in the papers, or an existing one; saved so that it behaves the same everywhere.

BabyLlama trained with a space before every line and, under transformers 4, encoded without one; transformers 5 reads
the same file the other way round when the class is GPT-2's. Here the choice stands in the saved pre-tokenizer, and the
folder names the generic fast class, which changes nothing when it loads.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tutelage import recipe
from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.hub import check_hub
from tutelage.base.threads import beside_main

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_CHECKED: set[tuple[str, str]] = set()
"""Architectures and tokenizers that were found to go together."""
BASE_TOKENS = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2, as in the papers
LONGEST = 4096
"""Characters of a word; a longer one (damaged text, data within text) is cut for training, which takes minutes for one
of a million characters."""
FRAME = ("<cls>", "<sep>")  # what `separator: brackets` puts before and behind a text
_ROLES = {
    "pad_token": ("<pad>", "[PAD]", "<|padding|>"),
    "bos_token": ("<s>", "[BOS]", "<|begin_of_text|>", "<|endoftext|>"),
    "eos_token": ("</s>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "unk_token": ("<unk>", "[UNK]"),
    "mask_token": ("<mask>", "[MASK]"),
    "cls_token": ("<cls>", "[CLS]"),
    "sep_token": ("<sep>", "[SEP]"),
}


def train(
    lines: Iterable[str], options: recipe.Tokenizer, framed: bool = False, notes: list[str] | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (NFKC, GPT-2's splitting) on lines of text, their newlines included.

    Lines rather than texts are the unit because that is how a file is read in the reference: with `prefix_space`
    other than `none`, each line then begins with a space. `framed` lets the tokenizer put `<cls>` and `<sep>` around
    texts and between two, as the corpus has them. `notes` gets a line about words that were cut (`LONGEST`).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    reserved = [*BASE_TOKENS, *options.extra_tokens]
    if framed and not set(FRAME) <= set(reserved):
        raise UserError(f"data.separator=brackets needs {' and '.join(FRAME)} among data.tokenizer.extra_tokens")
    if len(set(reserved)) < len(reserved):
        raise UserError(f"data.tokenizer.extra_tokens: {list(options.extra_tokens)} repeat a reserved token {reserved}")
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options.prefix_space != "none")
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=reserved,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if options.alphabet == "bytes" else [],
        show_progress=False,
    )
    long = list[int]()
    pieces = _pieces(lines, long)
    batches = iter(lambda: list(itertools.islice(pieces, 1000)), [])
    beside_main(lambda: backend.train_from_iterator(batches, trainer))
    if long and notes is not None:
        notes.append(f"words of more than {LONGEST:,} characters were cut to train the tokenizer ({len(long):,}, the "
                     f"longest of {max(long):,}): the text is damaged, or written without spaces")  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options.prefix_space == "always")
    if framed:
        cls, sep = FRAME
        frame = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B {sep}",
            special_tokens=[(token, backend.token_to_id(token)) for token in FRAME],
        )
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), frame])
    return _wrapped(backend)


def _pieces(lines: Iterable[str], long: list[int]) -> Iterator[str]:
    """Cut lines inside their very long words, whose lengths go to `long`."""
    for line in lines:
        begin = 0
        # Most lines are shorter than any word that is to be cut.
        for word in re.finditer(r"\S++", line) if len(line) > LONGEST else ():
            if len(word[0]) > LONGEST:
                long.append(len(word[0]))
                for end in range(word.start() + LONGEST, word.end(), LONGEST):
                    yield line[begin:end]
                    begin = end
        yield line[begin:]


def load(path: str) -> PreTrainedTokenizerFast:
    """Load an existing fast tokenizer: a folder, a `tokenizer.json`, or a hub id.

    Raises:
        UserError: nothing there, or a tokenizer without a fast form or with code of its own.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    local = Path(path).expanduser()
    if local.is_file():
        try:
            return _wrapped(Tokenizer.from_file(str(local)))
        except Exception as error:  # the library raises bare exceptions
            raise UserError(f"data.tokenizer.path: {local} is not a tokenizer.json ({error})") from error
    if not local.is_dir():
        if recipe.is_path(path):
            raise UserError(f"data.tokenizer.path: no tokenizer at '{path}': there is no such folder or file")
        try:
            check_hub(path)
        except UserError as error:
            raise UserError(f"data.tokenizer.path: no folder '{path}', and {error}") from error
    try:
        # Without trust_remote_code, transformers asks the user and runs code from the hub on a "y".
        tokenizer = AutoTokenizer.from_pretrained(str(local) if local.is_dir() else path, trust_remote_code=False)
    except Exception as error:  # many kinds: nothing there, a broken file, a class that its file does not fit
        fault = f"no tokenizer that can be loaded at '{path}', neither as a folder nor on the Hugging Face hub: {error}"
        if "trust_remote_code" in str(error):
            fault = f"'{path}' needs code of its own, which is never run here; give the path of a tokenizer.json"
        raise UserError(f"data.tokenizer.path: {fault}") from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(f"data.tokenizer.path: '{path}' has no fast tokenizer (tokenizer.json); convert it first")
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many ids a model needs: the highest and one, more than there are where ids have holes."""
    highest: int = max(tokenizer.get_vocab().values())
    return highest + 1


def save(tokenizer: PreTrainedTokenizerFast, folder: Path, probe: Sequence[str] = ()) -> None:
    """Write a folder that `AutoTokenizer` loads, in transformers 4 and 5, to the same behaviour.

    A config.json that lies there already has its say in how the tokenizer is loaded. `probe` is text of the corpus.

    Raises:
        UserError: the tokenizer does not survive saving (its class, or the model's, does more than its files tell).
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(folder))
    settings = files.read_json(folder / "tokenizer_config.json")
    # The name every version knows; model-specific classes rebuild parts of the tokenizer when they load.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    files.write_json(folder / "tokenizer_config.json", settings)
    loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)

    def ids(one: PreTrainedTokenizerFast) -> list[list[int]]:
        return [one(text, add_special_tokens=False, verbose=False)["input_ids"] for text in probe]

    if tokenizer_id(loaded) != tokenizer_id(tokenizer) or ids(loaded) != ids(tokenizer):
        raise UserError(f"the tokenizer '{tokenizer.name_or_path}' ({type(tokenizer).__name__}) encodes differently "
                        f"once saved and loaded again as {type(loaded).__name__}; give data.tokenizer.path its "
                        "tokenizer.json instead")  # fmt: skip


def check_beside(tokenizer: PreTrainedTokenizerFast, config: Any) -> None:
    """Make sure that a tokenizer works as it should beside a model's configuration, before the model is trained.

    transformers loads the tokenizers of some architectures by classes of their own, which rebuild parts of them.

    Raises:
        UserError: it does not.
    """
    key = (str(config.model_type), tokenizer_id(tokenizer))
    if key in _CHECKED:
        return
    with TemporaryDirectory() as folder:
        files.write_json(Path(folder) / "config.json", {"model_type": config.model_type})
        try:
            save(tokenizer, Path(folder))
        except UserError as error:
            raise UserError(
                f"a model of type '{config.model_type}' cannot be exported with the recipe's tokenizer, since "
                "transformers would load another one beside it: take another architecture, or that model's own "
                f"tokenizer (data.tokenizer.path). {error}"
            ) from error
    _CHECKED.add(key)


def tokenizer_id(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a digest of how a tokenizer encodes.

    Vocabulary by string, merges, normalizer, pre-tokenizer and added tokens count: equal digests mean equal ids for
    every text. Padding, truncation and what frames a text do not.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = sorted((token["content"], token["id"], token["special"]) for token in state["added_tokens"])
    behaviour = {key: state[key] for key in ("normalizer", "pre_tokenizer", "model")}
    return files.fingerprint(behaviour | {"added_tokens": added})


def lost_bytes(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Return the bytes that a byte-level tokenizer would drop without a word, because training never saw them.

    Empty for other kinds of tokenizer, which have an unknown token or a byte fallback instead.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    backend = tokenizer.backend_tokenizer
    if "ByteLevel" not in backend.to_str(pretty=False).partition('"model"')[0]:
        return frozenset()
    vocabulary = backend.get_vocab()
    return frozenset(byte for byte, letter in bytes_to_unicode().items() if letter not in vocabulary)


def _wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    known = {role: [n for n in names if backend.token_to_id(n) is not None] for role, names in _ROLES.items()}
    roles = {role: names[0] for role, names in known.items() if names}
    # Without token types, which a Llama's `generate` refuses.
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False,
                                   model_input_names=inputs, **roles)  # fmt: skip
