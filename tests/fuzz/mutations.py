"""Damage to files: valid bytes in, bytes of a hostile or unlucky stranger out.

Each function takes what randomness it needs from a ``random.Random``, so the same damage serves a seeded loop,
Hypothesis (``st.randoms()``) and libFuzzer's custom mutator. A file's form is known by its name's suffix.
"""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

MARKER = "bombed"
"""What the payloads below make in the working directory if anything runs them."""


class Bomb:
    """Pickles to a call that makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


PICKLE = pickle.dumps(Bomb())
NUMBERS: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 3, 7, 65, 300, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), True, False, None),
)
TEXTS = (
    *("", " ", "x", "a\0b", "\ud800", "\ufeffa", "line\nbreak\r\n", "\x1b[2J", "\u2028", "x" * 5000, "9" * 5000),
    *(
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "~",
        "nan",
        "1e-3",
        "-5",
        "inf",
        "__class__",
        "lstm",
        "paper_cnn",
    ),
    *("<unk>", "F64", "I8", "BOOL", "C64", "F8_E8M0", "F4", "U16", "weights", "0", "1", "tensor", "pairs", "tuple"),
)
YAML_LINES = (
    f"bomb: !!python/object/apply:os.mkdir [{MARKER}]",
    "bomb: !!python/name:os.system",
    f"!!python/object/new:os.mkdir [{MARKER}]",
    "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nseed: *c",
    "data: &d {<<: *d}",
    "seed: 0x" + "f" * 5000,
    "level: 0b" + "1" * 20_000,
    "data: {level: 0x" + "f" * 5000 + "}",
    "0x" + "f" * 5000 + ": 1",
    "seed: 1:59:59:59:59:59:59",
    "rounds: 2020-13-45",
    "rounds: 2020-02-02T02:02:02+99:99",
    "seed: !!binary '////'",
    "seed: !!set {1, 2}",
    "? [1, 2]\n: 3",
    "? {a: b}\n: 3",
    "--- a\n--- b",
    "%YAML 9.9\n---\nseed: 1",
    "seed: *nowhere",
    "seed: !!int ''",
    "seed: !!float x",
    "network: {widths: [1, [2], {3: 4}]}",
    "- seed",
    "\t\tseed: 1",
    "seed: '\\ud800'",
    'device: "\\ud800\\0"',
    "\n".join(
        ["m0: &m0 {seed: 1}"] + [f"m{i + 1}: &m{i + 1} {{<<: [{', '.join([f'*m{i}'] * 12)}]}}" for i in range(9)]
    ),
)
WORDS = ("a", "a dog .", "<unk>", "\ud7ff", "é", "e\u0301", "\U0001f600", "\u202e", "\x85", "\x1c", "\u3000", "!" * 70)


def mutate(name: str, data: bytes, rng: Random) -> bytes:
    """The bytes of a file of this name, damaged once to four times."""
    suffix = name.rsplit(".", 1)[-1]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        forms = FORMS[suffix]
        data = forms[rng.randrange(len(forms))](data, rng)
    return data


def flip_bytes(data: bytes, rng: Random) -> bytes:
    """Change, insert, remove or repeat a few bytes."""
    content = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(5):
            case 0:
                content[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                content[place:place] = rng.choice((b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b'"', b"[", b"-", b"\r"))
            case 2:
                del content[place : place + rng.randint(1, 30)]
            case 3:
                content[place:place] = content[place : place + rng.randint(1, 30)]
            case _:
                content[place : place + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, (2**62).to_bytes(8, "little")))
    return bytes(content)


def cut(data: bytes, rng: Random) -> bytes:
    """Only the beginning, or nothing."""
    return data[: rng.randrange(len(data) + 1)]


def replace_all(data: bytes, rng: Random) -> bytes:
    """Something else altogether."""
    whole = (b"", b"\0", b"null", b"[]", b"{}", b"1", b'"x"', b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, PICKLE)
    other = (
        b"\xff\xfe" + data.decode("latin-1").encode("utf-16-le"),
        b"\xef\xbb\xbf" + data,
        data.replace(b"\n", b"\r"),
    )
    return rng.choice((*whole, *other, data + data, rng.randbytes(rng.randint(1, 200))))


# --- JSON and YAML ----------------------------------------------------------------------------------------------


def hostile_value(rng: Random, depth: int = 2) -> Any:
    """A number, a text or a small tree that no setting expects."""
    match rng.randrange(8 if depth else 5):
        case 0 | 1 | 2:
            return rng.choice(NUMBERS)
        case 3 | 4:
            return rng.choice(TEXTS)
        case 5:
            return [hostile_value(rng, depth - 1) for _ in range(rng.choice((0, 1, 2, 3, 50)))]
        case 6:
            return {rng.choice(TEXTS): hostile_value(rng, depth - 1) for _ in range(rng.randint(0, 3))}
        case _:
            kind: Any = rng.choice(("tensor", "array", "tuple", "pairs", "code", None, [1], 3))
            return {"__kind__": kind, "name": hostile_value(rng, 0), "items": hostile_value(rng, depth - 1)}


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return found


def change_tree(tree: Any, rng: Random) -> Any:
    """Replace, remove, add, rename, wrap, repeat or exchange a part of a tree of lists and dictionaries."""
    nodes = _nodes(tree)
    if not nodes:
        return hostile_value(rng)
    node, key = nodes[rng.randrange(len(nodes))]
    match rng.randrange(9):
        case 0 | 1 | 2:
            node[key] = hostile_value(rng)
        case 3:
            del node[key]
        case 4 if isinstance(node, dict):
            node[rng.choice(TEXTS)] = node.pop(key) if rng.random() < 0.5 else hostile_value(rng)
        case 5:
            node[key] = rng.choice(([node[key]], {"a": node[key]}, [node[key]] * 3))
        case 6 if isinstance(node, list):
            node *= rng.choice((2, 3, 100))
        case 7:
            other, other_key = nodes[rng.randrange(len(nodes))]
            node[key] = json.loads(json.dumps(other[other_key])) if _is_small(other[other_key]) else None
        case _:
            value = node[key]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            node[key] = value + rng.choice((-1, 1, 0.5, 10**6)) if is_number and abs(value) < 1e9 else str(value)[:9000]
    return tree


def _is_small(value: Any) -> bool:
    return len(repr(value)) < 10_000


def change_json(data: bytes, rng: Random) -> bytes:
    """A document whose tree is changed; other bytes where it is no document."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return flip_bytes(data, rng)
    return json.dumps(change_tree(tree, rng)).encode()


