"""Configs as frozen dataclasses: from YAML or JSON, typed, unknown keys refused; presets, then a file, then flags."""

import dataclasses
import json
import math
import reprlib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line, read_file
from seqgan_rl.core.registry import did_you_mean

C = TypeVar("C")
_MAX_BYTES = 2**18
_MAX_MERGED = 10_000
_LARGEST = 10**400


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML (or JSON) file as a dictionary; plain data only, no tags that make objects."""
    path = Path(path)
    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.load(text, _PlainLoader)
    except FileNotFoundError:
        raise InputError(f"config file {path} does not exist") from None
    except Exception as error:  # a wrong value behind a tag or a date raises ValueError, KeyError, AttributeError...
        raise InputError(f"config file {path} cannot be read: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"config file {path} must hold a mapping of settings, got {type(value).__name__}")
    return value


class _PlainLoader(yaml.SafeLoader):
    """Plain data, where merges ("<<") of merges cannot multiply."""

    def flatten_mapping(self, node: Any) -> None:
        merged = [
            source
            for key, value in node.value
            if key.tag == "tag:yaml.org,2002:merge"
            for source in (value.value if isinstance(value, yaml.SequenceNode) else [value])
        ]
        for source in merged:
            if isinstance(source, yaml.MappingNode):
                self.flatten_mapping(source)
        if sum(len(source.value) for source in merged) > _MAX_MERGED:
            raise yaml.constructor.ConstructorError(problem=f"more than {_MAX_MERGED:,} settings are merged by <<")
        super().flatten_mapping(node)


def updated(config: C, values: dict[str, Any], where: str = "config") -> C:
    """The config with some values replaced; nested dictionaries reach nested configs.

    Values are checked against the annotations; a number written as a string (YAML reads ``1e-3`` as one) is a number.
    Keys may stand where flags have them, see :func:`as_nested`.
    Raises InputError naming the key for anything else.
    """
    hints = typing.get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in as_nested(config, values, where).items():
        if key not in hints:
            known = [*hints, *(name for part in _nameless(config) for name in _keys(getattr(config, part)))]
            raise InputError(f"{where}: unknown setting {_shown(key)}{did_you_mean(_shown(key), known)}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {key} must be a mapping of settings, got {_shown(value)}")
            changes[key] = updated(current, value, f"{where}, {key}")
        else:
            changes[key] = typed(value, hints[key], f"{where}: {key}")
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(f"{where}: {one_line(error, 600)}") from None


def as_nested(config: Any, values: dict[str, Any], where: str = "config") -> dict[str, Any]:
    """Values nested as the config is, where a file has them nested as the flags are.

    Keys of a nested config that flags do not name (``tyro.conf.arg(name="")``) are put into it; unknown keys stay.
    InputError for one that is given in both places.
    """
    own = {field.name for field in dataclasses.fields(config)}
    nested = {key: value for key, value in values.items() if key in own}
    for part in _nameless(config):
        keys = _keys(getattr(config, part)) - own
        lifted = {key: value for key, value in values.items() if key in keys}
        if not lifted and not isinstance(values.get(part), dict):
            continue
        inner = values.get(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"{where}: {part} must be a mapping of settings, got {_shown(inner)}")
        twice = sorted(lifted.keys() & inner.keys())
        if twice:
            raise InputError(f"{where}: {', '.join(twice)} given twice, here and in {part}; leave one out")
        nested[part] = as_nested(getattr(config, part), {**inner, **lifted}, f"{where}, {part}")
        own |= keys
    return {**nested, **{key: value for key, value in values.items() if key not in own}}


def _nameless(config: Any) -> list[str]:
    """Nested configs whose settings are flags without a prefix."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    marks = {key: getattr(hint, "__metadata__", ()) for key, hint in hints.items()}
    return [key for key, found in marks.items() if any(getattr(mark, "name", None) == "" for mark in found)]


def _keys(config: Any) -> set[str]:
    """Settings of a config as flags name them, and those of its nested configs that have no name there."""
    own = {field.name for field in dataclasses.fields(config)}
    return own.union(*(_keys(getattr(config, part)) for part in _nameless(config)))


def as_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-able nested dictionaries."""
    return {
        field.name: as_dict(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
    }


def typed(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the annotated type, or InputError that begins with ``where``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        return typed(value, arguments[0], where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        for argument in arguments:
            if argument is not type(None):
                try:
                    return typed(value, argument, where)
                except InputError:
                    continue
        raise InputError(f"{where} must be {_name(hint)}, got {_shown(value)}")
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise InputError(f"{where} must be one of {', '.join(map(str, arguments))}; got {_shown(value)}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(typed(item, arguments[0], where) for item in value)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{where} must be {_name(hint)}, got nan")
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            if not math.isnan(number := float(value)):
                return number
        except (ValueError, OverflowError):
            pass
    if hint is int and isinstance(value, float | str) and not isinstance(value, bool):
        if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() and len(value) < 400:
            return int(value)
        try:
            if float(value) == int(float(value)):
                return int(float(value))
        except (ValueError, OverflowError):
            pass
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise InputError(f"{where} must be {_name(hint)}, got a number of more than 400 digits")
    if hint is str and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{where} must be {_name(hint)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value in few words; YAML's references can make one whose full text would fill the memory."""
    try:
        return reprlib.repr(value)[:60]
    except ValueError:  # Python writes no numbers of more than 4,300 digits
        return "a number of thousands of digits"


def _name(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_name(arguments[0])}"
    return " or ".join(_name(argument) for argument in arguments) if arguments else words.get(hint, str(hint))
