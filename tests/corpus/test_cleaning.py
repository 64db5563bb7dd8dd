"""Each source's rule by example, both behaviours; and cleaning in blocks equals cleaning the whole."""

import random
import re

import pytest

from tutelage.corpus import cleaning, reading
from tutelage.corpus.sources import cache_folder

GOLDEN = [
    # source, text, published, mended
    ("childes", "*MOT:\u00a0 okay  then .\n\nno\t, why ?\n", "*MOT: okay then.\n\nno, why?\n", None),
    ("aochildes", "a \u00a0\tb !\n", "a b!\n", None),
    ("bnc_spoken", "Yes .\n\nWell , no\n\n\nend\n", "Yes.Well, no\nend\n", "Yes.\n\nWell, no\n\n\nend\n"),
    ("cbt", "it 's Tom ’s , said he .\n`` no '' ' x\n", "it's Tom’s, said he.\n`` no '' ' x\n", None),
    ("children_stories", "A  b .\n\nC\n", "A  b .\n\nC\n", None),
    ("gutenberg", "A  b .\n\nC\n", "A  b .\n\nC\n", None),
    ("open_subtitles", "Hi.\nSUBTITLES by X\nsubtitled\nBye.\n", "Hi.\nBye.\n", None),
    ("open_subtitles", "Hi.\nThe Subtitle", "Hi.\nThe Subtitle", "Hi.\n"),
    ("qed", "HElLO WORlD.  ClEAN IT!  \n", "Heilo worid.  Ciean it!", "Heilo worid.  Ciean it!\n"),
    ("qed", "U.S.A. AND", "U.S.A. And", None),
    ("qed", " U.S.A. AND", "u.S.A. And", None),
    ("qed", "WHAT?!NO.\nWWW.AMARA.ORG", "What?!No.\nWww.Amara.Org", None),
    ("qed", "ONE\u2028TWO\x0cthree", "One\nTwo\nthree", None),
    ("qed", "(applause)\n...\n\n Fine (YES) line. \n", "(applause)\n...\n\nFine (YES) line.",
     "(applause)\n...\n\nFine (YES) line.\n"),
    ("simple_wiki", "= = = A = = =\n\nText.\n\n= = = B = = =\nMore.\n", "= = = A = = =Text.= = = B = = =\nMore.\n",
     "= = = A = = =\n\nText.\n\n= = = B = = =\nMore.\n"),
    ("simple_wikipedia", "x\n\n\ny\n", "x\ny\n", "x\n\n\ny\n"),
    ("switchboard", "A:  uh ,\n\n", "A:  uh ,\n\n", None),
    ("wikipedia", "\n= = = Anna = = =\n She ran. \n\n She won.\n\n= = = Bea = = =\nShe too.\n",
     "Anna She ran.She won.BeaShe too.", "\nAnna\nShe ran.\n\nShe won.\n\nBea\nShe too.\n"),
    ("wikipedia", "\nSee = = = Anna = = =\nShe ran.\x0b She won.", "See AnnaShe ran.\nShe won.",
     "\nSee Anna\nShe ran.\nShe won."),
    ("something_else", "A  b .\n\n", "A  b .\n\n", None),
]  # fmt: skip


@pytest.mark.parametrize(("source", "text", "published", "mended"), GOLDEN)
def test_rules_by_example(source, text, published, mended):
    assert cleaning.clean(text, source, "published") == published
    assert cleaning.clean(text, source, "mended") == (published if mended is None else mended)
    assert cleaning.clean(text, source, "none") == text


def test_capital_share_decides_at_half():
    assert cleaning.qed("ABcd") == "Abcd"
    assert cleaning.qed("ABcde") == "ABcde"
    # Brackets and points do not count towards the length.
    assert cleaning.qed("AB (small words) cd...") == "AB (small words) cd..."
    assert cleaning.qed("ABC (small words)d...") == "Abc (smaii words)d..."


