"""A real llama.cpp server with a tiny model of random weights: the wire, schemas by force, its ways to fail."""

import json
from collections import Counter

import numpy as np
import pytest
from fixtures.stored import entries

from tutelage import api
from tutelage.api import studies
from tutelage.corpus.examples import read_examples
from tutelage.corpus.study_plan import read_plan
from tutelage.recipe.load import recipe_from_text
from tutelage.study.client import sending
from tutelage.study.client.answers import read_json
from tutelage.study.client.asking import ask_json
from tutelage.study.client.client import Message, Request
from tutelage.study.client.remote import RemoteTeacher
from tutelage.study.client.store import costs, open_store
from tutelage.study.folder import StudyFolder
from tutelage.study.settings import Study

xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (extra dev)")
gguf = pytest.importorskip("gguf", reason="gguf is not installed (extra dev)")

CONTEXT, SLOTS = 4096, 4
WORDS = (
    "air all and ask bird blue boat book cake call city cold come cook deer dog door duck east farm fish five girl "
    "gold hand hat home iron joy king lake leaf milk moon new owl pen rain salt sea sing sky snow star tea wind wolf"
)
# Without Jinja, llama.cpp knows some templates by their look; this is one of them.
TEMPLATE = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"word": {"type": "string", "enum": ["a", "bc"]}, "sure": {"type": "boolean"}},
                "required": ["word", "sure"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": 3,
        },
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["pairs", "n"],
    "additionalProperties": False,
}


