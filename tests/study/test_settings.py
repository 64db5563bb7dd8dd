"""What a study may say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tutelage.base.errors import UserError
from tutelage.study.client.endpoint import Endpoint
from tutelage.study.settings import Study, TeacherSettings, load_study

KEY = "sk-proj-0123456789"


@pytest.mark.parametrize(
    "teacher",
    [
        {"endpoint": f"https://me:{KEY}@host/v1"},
        {"endpoint": f"https://{KEY}@host/v1"},
        {"endpoint": f"https://host/v1?key={KEY}"},
        {"endpoint": f"https://host/v1#{KEY}"},
        {"endpoint": "https://host/v1", "key_variable": KEY},
        {"endpoint": "https://host/v1", "key_variable": f"{KEY.replace('-', '_')}{'x' * 64}"},
        {"endpoint": "https://host/v1", "key_variable": ""},
        {"endpoint": "https://host/v1", "key_variable": "KEY\n"},
    ],
)
def test_keys_are_refused_and_never_repeated(tmp_path, teacher) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: s\nteacher: {endpoint: http://localhost/v1}\n")
    with pytest.raises(UserError, match=r"teacher: `(endpoint|key_variable)` .*variable") as told:
        load_study(path, [f"teacher.{key}={value!r}" for key, value in teacher.items()])
    with pytest.raises(ValidationError) as raised:
        Study.model_validate({"name": "s", "teacher": teacher})
    for said in (str(told.value), str(raised.value)):
        assert KEY[8:] not in said


def test_usual_addresses_and_names_are_taken() -> None:
    for endpoint in ("http://localhost:8000/v1", "https://[::1]:8/v1/", "https://host.example/a/b-c_d/v1"):
        teacher = TeacherSettings(endpoint=endpoint, key_variable="MY_KEY_2")
        assert Endpoint(teacher).shown == endpoint


@pytest.mark.parametrize("endpoint", [f"http://host:{KEY}/v1", f"ftp://{KEY}/v1", KEY])
def test_what_is_no_address_is_not_repeated(endpoint) -> None:
    with pytest.raises(UserError, match=r"no address|a port that cannot be") as told:
        Endpoint(TeacherSettings(endpoint=endpoint))
    assert KEY not in str(told.value)


def test_votes_that_could_not_differ_are_refused(tmp_path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: s\nteacher: {endpoint: http://localhost/v1, sampling: {temperature: 0}}\n")
    assert load_study(path).labelling.votes == 1
    with pytest.raises(UserError, match=r"`labelling.votes: 5` with .*temperature: 0.* set `votes: 1`, or a temp"):
        load_study(path, ["labelling.votes=5"])
    assert load_study(path, ["labelling.votes=5", "teacher.sampling.temperature=0.5"]).labelling.votes == 5
