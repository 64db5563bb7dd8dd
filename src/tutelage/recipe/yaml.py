"""YAML text to a plain tree, without YAML's traps, and the line of every key.

The safe loader, and stricter: keys are texts and do not repeat, tags are refused, what aliases expand to is counted
before it is built (a few lines could otherwise become gigabytes), `3e-4` is a number, `1:30` and `0100` are neither
times nor octal, and only `true` and `false` are truth values.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from tutelage.base.errors import UserError

MAX_CHARACTERS = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 50
SECRET = re.compile(r"(api_?key|password|secret|access_?token|bearer)", re.IGNORECASE)
YAML = "tag:yaml.org,2002:"

Place = tuple[str | int, ...]
Lines = dict[Place, int]


class _Loader(yaml.SafeLoader):
    """Safe YAML with plain numbers and booleans, and without tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags (!...) have no place in a recipe\n{event.start_mark}")
        return super().compose_node(parent, index)

    def plain_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value.replace("_", ""))


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(YAML) in ("merge", "null", "str")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{YAML}bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(f"{YAML}int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{YAML}float",
    re.compile(
        r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.(inf|nan))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor(f"{YAML}int", _Loader.plain_int)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever the loader would not read as text."""


_Dumper.yaml_implicit_resolvers = {
    letter: [*yaml.SafeDumper.yaml_implicit_resolvers.get(letter, []), *_Loader.yaml_implicit_resolvers.get(letter, [])]
    for letter in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def dump(tree: Any) -> str:
    """Write a plain tree as YAML that `parse` reads back as it was, keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def parse(text: str, name: str, scale: int = 1, secrets: bool = True) -> tuple[Any, Lines]:
    """Parse YAML text to plain mappings, lists and values, and the line of every key and list item.

    Args:
        name: what errors call it, such as the file's name.
        scale: how many times as large as a recipe it may be.
        secrets: whether keys that look like secrets are refused.

    Raises:
        UserError: not YAML, too large or too deep, a tag, or a key that repeats, is no text or looks like a secret.
    """
    _check_length(text, name, scale)
    lines: Lines = {}
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _look_through(node, (), lines, _Checks(name, MAX_VALUES * scale, secrets))
        # Aliases share one object; an override of one place must not change the others.
        return _unshared(loader.construct_document(node), name), lines
    except RecursionError as error:
        raise UserError(f"{name}: nested more than {MAX_DEPTH} levels deep; that is no recipe") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def parse_json(text: str, name: str, scale: int = 1) -> Any:
    """Parse JSON text within the limits of `parse`; keys may look like secrets.

    Raises:
        UserError: not JSON, too large or too deep, or a key that repeats.
    """
    _check_length(text, name, scale)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{name}: the key '{twice}' stands in one object a second time")
        return found

    try:
        tree = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not valid JSON: {error}") from error
    if _count(tree, name, 0) > MAX_VALUES * scale:
        raise UserError(f"{name}: more than {MAX_VALUES * scale:,} values; write fewer")
    return _unshared(tree, name)


def _count(value: Any, name: str, depth: int) -> int:
    """Count the values of a tree that is not too deep."""
    if depth > MAX_DEPTH:
        raise UserError(f"{name}: nested more than {MAX_DEPTH} levels deep")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_count(item, name, depth + 1) for item in inner)


def _check_length(text: str, name: str, scale: int) -> None:
    if len(text) > MAX_CHARACTERS * scale:
        raise UserError(f"{name}: larger than {MAX_CHARACTERS * scale >> 20} MiB; that is no recipe")


def _unshared(value: Any, name: str) -> Any:
    """Copy a tree; its texts are checked, since what is no character can never be written down again."""
    if isinstance(value, dict):
        return {_unshared(key, name): _unshared(item, name) for key, item in value.items()}
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        remedy = "write the character itself, or as \\U0001F642"
        raise UserError(f"{name}: {value[:80]!a} has half of a surrogate pair; {remedy}")
    return [_unshared(item, name) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class _Checks:
    """What is looked for in a document."""

    name: str  # of the document, in errors
    values: int  # the most there may be
    secrets: bool  # whether they are refused


def _look_through(node: yaml.Node, place: Place, lines: Lines, checks: _Checks) -> None:
    """Note the lines of everything below a node, aliases written out, and refuse what has no place in a recipe."""
    line, name = node.start_mark.line + 1, checks.name
    if len(lines) > checks.values:
        raise UserError(f"{name}:{line}: more than {checks.values:,} values with all aliases written out; write fewer")
    if len(place) > MAX_DEPTH:
        why = "that is no recipe, or an alias stands within what it names"
        raise UserError(f"{name}:{line}: nested more than {MAX_DEPTH} levels deep; {why}")
    children: Iterable[tuple[str | int, yaml.Node, yaml.Node]] = ()
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        children = ((_word(key, seen, checks), key, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        children = ((index, value, value) for index, value in enumerate(node.value))
    for step, marked, value in children:
        lines[(*place, step)] = marked.start_mark.line + 1
        _look_through(value, (*place, step), lines, checks)


def _word(key: yaml.Node, seen: set[str], checks: _Checks) -> str:
    """Return a mapping's key, after checking it, and add it to the ones seen."""
    where = f"{checks.name}:{key.start_mark.line + 1}"
    if not isinstance(key, yaml.ScalarNode):
        raise UserError(f"{where}: a list or mapping cannot be a key; write a name")
    word: str = key.value
    if key.tag.removeprefix(YAML) not in ("str", "merge"):
        raise UserError(f"{where}: the key '{word}' is no text; put it in quotes")
    if word in seen:
        raise UserError(f"{where}: the key '{word}' stands here a second time")
    if checks.secrets and SECRET.search(word):
        raise UserError(f"{where}: '{word}' looks like a secret; those belong in the environment")
    seen.add(word)
    return word
