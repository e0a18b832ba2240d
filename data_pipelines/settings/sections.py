"""Plain containers -> typed sections: pydantic validates each one against the class that it builds.

The registry of sections is a dataclass: one section for each of its fields (train/config/run.py). A command that needs
only some declares a dataclass with those.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from data_pipelines.base.errors import UNSET, ConfigError


def section_types(cls: type) -> dict[str, Any]:
    """Section name -> annotation of the field, in order."""
    return get_type_hints(cls, include_extras=True)


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    """pydantic's reader and writer of a section; a millisecond to make."""
    return TypeAdapter(hint)


def dump(section: Any) -> dict[str, Any]:
    """A validated section as plain containers again, defaults included."""
    return adapter(type(section)).dump_python(section, mode="json")


def validate(settings: Mapping[str, Any], types: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(section name -> object of its type, for those that validate; what is wrong with the others)."""
    sections: dict[str, Any] = {}
    problems: list[str] = []
    for name, hint in types.items():
        try:
            sections[name] = _validate(name, settings.get(name, {}), hint)
        except ConfigError as error:
            problems += error.problems
    return sections, problems


def unknown_sections(settings: Iterable[str], types: Mapping[str, Any]) -> list[str]:
    """A message for each section that no field is named after."""
    return [f"{name}: unknown section{_suggestion(name, types)}" for name in settings if name not in types]


def _validate(name: str, section: Any, hint: Any) -> Any:
    if not isinstance(section, dict):
        raise ConfigError([f"{name}: got {section!r}, expected a section with keys"])
    if "by kind" in get_args(hint):
        hint, section = _of_kind(name, dict(section), get_args(hint)[-1])
        if hint is None:
            return None
    valid, problems = None, []
    try:
        valid = adapter(hint).validate_python(section, extra="forbid")
    except ValidationError as error:
        problems = [_describe(name, hint, problem) for problem in error.errors()]
    blank = [f"{name}.{path} must not be empty" for path in _blank(section, hint)]
    blank = [path for path in blank if not any(problem.startswith(path.split()[0]) for problem in problems)]
    if blank or problems:
        raise ConfigError([f"{problem}, {UNSET}" for problem in blank] + problems)
    return valid


def _blank(section: dict[str, Any], hint: Any) -> list[str]:
    """Paths of texts that are empty, which nobody means, except where that is the default."""
    paths: list[str] = []
    hint = kinds_of(hint).get(section.get("kind", ""), hint)

    def walk(value: Any, loc: list[Any]) -> None:
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, [*loc, key])
        elif isinstance(value, str) and not value.strip():
            defaults = {field.name: field.default for field in _fields_at(hint, loc[:-1])}
            if defaults.get(loc[-1]) != value:
                paths.append(".".join(map(str, loc)))

    walk(section, [])
    return paths


def _of_kind(name: str, section: dict[str, Any], kinds: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class that `kind` names, and the section without that key."""
    kind = section.pop("kind", "none")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError([_no_such_kind(name, kind, kinds)])
    if kinds[kind] is None and section:
        raise ConfigError([f"{name}.{key}: has no effect with kind={kind}" for key in section])
    return kinds[kind], section


def kind_of(section: Any, hint: Any) -> dict[str, str]:
    """{"kind": its name} of a validated section whose class `kind` names; {} of others, which hold theirs."""
    if "by kind" not in get_args(hint):
        return {}
    cls = None if section is None else type(section)
    return {"kind": next(kind for kind, one in get_args(hint)[-1].items() if one is cls)}


def _describe(section: str, hint: Any, problem: Any) -> str:
    """One line: path, what was got, what is allowed, and a near miss."""
    loc, kinds, kind = list(problem["loc"]), kinds_of(hint), None
    if problem["type"] == "union_tag_invalid":
        return _no_such_kind(section, problem["input"]["kind"], kinds)
    if problem["type"] == "union_tag_not_found":
        return f"{section}.kind: is required and missing; allowed: {', '.join(kinds)}"
    if loc and loc[0] in kinds:  # pydantic names the member of the union; no key does
        kind = loc.pop(0)
        hint = kinds[kind]
    path = ".".join([section, *(str(part) for part in loc)])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        names = [field.name for field in _fields_at(hint, loc[:-1])]
        others = [
            other for other, cls in kinds.items() if loc[-1] in (field.name for field in _fields_at(cls, loc[:-1]))
        ]
        if others:
            return f"{path}: belongs to kind={' or '.join(others)}; with kind={kind} there are: {', '.join(names)}"
        return f"{path}: unknown key{_suggestion(str(loc[-1]), names)}"
    if problem["type"].startswith("missing"):
        return f"{path}: is required and missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}{_separator(message, _fields_at(hint, loc))}{message}{_got(problem)}"


def _separator(message: str, fields: list[Any]) -> str:
    """A dot where the message begins with a field and what it has to be: `balance` + `speed must be positive`."""
    start = re.match(r"(\w+)(=\S*:|:| must )", message)
    return "." if start and start[1] in {field.name for field in fields} else ": "


def kinds_of(hint: Any) -> dict[str, Any]:
    """Kind -> class of a discriminated union; empty for another type."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return {
        field.default: member
        for member in members
        if dataclasses.is_dataclass(member)
        for field in dataclasses.fields(member)
        if field.name == "kind" and isinstance(field.default, str)
    }


def _no_such_kind(section: str, kind: Any, kinds: Mapping[str, Any]) -> str:
    near = get_close_matches(str(kind), list(kinds), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{section}.kind: got {kind!r}, allowed: {', '.join(kinds)}{hint}"


def _got(problem: Any) -> str:
    value = problem.get("input")
    if problem["type"] == "string_type" and isinstance(value, list):
        return f""" (got the list {value!r}; a text in brackets is quoted twice: 'key="[...]"')"""
    return "" if isinstance(value, dict) or dataclasses.is_dataclass(value) else f" (got {value!r})"


def _fields_at(hint: Any, loc: list[Any]) -> list[Any]:
    """Fields of the dataclass that the keys and indices `loc` lead to, starting at a class."""
    for part in loc:
        hint = _unwrap(hint)
        if dataclasses.is_dataclass(hint):
            hint = get_type_hints(hint, include_extras=True).get(str(part))
        else:
            hint = get_args(hint)[-1] if get_args(hint) else None  # an element of a list, a value of a dict
    hint = _unwrap(hint)
    return list(dataclasses.fields(hint)) if dataclasses.is_dataclass(hint) else []


def _unwrap(hint: Any) -> Any:
    """X out of Annotated[X, ...] and of X | None."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        return _unwrap(next(arg for arg in get_args(hint) if arg is not type(None)))
    return hint


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else f" (there are: {', '.join(known)})"