def add_yaml(data: bytes, rng: Random) -> bytes:
    """A document with a line that YAML reads in a way of its own."""
    line = rng.choice(YAML_LINES).encode("utf-8", "surrogatepass")
    return rng.choice((line, data + b"\n" + line, line + b"\n" + data))


def repeat_key(data: bytes, rng: Random) -> bytes:
    """A document that gives one key twice."""
    value = json.dumps(hostile_value(rng)).encode()
    key = rng.choice((b"format", b"state", b"kind", b"config", b"vocabulary", b"words", b"data", b"seed"))
    return data.replace(b"{", b'{"' + key + b'": ' + value + b", ", 1)


# --- tensors and arrays -----------------------------------------------------------------------------------------


def change_tensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file whose header is changed: types, shapes, offsets, names, its own size."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return flip_bytes(data, rng)
    body = data[8 + size :]
    if rng.random() < 0.3 and isinstance(header, dict) and header:  # a tensor that fits the file but not the network
        name = rng.choice(list(header))
        dtype, width = rng.choice(
            (("F32", 4), ("F64", 8), ("BOOL", 1), ("C64", 8), ("BF16", 2), ("I64", 8), ("U64", 8))
        )
        shape = [rng.randint(0, 6) for _ in range(rng.randint(0, 3))]
        num_bytes = width * int(np.prod(shape))
        try:
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + num_bytes]}
        except (LookupError, TypeError):
            header = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}}
        body += rng.randbytes(num_bytes)
    else:
        header = change_tree(header, rng)
    if rng.random() < 0.2:  # NaN, infinities and large numbers
        body = (
            rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f")) * (len(body) // 4)
            + body[: len(body) % 4]
        )
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    length = len(text) if rng.random() < 0.9 else rng.choice((0, 1, len(text) + 8, 2**40, 2**63, 2**64 - 1))
    return length.to_bytes(8, "little") + text + body