def reference(text, source):
    """Restate the preparation of BabyLlama from its description, with nothing of the package."""

    def space(text):
        return re.sub("[ \t\xa0]([.,;!?])", r"\1", re.sub("[ \t\xa0]+", " ", text))

    if source in ("aochildes", "childes"):
        return space(text)
    if source == "bnc_spoken":
        return re.sub("\n\n", "", space(text))
    if source == "cbt":
        return re.sub("([\\w\\d])[ \t\xa0](['’]\\w)", r"\1\2", space(text))
    if source == "open_subtitles":
        return re.sub("^.*subtitle.*$\n", "", text, flags=re.MULTILINE | re.IGNORECASE)
    if source in ("simple_wiki", "simple_wikipedia"):
        return re.sub("\n\n", "", text)
    if source == "wikipedia":
        lines = [line.strip() for line in re.sub("= = = (.+?) = = =\n", r"\1", text).splitlines()]
        return re.sub("\n\n", "", "\n".join(lines)[1:])
    if source == "qed":
        lines = []
        for line in text.splitlines():
            body = re.sub(r"\(.*?\)|[.!?]", "", line)
            # Where the reference divides by zero, a line stays as it is.
            if body and sum(c.isupper() for c in body) / len(body) >= 0.5:
                pieces = re.split(r"([.!?]\s*)", line.replace("l", "I"))
                line = "".join(piece.capitalize() for piece in pieces)
            lines.append(line.strip())
        return "\n".join(lines)
    return text


BITS = ["\n", "\n\n", " ", "  ", "\t", "\u00a0", "a", "B", "lL", "WHY", "u.S.A. ", "What?!", "www.Amara.Org", ".",
        ",", "! ", "'s", "(", ")", "(ah)", "= = = T = = =\n", "= = = ", "= = = =", " subtitle ",
        "Subtitles by l", "x = = =\n", "\n   \n", "wörd", "ß", "’t", "\x0b",
        "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "İ", "ǆ"]  # fmt: skip


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", sorted(cleaning.PUBLISHED))
def test_published_equals_a_literal_restatement_of_the_reference(source, count):
    draw = random.Random(f"{source} {count}")
    for _ in range(count):
        text = "".join(draw.choices(BITS, k=draw.randrange(40)))
        expected = reference(text, source)
        assert cleaning.clean(text, source, "published") == expected, repr(text)
        blocks = (text[at : at + 7] for at in range(0, len(text), 7))
        assert "".join(cleaning.clean_blocks(blocks, source, "published", size=9)) == expected, repr(text)


@pytest.mark.parametrize("behaviour", ["published", "mended"])
@pytest.mark.parametrize("source", sorted(cleaning.PUBLISHED))
def test_blocks_equal_the_whole(source, behaviour):
    draw = random.Random(f"{source} {behaviour}")
    for _ in range(300):
        text = "".join(draw.choices(BITS, k=draw.randrange(60)))
        cuts = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(6)))
        stream = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        found = "".join(cleaning.clean_blocks(stream, source, behaviour, size=draw.randrange(1, 30)))
        assert found == cleaning.clean(text, source, behaviour), repr(text)


def test_blocks_are_bounded():
    stream = ("A line of text.\n\n" * 50 for _ in range(200))
    longest = max(map(len, cleaning.clean_blocks(stream, "gutenberg", "mended", size=4096)))
    assert longest < 4096 + 2 * 17 * 50


# Characters before and after cleaning, as BabyLlama's and BabyLlama-2's notebooks print them.
PRINTED = {
    "2023/10m": {
        "switchboard.train": (601_050, 601_050),
        "children_stories.train": (1_797_174, 1_797_174),
        "gutenberg.train": (5_745_126, 5_745_126),
        "wikipedia.train": (6_065_862, 6_008_082),
        "cbt.train": (2_627_694, 2_554_890),
        "open_subtitles.train": (16_433_872, 16_431_168),
        "bnc_spoken.train": (4_493_818, 4_463_546),
        "qed.train": (5_781_992, 5_682_028),
        "aochildes.train": (1_900_547, 1_820_547),
        "simple_wikipedia.train": (9_087_222, 9_064_456),
    },
    "2024/10m": {
        "switchboard.train": (719_322, 719_322),
        "gutenberg.train": (13_910_986, 13_910_986),
        "open_subtitles.train": (10_806_305, 10_804_026),
        "bnc_spoken.train": (4_883_879, 4_851_676),
        "childes.train": (15_482_927, 15_482_733),
        "simple_wiki.train": (8_411_630, 8_387_062),
    },
}


@pytest.mark.data
@pytest.mark.parametrize(("part", "name"), [(part, name) for part, files in PRINTED.items() for name in files])
def test_character_counts_are_the_published_ones(part, name):
    path = cache_folder() / "babylm" / part / name
    if not path.exists():
        pytest.skip(f"{path} is not there: run `tutelage prepare` on the corpus once")
    text = "".join(reading.blocks(path))
    assert (len(text), len(cleaning.clean(text, path.stem, "published"))) == PRINTED[part][name]
