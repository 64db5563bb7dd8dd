"""Work beside the main thread: results and errors come back, signals are heard while it lasts."""

import signal
import subprocess
import sys

import pytest

from tutelage.base.threads import beside_main


def test_results_and_errors_come_back():
    assert beside_main(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        beside_main(lambda: 1 // 0)


# Without the cut, a word of a million letters takes minutes inside one call of compiled code.
TRAINING = """
import signal

from tutelage import recipe
from tutelage.corpus import tokenizer

tokenizer.LONGEST = 10**9
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start in the background ignore it


def lines():
    yield "a" * 1_000_000 + "\\n"
    print("begun", flush=True)


try:
    tokenizer.train(lines(), recipe.Tokenizer())
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_ctrl_c_is_heard_while_a_tokenizer_is_trained():
    with subprocess.Popen([sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=100)[0] == "stopped\n"
            assert process.returncode == 130
        finally:
            process.kill()