def array_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of an ``.npy`` file that claims this type and shape."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _change_member(content: bytes, rng: Random) -> bytes:
    match rng.randrange(6):
        case 0:
            return flip_bytes(content, rng)
        case 1:
            return (
                array_header("<f4", rng.choice(((2**40,), (2**62, 4), (-1,), (3, 2**33), (0, 2**40)))) + content[-64:]
            )
        case 2:
            return array_header("|O", (1,)) + PICKLE
        case 3:
            descr = rng.choice(("|S0", "<U9999", "<f2", "<f8", "<i8", "<c8", "|b1", "<M8[s]", "|V0", "[('a','<f4')]"))
            return array_header(descr, (rng.choice((0, 1, 6, 2**30)),)) + content[-200:]
        case 4:
            return rng.choice((b"", PICKLE, content[: len(content) // 2], content + content))
        case _:
            buffer = io.BytesIO()
            shape = tuple(rng.randint(0, 6) for _ in range(rng.randint(0, 3)))
            dtype = rng.choice(
                (np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_, np.complex64)
            )
            fill = rng.choice((0, 1, -1, 5, 2**31 - 1, np.nan, np.inf, 1e300))
            with np.errstate(all="ignore"):
                np.save(buffer, np.full(shape, fill).astype(dtype))
            return buffer.getvalue()


def change_archive(data: bytes, rng: Random) -> bytes:
    """An ``.npz`` file whose members are changed, renamed, missing, compressed, or said to be of other sizes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist() if info.file_size < 10**6}
    except Exception:  # already damaged, in one of many ways
        return flip_bytes(data, rng)
    if members:
        name = rng.choice(list(members))
        match rng.randrange(6):
            case 0:
                del members[name]
            case 1:
                members[rng.choice((name.removesuffix(".npy"), "../" + name, "/etc/passwd", "a\0b", ""))] = members[
                    name
                ]
            case 2:
                members[name] = members[rng.choice(list(members))]
            case _:
                members[name] = _change_member(members[name], rng)
    buffer = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name or "x"), content, compress_type=kind)
    result = bytearray(buffer.getvalue())
    if rng.random() < 0.15:  # the directory at the end lies about sizes, flags and methods
        place = result.find(b"PK\x01\x02")
        if place >= 0:
            place += rng.choice((6, 8, 10, 12, 16, 20, 24, 28, 30, 42))
            result[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x01\0\0\0", b"\xff\xff\0\0"))
    return bytes(result)


# --- text -------------------------------------------------------------------------------------------------------


def change_lines(data: bytes, rng: Random) -> bytes:
    """Lines repeated, exchanged, emptied, lengthened or filled with rare characters and line ends."""
    end = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\x0b", b"\xe2\x80\xa8"))
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 5)):
        place, word = rng.randrange(len(lines)), rng.choice(WORDS).encode("utf-8", "surrogatepass")
        lines[place] = rng.choice((b"", word, lines[place] + b" " + word, word * rng.choice((1, 3, 70)), lines[-1]))
    if rng.random() < 0.1:
        lines = lines[:1] * len(lines)
    return end.join(lines)


Damage = Callable[[bytes, Random], bytes]
_ANY: tuple[Damage, ...] = (flip_bytes, cut, replace_all)
FORMS: dict[str, tuple[Damage, ...]] = {
    "json": (change_json,) * 7 + (repeat_key, *_ANY),
    "yaml": (change_json,) * 5 + (add_yaml,) * 4 + (repeat_key, *_ANY),
    "safetensors": (change_tensors,) * 7 + _ANY,
    "npz": (change_archive,) * 7 + _ANY,
    "txt": (change_lines,) * 5 + _ANY,
    "jsonl": (change_lines, change_json, *_ANY),
}
"""Damages by suffix; one that stands twice is twice as likely."""
