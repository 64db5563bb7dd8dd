"""Each source's rule by example, both behaviours; and cleaning in blocks equals cleaning the whole."""

import random

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
    ("open_subtitles", "Hi.\nThe Subtitle", "Hi.\n", None),
    ("qed", "HElLO WORlD.  ClEAN IT!  \n", "Heilo worid. Ciean it!\n", None),
    ("qed", "(applause)\n...\n\n Fine (YES) line. \n", "(applause)\n...\n\nFine (YES) line.\n", None),
    ("simple_wiki", "= = = A = = =\n\nText.\n\n= = = B = = =\nMore.\n", "= = = A = = =Text.= = = B = = =\nMore.\n",
     "= = = A = = =\n\nText.\n\n= = = B = = =\nMore.\n"),
    ("simple_wikipedia", "x\n\n\ny\n", "x\ny\n", "x\n\n\ny\n"),
    ("switchboard", "A:  uh ,\n\n", "A:  uh ,\n\n", None),
    ("wikipedia", "\n= = = Anna = = =\n She ran. \n\n She won.\n\n= = = Bea = = =\nShe too.\n",
     "Anna She ran.She won.BeaShe too.\n", "\nAnna\nShe ran.\n\nShe won.\n\nBea\nShe too.\n"),
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


@pytest.mark.parametrize("behaviour", ["published", "mended"])
@pytest.mark.parametrize("source", sorted(cleaning.PUBLISHED))
def test_blocks_equal_the_whole(source, behaviour):
    draw = random.Random(f"{source} {behaviour}")
    bits = ["\n", "\n\n", " ", "\t", "\u00a0", "a", "B", "lL", ".", ",", "'s", "(", ")", "= = = T = = =\n", "= = = ",
            "= = = =", " subtitle ", "x = = =\n", "\n   \n", "wörd", "’t"]  # fmt: skip
    for _ in range(300):
        text = "".join(draw.choices(bits, k=draw.randrange(60)))
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
