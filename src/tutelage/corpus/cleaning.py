"""Cleaning rules of the BabyLM sources: one function a source, `str -> str`.

A new source is one more function here and a line in `PUBLISHED` (or `MENDED`). A recipe can also name a function of its
own (`data.cleaning: package.module:function`), which then cleans every text.

`published` does what BabyLlama's preparation did (Timiryasov and Tastet 2023, repository, `mrclean.py`), paragraphs
and articles glued together included, because results depend on it; only its division by zero on some QED lines could
not be kept. `mended` applies the same rules but keeps paragraphs and documents apart. HTML and non-verbal cues are not
removed by either, although the paper says so.

Every rule looks at a line or at a run of newlines, so text may be cleaned in blocks: `clean_blocks` cuts where no rule
can see across. Two rules also treat the ends of a file in their own way; they are told which block has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from tutelage.base.functions import is_function_name, load_function

Cleaner = Callable[[str], str]

_BLANKS = re.compile("[ \t\u00a0]+")
_BLANK_BEFORE_POINT = re.compile("[ \t\u00a0]([.,;!?])")
_BLANK_BEFORE_APOSTROPHE = re.compile("(\\w)[ \t\u00a0](['’]\\w)")
_SUBTITLE_LINE = re.compile("^.*subtitle.*\n", re.IGNORECASE | re.MULTILINE)
_LAST_SUBTITLE_LINE = re.compile("^.*subtitle.*\\Z", re.IGNORECASE | re.MULTILINE)
_TITLE = re.compile("= = = (.+?) = = =\n")
_UNSPOKEN = re.compile(r"\(.*?\)|[.!?]")
_SENTENCE_END = re.compile(r"([.!?]\s*)")

REVISED = ("open_subtitles", "qed", "wikipedia")
"""Sources whose rules changed with `differences.METHOD` 2."""


def spacing(text: str) -> str:
    """Collapse each run of blanks and drop the blank before `. , ; ! ?` (childes, and a part of others)."""
    return _BLANK_BEFORE_POINT.sub(r"\1", _BLANKS.sub(" ", text))


def bnc_spoken(text: str) -> str:
    """Mend the spacing and delete double newlines, which glues paragraphs."""
    return glued(spacing(text))


def cbt(text: str) -> str:
    """Mend the spacing, also before apostrophes: `it 's` becomes `it's`."""
    return _BLANK_BEFORE_APOSTROPHE.sub(r"\1\2", spacing(text))


def open_subtitles(text: str) -> str:
    """Drop every line that mentions subtitles (credits of those who made them), but a last one without its newline."""
    return _SUBTITLE_LINE.sub("", text)


def open_subtitles_mended(text: str) -> str:
    """Drop every line that mentions subtitles, the last one too."""
    return _LAST_SUBTITLE_LINE.sub("", open_subtitles(text))


def qed(text: str, last: bool = True) -> str:
    """Write lines in capitals in lower case, with `l` read as `I` where character recognition mistook it.

    `last`: whether the text ends its file, which loses its last newline.
    """
    return _by_line(text, _qed_line, last)


def qed_mended(text: str) -> str:
    """Do the same, and keep the last newline."""
    return qed(text, last=False)


def wikipedia(text: str, first: bool = True, last: bool = True) -> str:
    """Glue titles to the text and paragraphs to each other, strip lines.

    `first` and `last`: whether the text begins and ends its file, which loses its first character and last newline.
    """
    stripped = _by_line(_TITLE.sub(r"\1", text), str.strip, last)
    return glued(stripped[1:] if first else stripped)


def wikipedia_mended(text: str) -> str:
    """Free titles of their `= = =`, each on its own line, and strip lines; paragraphs stay apart."""
    return _by_line(_TITLE.sub("\\1\n", text), str.strip, last=False)


def unchanged(text: str) -> str:
    """Return the text as it is."""
    return text


def glued(text: str) -> str:
    """Delete double newlines, which glues articles (simple_wikipedia; titles stay between their `= = =`)."""
    return text.replace("\n\n", "")


def _by_line(text: str, change: Cleaner, last: bool) -> str:
    """Change each line, cut at every separator that `str.splitlines` knows; the last newline goes with `last`."""
    ended = text[-1:].splitlines() == [""]
    return "\n".join(map(change, text.splitlines())) + ("\n" if ended and not last else "")


def _qed_line(line: str) -> str:
    spoken = _UNSPOKEN.sub("", line)
    # The published rule divides by this length and fails on lines of brackets and points alone.
    if spoken and 2 * sum(letter.isupper() for letter in spoken) >= len(spoken):
        line = "".join(part.capitalize() for part in _SENTENCE_END.split(line.replace("l", "I")))
    return line.strip()


PUBLISHED: dict[str, Cleaner] = {
    "aochildes": spacing,
    "bnc_spoken": bnc_spoken,
    "cbt": cbt,
    "childes": spacing,
    "children_stories": unchanged,
    "gutenberg": unchanged,
    "open_subtitles": open_subtitles,
    "qed": qed,
    "simple_wiki": glued,
    "simple_wikipedia": glued,
    "switchboard": unchanged,
    "wikipedia": wikipedia,
}
MENDED: dict[str, Cleaner] = PUBLISHED | {
    "bnc_spoken": spacing,
    "open_subtitles": open_subtitles_mended,
    "qed": qed_mended,
    "simple_wiki": unchanged,
    "simple_wikipedia": unchanged,
    "wikipedia": wikipedia_mended,
}
BEHAVIOURS: dict[str, dict[str, Cleaner]] = {"none": {}, "mended": MENDED, "published": PUBLISHED}


def cleaner(source: str, behaviour: str) -> Cleaner:
    """Return the rules of a source by its name, or a recipe's own function; unknown sources are left alone."""
    if is_function_name(behaviour):
        return load_function(behaviour)
    return BEHAVIOURS[behaviour].get(source, unchanged)


