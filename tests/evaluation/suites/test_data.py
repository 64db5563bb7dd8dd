"""Benchmarks from their publishers, played by a server on this machine: OSF, the Hugging Face hub, zip archives."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks import data as module
from tutelage.evaluation.benchmarks import ewok, publishers
from tutelage.evaluation.benchmarks.data import Benchmark, available, data_folders, describe, find, get
from tutelage.evaluation.benchmarks.publishers import OsfFolder, ZipArchive

PAIRS = b'{"sentence_good": "a", "sentence_bad": "b"}\n'


class Server(ThreadingHTTPServer):
    """Answers by path; a listing holds the server's own address."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.status: dict[str, tuple[int, dict[str, str]]] = {}
        self.requests: list[str] = []

    def osf(self, project, tree, path="", identity="root"):
        """Serve a tree {name: bytes or tree} as OSF lists it, two entries a page."""
        root = f"/v2/nodes/{project}/files/osfstorage/"
        here = root if not path else f"{root}{identity}/"
        entries = []
        for name, content in tree.items():
            key = hashlib.md5(f"{path}/{name}".encode()).hexdigest()
            if isinstance(content, dict):
                self.osf(project, content, f"{path}/{name}", key)
                link = {"relationships": {"files": {"links": {"related": {"href": f"{self.url}{root}{key}/"}}}}}
                entries.append({"attributes": {"name": name, "kind": "folder"}, **link})
            else:
                self.files[f"/download/{key}/"] = content
                about = {"name": name, "kind": "file", "size": len(content),
                         "extra": {"hashes": {"sha256": hashlib.sha256(content).hexdigest()}}}  # fmt: skip
                entries.append({"attributes": about, "links": {"download": f"{self.url}/download/{key}/"}})
        for start in range(0, max(len(entries), 1), 2):
            following = f"{self.url}{here}?page[size]=100&page={start}" if start + 2 < len(entries) else None
            page = {"data": entries[start : start + 2], "links": {"next": following}}
            before = f"&page={start - 2}" if start else ""
            self.files[f"{here}?page[size]=100{before}"] = json.dumps(page).encode()

    def hub(self, dataset, revision, tree):
        """Serve files {path: bytes} of a dataset; every second one as a large file, with its digest."""
        folders: dict[str, list] = {}
        for number, (path, content) in enumerate(tree.items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            if number % 2:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
            folders.setdefault(path.rsplit("/", 1)[0], []).append(entry)
            self.files[f"/datasets/{dataset}/resolve/{revision}/{path}"] = content
        for folder, entries in folders.items():
            self.files[f"/api/datasets/{dataset}/tree/{revision}/{folder}"] = json.dumps(entries).encode()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(self.path)
        self.server.requests.append(path)
        plain = urlsplit(path).path
        found = path if path in self.server.files else plain
        status, headers = self.server.status.get(plain, (200 if found in self.server.files else 404, {}))
        content = self.server.files.get(found, b"") if status == 200 else b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", ewok.REVISION)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(publishers, "OSF", f"{server.url}/v2")
        monkeypatch.setattr(publishers, "HUB", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUTELAGE_DATA", raising=False)
    monkeypatch.delenv(module.PASSWORD, raising=False)
    return tmp_path / "cache"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_benchmark_says_where_it_comes_from():
    for name, benchmark in available().items():
        text = describe(name)
        assert "https://" in text
        assert benchmark.licence in text
        assert benchmark.place.startswith(("eval/", "glue"))
    assert "ewok-core/ewok-core-1.0" in describe("ewok")
    with pytest.raises(UserError, match="did you mean 'blimp-fast'"):
        describe("blimp-fats")


def test_nothing_is_asked_for_before_the_licence_is_accepted(server, capsys):
    with pytest.raises(UserError, match=r"accept its licence \(CC BY 4\.0 \(BLiMP\)\)"):
        get("blimp-filtered")
    assert server.requests == []
    assert "https://osf.io/ryjfm" in capsys.readouterr().err


FAST = {f"p{index}.jsonl": PAIRS * (index + 1) for index in range(5)}


def test_osf_files_are_checked_by_the_digests_it_gives(server, cache):
    server.osf(
        "ryjfm", {"other": b"", "evaluation_data": {"fast_eval": {"x": {}, "blimp_fast": {**FAST, "read.me": b""}}}}
    )
    folder = get("blimp-fast", accept_licence=True, source="2025")
    assert folder == cache / "eval" / "blimp_fast" == find("blimp-fast")
    assert contents(folder) == FAST
    left = sorted(path.name for path in (cache / "downloads" / "blimp-fast").iterdir())
    assert left == [f"{name}.sha256" for name in FAST]
    asked = len(server.requests)
    assert get("blimp-fast", accept_licence=False) == folder
    assert len(server.requests) == asked


def test_a_file_that_is_not_what_its_publisher_says_is_refused(server, cache):
    server.osf("ryjfm", {"evaluation_data": {"fast_eval": {"blimp_fast": FAST}}})
    victim = next(path for path, content in server.files.items() if content == FAST["p3.jsonl"])
    server.files[victim] = b"x" * len(FAST["p3.jsonl"])
    with pytest.raises(UserError, match="does not hold what it should"):
        get("blimp-fast", accept_licence=True, source="2025")
    assert not (cache / "eval").exists()
    # What was sound stays, and is not asked for again.
    server.files[victim] = FAST["p3.jsonl"]
    server.requests.clear()
    get("blimp-fast", accept_licence=True, source="2025")
    assert sum(path.startswith("/download/") for path in server.requests) == 2


def test_a_layout_that_has_changed_is_told(server):
    server.osf("ryjfm", {"evaluation_data": {"fast": {}}})
    with pytest.raises(
        UserError, match=r"no folder 'evaluation_data/fast_eval/blimp_fast' any more \(beside 'fast_eval': fast"
    ):
        get("blimp-fast", accept_licence=True, source="2025")
    server.osf("ryjfm", {"evaluation_data": {"fast_eval": {"blimp_fast": {"a.zip": b""}}}})
    with pytest.raises(UserError, match=r"no \.jsonl files any more \(only a\.zip\)"):
        get("blimp-fast", accept_licence=True, source="2025")
    server.files["/v2/nodes/ryjfm/files/osfstorage/?page[size]=100"] = b'{"errors": []}'
    with pytest.raises(UserError, match="does not answer as OSF's interface does"):
        get("blimp-fast", accept_licence=True, source="2025")
    server.files["/v2/nodes/ryjfm/files/osfstorage/?page[size]=100"] = b"<html>"
    with pytest.raises(UserError, match="did not answer in JSON"):
        get("blimp-fast", accept_licence=True, source="2025")


@pytest.mark.parametrize("name", ["../x.jsonl", ".x.jsonl", "a/b.jsonl", "..\\x.jsonl"])
def test_names_that_lead_elsewhere_are_refused(server, name):
    server.osf("p", {"f": {name: PAIRS}})
    with pytest.raises(UserError, match="refused as unsafe"):
        OsfFolder("p", ("f",)).files()


def test_the_hub_at_a_pinned_revision_and_several_folders_in_one(server, cache, monkeypatch):
    revision = module._REVISION_2026
    tree = {
        f"evaluation_data/full_eval/aoa/{name}": name.encode() for name in ("cdi_childes.json", "cdi_human.csv", "x.py")
    }
    server.hub(module._DATASET_2026, revision, tree)
    folder = get("aoa", accept_licence=True)
    assert contents(folder) == {"cdi_childes.json": b"cdi_childes.json", "cdi_human.csv": b"cdi_human.csv"}
    wug = {"wug_past_tense": {"wug_past_tense.jsonl": b"1"}, "wug_adj_nominalization": {"adj.jsonl": b"2"}}
    server.osf("ryjfm", {"evaluation_data": {"full_eval": wug}})
    assert contents(get("wug", accept_licence=True)) == {"adj.jsonl": b"2", "wug_past_tense.jsonl": b"1"}
    with pytest.raises(UserError, match=r"'wug' has no source '2026' \(known: 2025\)"):
        get("wug", folder=cache / "elsewhere", accept_licence=True, source="2026")
    with pytest.raises(UserError, match="cannot list"):
        get("comps", accept_licence=True)


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_repository_as_an_archive(server, cache, monkeypatch):
    server.files["/archive/1.zip"] = zipped(
        {"blimp-1/data/a.jsonl": PAIRS, "blimp-1/raw/b.jsonl": b"no", "blimp-1/c": ""}
    )
    archive = ZipArchive(f"{server.url}/archive/1.zip", "data")
    monkeypatch.setitem(module.BENCHMARKS, "blimp",
                        Benchmark(place="eval/blimp", publishers={"github": archive}, licence="CC BY 4.0"))  # fmt: skip
    assert contents(get("blimp", folder=cache / "mine", accept_licence=True)) == {"a.jsonl": PAIRS}
    assert (cache / "mine" / "eval" / "blimp").is_dir()
    server.files["/archive/1.zip"] = zipped({"blimp-1/other/a.jsonl": PAIRS})
    with pytest.raises(UserError, match=r"no \.jsonl files in a folder 'data'"):
        get("blimp", folder=cache / "yours", accept_licence=True)


def encrypted(content: bytes, name: str, password: bytes) -> bytes:
    """A zip file of one stored member in the traditional encryption (APPNOTE 6.1), which `zipfile` only reads."""
    crc = zlib.crc32(content)
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte):
        keys[0] = ~zlib.crc32(bytes([byte]), ~keys[0] & 0xFFFFFFFF) & 0xFFFFFFFF
        keys[1] = (keys[1] + (keys[0] & 0xFF)) * 134775813 + 1 & 0xFFFFFFFF
        keys[2] = ~zlib.crc32(bytes([keys[1] >> 24]), ~keys[2] & 0xFFFFFFFF) & 0xFFFFFFFF

    for byte in password:
        update(byte)
    secret = bytearray()
    for byte in bytes(11) + bytes([crc >> 24]) + content:
        word = keys[2] | 2
        secret.append(byte ^ (word * (word ^ 1) >> 8 & 0xFF))
        update(byte)
    buffer = io.BytesIO(zipped_stored(name, content))
    plain = buffer.getvalue()
    # The member's bytes, its flags and its length on disk are replaced in both of its headers.
    start = plain.index(content)
    body = plain[:start] + bytes(secret) + plain[start + len(content) :]
    body = bytearray(body)
    directory = body.index(b"PK\x01\x02")
    for offset, flags, size in ((0, 6, 18), (directory, 8, 20)):
        body[offset + flags] |= 1
        body[offset + size : offset + size + 4] = (len(content) + 12).to_bytes(4, "little")
    end = body.index(b"PK\x05\x06")
    body[end + 16 : end + 20] = directory.to_bytes(4, "little")
    return bytes(body)


def zipped_stored(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def test_a_password_opens_ewoks_fast_set_and_is_kept_nowhere(server, cache, monkeypatch):
    content = b'{"Domain": "social", "Context1": "a lengthy context, to be found in the file"}\n'
    name = "evaluation_data/fast_eval/ewok_fast/social.jsonl"
    tree = {"evaluation_data/fast_eval/ewok_fast.zip": encrypted(content, name, b"open sesame"),
            "evaluation_data/fast_eval/other.zip": b""}  # fmt: skip
    server.hub(module._DATASET_2026, module._REVISION_2026, tree)
    with pytest.raises(UserError, match=r"password BabyLM's README gives.*TUTELAGE_EWOK_PASSWORD"):
        get("ewok-fast", accept_licence=True)
    with pytest.raises(UserError, match=r"password does not open .*ewok_fast\.zip|or the password is wrong"):
        get("ewok-fast", accept_licence=True, password="sesame")
    assert not (cache / "eval" / "ewok_fast").exists()
    monkeypatch.setenv(module.PASSWORD, "open sesame")
    assert contents(get("ewok-fast", accept_licence=True)) == {"social.jsonl": content}
    assert not [path for path in cache.rglob("*") if path.is_file() and b"sesame" in path.read_bytes()]


ROWS = [
    {"Domain": "social-relations", "Context1": "Ann helps.", "Context2": "Ann hurts.", "Target1": "Bo smiles.",
     "Target2": "Bo cries.", "ContextType": "direct"},
    {"Domain": "spatial", "Context1": "Up it goes.", "Context2": "Down it goes.", "Target1": "It's high.",
     "Target2": "It's a zeppelin.", "ContextType": "direct"},
]  # fmt: skip


@pytest.fixture
def gated(server, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), buffer)
    path = f"/datasets/{ewok.DATASET}/resolve/{ewok.REVISION}/{ewok.FILE}"
    server.files[path] = buffer.getvalue()
    monkeypatch.setattr(ewok, "SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    server.files["/vocab.txt"] = b"ann\nhelps\nhurts\nbo\nsmiles\ncries\n.\nup\ndown\nit\ngoes\n's\nhigh\na\n"
    monkeypatch.setattr(ewok, "VOCABULARY", f"{server.url}/vocab.txt")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_ewok_is_written_both_ways_round(gated):
    folder = get("ewok-core", accept_licence=True)
    assert sorted(path.name for path in folder.iterdir()) == ["social-relations.jsonl", "spatial.jsonl"]
    first, second = lines(folder / "social-relations.jsonl")
    assert first == ROWS[0]
    assert second == {**ROWS[0], "Context1": "Ann hurts.", "Context2": "Ann helps.", "Target1": "Bo cries.",
                      "Target2": "Bo smiles."}  # fmt: skip


def test_ewok_is_filtered_by_babylms_words(gated):
    tokenize = pytest.importorskip("nltk.tokenize")
    try:
        tokenize.word_tokenize("a")
    except LookupError:
        with pytest.raises(UserError, match=r"nltk\.downloader punkt_tab"):
            get("ewok", accept_licence=True)
        pytest.skip("NLTK's sentence model is not on this machine")
    assert [path.name for path in get("ewok", accept_licence=True).iterdir()] == ["social-relations.jsonl"]


def test_ewok_is_filtered_by_any_words(gated, monkeypatch, tmp_path):
    """The same with a tokenizer of our own in NLTK's place."""

    class Words:
        @staticmethod
        def word_tokenize(text):
            return text.replace(".", " .").replace("'s", " 's").split()

    real = ewok.importlib.import_module
    monkeypatch.setattr(ewok.importlib, "import_module", lambda name: Words if name == "nltk.tokenize" else real(name))
    assert [path.name for path in get("ewok", accept_licence=True).iterdir()] == ["social-relations.jsonl"]


def test_who_has_no_access_to_ewok_learns_how_to_get_it(server, gated, monkeypatch):
    server.status[gated] = (403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(
        UserError, match=r"accept its terms: do so at .*ewok-core-1\.0, then log in with `hf auth login`"
    ):
        get("ewok-core", accept_licence=True)
    server.status[gated] = (401, {"X-Error-Code": "RepoNotFound"})
    with pytest.raises(UserError, match="accept its terms"):
        get("ewok-core", accept_licence=True)
    server.status.clear()
    monkeypatch.setattr(ewok, "SHA256", "00" * 32)
    with pytest.raises(UserError, match="not the file that was expected"):
        get("ewok-core", accept_licence=True)
    with pytest.raises(UserError, match="has one source"):
        get("ewok-core", accept_licence=True, source="2025")


def test_data_is_looked_for_in_the_users_folder_then_in_the_cache(tmp_path, monkeypatch):
    assert data_folders() == [tmp_path / "cache"]
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "data"))
    assert data_folders() == [tmp_path / "data", tmp_path / "cache"]
    with pytest.raises(UserError, match=r"files of 'glue' are not on this machine.*\$TUTELAGE_DATA/glue"):
        find("glue")
    (tmp_path / "cache" / "glue").mkdir(parents=True)
    assert find("glue") == tmp_path / "cache" / "glue"
    (tmp_path / "data" / "glue").mkdir(parents=True)
    assert find("glue") == tmp_path / "data" / "glue"
