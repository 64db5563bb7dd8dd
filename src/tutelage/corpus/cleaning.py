"""Cleaning rules of the BabyLM sources: one function a source, `str -> str`.

A new source is one more function here and a line in `PUBLISHED` (or `MENDED`). A recipe can also name a function of its
own (`data.cleaning: package.module:function`), which then cleans every text.

`published` does what BabyLlama's preparation did (Timiryasov and Tastet 2023, repository), paragraphs and articles
glued together included, because results depend on it; only its division by zero on some QED lines could not be kept.
`mended` applies the same rules but keeps paragraphs and documents apart. HTML and non-verbal cues are not removed by
either, although the paper says so.

Every rule looks at a line or at a run of newlines, so text may be cleaned in blocks: `clean_blocks` cuts where no rule
can see across.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from tutelage.base.functions import is_function_name, load_function

Cleaner = Callable[[str], str]

_BLANKS = re.compile("[ \t\u00a0]+")
_BLANK_BEFORE_POINT = re.compile("[ \t\u00a0]([.,;!?])")
_BLANK_BEFORE_APOSTROPHE = re.compile("(\\w)[ \t\u00a0](['’]\\w)")
_SUBTITLE_LINE = re.compile("^.*subtitle.*(?:\n|\\Z)", re.IGNORECASE | re.MULTILINE)
_TITLE_LINE = re.compile("^= = = (\\S(?:.*\\S)?) = = =\n", re.MULTILINE)
_BRACKETS = re.compile(r"\([^)]*\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


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
    """Drop every line that mentions subtitles (credits of those who made them)."""
    return _SUBTITLE_LINE.sub("", text)


def qed(text: str) -> str:
    """Write lines in capitals in lower case, with `l` read as `I` where character recognition mistook it."""
    return "\n".join(_qed_line(line) for line in text.split("\n"))


def wikipedia(text: str) -> str:
    """Glue titles to the text and paragraphs to each other, strip lines (see `drop_first` for the file's start)."""
    return glued(_stripped_lines(_TITLE_LINE.sub(r"\1", text)))


def wikipedia_mended(text: str) -> str:
    """Free titles of their `= = =`, each on its own line, and strip lines; paragraphs stay apart."""
    return _stripped_lines(_TITLE_LINE.sub("\\1\n", text))


def unchanged(text: str) -> str:
    """Return the text as it is."""
    return text


def drop_first(text: str) -> str:
    """Drop the first character of a file (published wikipedia; there it is a newline)."""
    return text[1:]


def glued(text: str) -> str:
    """Delete double newlines, which glues articles (simple_wikipedia; titles stay between their `= = =`)."""
    return text.replace("\n\n", "")


def _stripped_lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n"))


def _qed_line(line: str) -> str:
    spoken = re.sub("[.!?]", "", _BRACKETS.sub("", line))
    # The published rule divides by this length and fails on lines of brackets and points alone.
    if spoken and 2 * sum(letter.isupper() for letter in spoken) >= len(spoken):
        line = " ".join(sentence.capitalize() for sentence in _SENTENCE_END.split(line.replace("l", "I")))
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
    cleaned = cleaner(source, behaviour)
    if cleaned is wikipedia:
        # The rules come first, then the first character goes, then double newlines: the order is part of the result.
        return glued(drop_first(_stripped_lines(_TITLE_LINE.sub(r"\1", text))))
    return cleaned(text)


def clean_blocks(blocks: Iterable[str], source: str, behaviour: str, size: int = 1 << 20) -> Iterator[str]:
    """Clean a stream of text in blocks of about `size` characters; together they equal `clean` of the whole."""
    cleaned = cleaner(source, behaviour)
    for number, block in enumerate(_cut(blocks, size)):
        if text := cleaned(block) if number else clean(block, source, behaviour):
            yield text


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

    Such a line is not blank, so that runs of newlines stay whole on its left; and the line before it is no title, which
    a rule would join with it.
    """
    end = text.rfind("\n")
    while end > 0:
        begin = text.rfind("\n", 0, end) + 1
        following = text.find("\n", end + 1)
        line = text[end + 1 : following if following >= 0 else None]
        if line.strip() and not text.startswith("= = =", begin):
            return end + 1
        end = begin - 1
    return 0