def clean(text: str, source: str, behaviour: str) -> str:
    """Clean the whole text of a file at once."""
    return cleaner(source, behaviour)(text)


def clean_blocks(blocks: Iterable[str], source: str, behaviour: str, size: int = 1 << 20) -> Iterator[str]:
    """Clean a stream of text in blocks of about `size` characters; together they equal `clean` of the whole."""
    cleaned, parts, first = cleaner(source, behaviour), _cut(blocks, size), True
    part = next(parts, None)
    while part is not None:
        following = next(parts, None)
        if text := _clean_part(cleaned, part, first, following is None):
            yield text
        part, first = following, False


def _clean_part(cleaned: Cleaner, part: str, first: bool, last: bool) -> str:
    if cleaned is wikipedia:
        return wikipedia(part, first, last)
    return qed(part, last) if cleaned is qed else cleaned(part)


def _cut(blocks: Iterable[str], size: int) -> Iterator[str]:
    """Cut a stream at safe places, at least `size` characters apart."""
    waiting, enough = "", size
    for block in blocks:
        waiting += block
        if len(waiting) < enough:
            continue
        if place := _safe_place(waiting):
            yield waiting[:place]
            waiting, enough = waiting[place:], size
        else:
            # Looking again only when it has doubled keeps the search linear on hostile files.
            enough = 2 * len(waiting)
    if waiting:
        yield waiting


def _safe_place(text: str) -> int:
    """Return the last start of a line at which no rule sees across, or 0.

    Such a line begins with something visible that is no title, so that runs of newlines stay whole on its left; and the
    line before it ends in no title, which a rule would join with it.
    """
    end = text.rfind("\n")
    while end > 0:
        begin = text.rfind("\n", 0, end) + 1
        following = text.find("\n", end + 1)
        line = text[end + 1 : following if following >= 0 else None]
        opening = line.splitlines()[0].strip() if line else ""
        # The last line may not be whole yet: a title shows by its first character.
        if opening and opening[0] != "=" and not text.endswith("= = =", begin, end):
            return end + 1
        end = begin - 1
    return 0