def write_model(path):
    """A Llama of one layer with random weights and a byte-level vocabulary, as llama.cpp reads it.

    All tokens are alike in one place of their vectors, so that the same place of the output layer holds how likely
    each is everywhere: it says nothing but words in any order, wherever a schema leaves it the choice.
    """
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([f" {WORDS}"], 500, min_frequency=1, special_tokens=["<|end|>"], show_progress=False)
    tree = json.loads(bpe._tokenizer.to_str())["model"]
    tokens = sorted(tree["vocab"], key=tree["vocab"].get)
    width, inner, heads = 64, 96, 4
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t == "<|end|>" else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tree["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    draw = np.random.default_rng(0)
    square, tall = (width, width), (inner, width)
    shapes = {
        "token_embd": (len(tokens), width), "output": (len(tokens), width), "blk.0.attn_q": square,
        "blk.0.attn_k": square, "blk.0.attn_v": square, "blk.0.attn_output": square, "blk.0.ffn_gate": tall,
        "blk.0.ffn_up": tall, "blk.0.ffn_down": tall[::-1],
    }  # fmt: skip
    weights = {name: draw.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    likely = {f"Ġ{word}": 1.0 for word in WORDS.split()} | {'"': 1.5, "{": 0.7, ",": 0.6}
    likely |= dict.fromkeys("}[]:", 0.4)
    weights["token_embd"][:, 0] = 1
    weights["output"][:, 0] = [likely.get(token, 0) for token in tokens]
    # Texts and lists are rarely empty: what opens one speaks against what closes it.
    for place, (opens, closes) in enumerate(('""', "[]"), start=1):
        for matrix, token, value in (("token_embd", opens, 1), ("output", closes, -1)):
            weights[matrix][:, place] = 0
            weights[matrix][tokens.index(token), place] = value
    for name, values in weights.items():
        writer.add_tensor(f"{name}.weight", values)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(
    scope="module", params=["schemas by force", pytest.param("failing now and then", marks=pytest.mark.slow)]
)
def server(request, tmp_path_factory):
    """With templates by Jinja, as is its default, this server answers HTTP 500 where a random model's JSON is not
    what its parser expects; without, it never does."""
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_model(path)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.warmup = CONTEXT * SLOTS, SLOTS, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.use_jinja = request.param == "failing now and then"
    settings.hostnames, settings.port = ["127.0.0.1"], 0
    return xllamacpp.Server(settings)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.02)


def study(server, settings=None, **teacher):
    defaults = {"concurrency": SLOTS, "tries": 20, "two_steps": False, "timeout": 20}
    return Study.model_validate(
        {
            "name": "s",
            "teacher": {"endpoint": f"{server.listening_address}/v1", **defaults, **teacher},
            **(settings or {}),
        }
    )


def questions(count, **more):
    return [Request((Message("system", "Be brief."), Message("user", f"Name {n} words.")), f"plan/{n}", seed=n,
                    **{"max_tokens": 200, **more}) for n in range(count)]  # fmt: skip


def test_schemas_are_enforced_and_followed(server, tmp_path) -> None:
    settings = study(server)
    with open_store(tmp_path / "requests.jsonl") as store:
        teacher = RemoteTeacher(settings, store)
        found = ask_json(
            teacher, questions(8, schema=SCHEMA), lambda value, request: None, settings.teacher, "planning"
        )
        assert teacher.probe_schemas()
    assert all(1 <= len(outcome.value["pairs"]) <= 3 for outcome in found)
    assert len({json.dumps(outcome.value) for outcome in found}) > 4
    assert costs(tmp_path / "requests.jsonl")["plan"].written > 8 * 10


def test_the_same_request_gets_the_same_answer(server, tmp_path) -> None:
    texts = []
    for name in ("one", "two"):
        with open_store(tmp_path / name) as store:
            answers = RemoteTeacher(study(server, concurrency=1), store).ask(questions(2, max_tokens=20), "asking")
        texts.append([answer.text for answer in answers])
        assert all(answer.read > 5 and 0 < answer.written <= 20 for answer in answers)
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_a_prompt_that_is_too_long_is_a_fault(server, tmp_path) -> None:
    long = Request((Message("user", "the cat " * CONTEXT),), "plan/long", max_tokens=5)
    with open_store(tmp_path / "requests.jsonl") as store:
        answers = RemoteTeacher(study(server), store).ask([*questions(1, max_tokens=5), long], "asking")
    assert not answers[0].fault
    assert "context" in answers[1].fault


def test_failures_of_this_server_are_repeated(server, tmp_path) -> None:
    with open_store(tmp_path / "requests.jsonl") as store:
        RemoteTeacher(study(server), store).ask(questions(12, schema=SCHEMA), "asking")
    failed = [line for line in entries(tmp_path / "requests.jsonl") if "failed" in line]
    assert all("HTTP 500" in line["why"] for line in failed)


RECIPE = """
name: taught
data:
  corpus: {corpus}
  separator: brackets
  tokenizer: {{vocab_size: 300}}
  test_share: 0.3
  rows: {{kind: examples, length: 32, buckets: [16]}}
models:
  student:
    preset: modernbert-2m
    steps: 4
    evaluations: 2
    stages: [{{objectives: {{masked: 1, tasks: 0.5}}}}]
    optim: {{lr: 1.0e-3, batch_rows: 4, warmup_steps: 1}}
evaluate: [test, tasks]
"""


def test_the_whole_way(server, tmp_path) -> None:
    """From no plan to a student. The words mean nothing; all of them come from an answer."""
    settings = study(
        server,
        {
            "plan": {"tasks": 2, "prompts": 2},
            "writing": {"words": 150, "examples_per_task": 14, "examples_per_request": 4, "generation_per_request": 1,
                        "wave": 4},
            "labelling": {"ask": "task", "tags": "list", "tagged_words": 4},
            # Words in any order are no natural language.
            "filters": {"common_words": 0, "min_words": 1},
        },
        max_tokens=600,
        repairs=10,
    )  # fmt: skip
    studies.study_run(settings, (), tmp_path)
    folder = StudyFolder(tmp_path / "s")
    answers = {line["answer"]: line["text"] for line in entries(folder.requests) if "answer" in line}
    plan = read_plan(folder.plan)
    said = " ".join(" ".join(answers.values()).split())
    for task in plan.tasks():
        assert all(line in said for line in (task.description, *task.labels.values(), *task.prompts))
    labelled = list(read_examples(folder.labelled))
    labels = Counter()
    for example in labelled:
        wrote = next(iter(read_json(answers[example.origin]).values()))
        texts = [text for item in wrote for text in (item.values() if isinstance(item, dict) else [item])]
        assert " ".join(example.text.split()) in [" ".join(text.split()) for text in texts]
        for task, label in example.labels.items():
            (key,) = example.label_origins[task]
            found = read_json(answers[key])[task]
            assert label == (tuple(found) if isinstance(label, tuple) else found)
            labels[plan.kind_of(task)] += 1
    assert labels.keys() == {"classification", "pair_classification", "tagging"}
    taken = {example.id for example in read_examples(folder.corpus / "examples.jsonl")}
    refused = [json.loads(line) for line in (folder.quarantine / "filter.jsonl").open()]
    texts = [line["content"]["id"] for line in refused if "kind" in line["content"]]
    assert sorted([*taken, *texts]) == sorted(example.id for example in labelled)
    assert (folder.audit / "index.html").read_text().rstrip().endswith("</html>")
    assert api.run(recipe_from_text(RECIPE.format(corpus=folder.corpus)), runs=tmp_path / "runs") is not None
    assert plan.tasks("classification")[0].name in (tmp_path / "runs" / "taught" / "report.html").read_text()
