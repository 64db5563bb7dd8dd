"""Examples of a study; they live beside the corpora made of them, see `corpus.examples`."""

from tutelage.corpus.examples import KINDS as KINDS
from tutelage.corpus.examples import Example as Example
from tutelage.corpus.examples import Label as Label
from tutelage.corpus.examples import example_of as example_of
from tutelage.corpus.examples import read_examples as read_examples
from tutelage.corpus.examples import write_examples as write_examples
