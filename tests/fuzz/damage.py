"""Damage to bytes and to JSON values; knows no format. All of it comes from the random generator that is given."""

import copy
import json

HOSTILE = (
    *(None, True, [], {}, [[]], [None], "", " ", "\0", "\ud800", "null", "NaN", "../../x", "/etc/passwd", "C:\\x.jpg"),
    *(float("nan"), float("inf"), -1, 0, 1e308, -1e308, 10**30, 10**400, 0.1, 2**63, "9" * 5000, "x" * 100_000),
    *("\n", "\x1b[2J", "a\nb", "²", "１", "1e999", [1] * 1000, {"x": {"x": {}}}, "%00", "data:image/png;base64,AA"),
)
TOKENS = (
    *(b"NaN", b"-1", b"1e999", b"null", b"true", b"[", b"{", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"'", b'"', b"<"),
    *(b"9" * 5000, b"[" * 20_000, b'{"a":' * 20_000, b"\\ud800", b"&#0;", b"&x;", b"]]>", b"<!--", b"\r", b"\t"),
    *(b"<a>" * 5000, b"- " * 20_000, b"*a", b"&a [*a, *a]", b"!!python/object:os.system", b"? ", b"%", b",,,,,,,,"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"../../../../etc/passwd", "é".encode("latin-1"), "é".encode()),
)


def damaged_bytes(rng, whole, tokens=TOKENS):
    """(what was done, the damaged bytes)."""
    data = bytearray(whole)
    kind = rng.choice(("flip", "cut", "drop", "repeat", "token", "token", "token", "line", "encode", "end"))
    place = rng.randrange(len(data) + 1)
    if kind == "flip":
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "drop":
        del data[place : place + rng.randint(1, 40)]
    elif kind == "repeat":
        data[place:place] = data[place : place + rng.randint(1, 400)]
    elif kind == "token":
        data[place : place + rng.choice((0, 1, 4))] = rng.choice(tokens)
    elif kind == "line":
        lines = bytes(data).split(b"\n")
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        data = bytearray(b"\n".join(lines))
    elif kind == "encode":
        encoding = rng.choice(("utf-16", "utf-32", "utf-7", "cp037"))
        data = bytearray(whole.decode("utf-8", "replace").encode(encoding, "replace"))
    else:
        data = bytearray(rng.choice((b"", b"\n", b"\0" * 100, b"[]", b"{}", b"null", b"<a/>")))
    return f"{kind} at {place}", bytes(data)


NUMBERS = tuple(  # as binary formats write sizes, counts and offsets
    value.to_bytes(length, order)
    for length in (1, 2, 4, 8)
    for value in (0, 1, 2 ** (8 * length) - 1, 2 ** (8 * length - 1) - 1, 2 ** (8 * length - 1))
    for order in ("big", "little")
)


def damaged_binary(rng, whole, start=0, end=None):
    """(what was done, the damaged bytes), the place of the damage between `start` and `end`."""
    data = bytearray(whole)
    end = max(start + 1, min(len(data), end or len(data)))
    kind = rng.choice(("flip", "flip", "number", "number", "cut", "drop", "repeat", "zeros", "shuffle", "grow"))
    places = []
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(start, max(start + 1, min(end, len(data))))
        places.append(place)
        length = rng.choice((1, 4, 16, 100, 1000))
        if kind == "flip":
            data[place : place + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1])
        elif kind == "number":
            number = rng.choice(NUMBERS)
            data[place : place + len(number)] = number
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * rng.choice((1, 1, 50))
        elif kind == "zeros":
            data[place : place + length] = bytes(length)
        elif kind == "shuffle":
            other = rng.randrange(len(data) + 1)
            data[place : place + length] = data[other : other + length]
        else:
            data += rng.randbytes(length)
    return f"{kind} at {places}", bytes(data)


def damage_value(rng, data):
    """Replace, drop, rename or double one value within a JSON value; (what was done, the keys that lead there)."""
    place = rng.choice(list(_places(data, ())))
    owner = data
    for key in place[:-1]:
        owner = owner[key]
    kind = rng.choice(("replace", "replace", "replace", "drop", "rename", "double"))
    if kind == "replace":
        owner[place[-1]] = copy.deepcopy(rng.choice(HOSTILE))
    elif kind == "drop" or isinstance(owner, list) and kind == "rename":
        del owner[place[-1]]
    elif kind == "rename":
        owner[f"{place[-1]}x"] = owner.pop(place[-1])
    elif isinstance(owner, list):
        owner.append(copy.deepcopy(owner[place[-1]]))
    return kind, place


def damaged_json(rng, whole):
    """(what was done, the damaged bytes) of a JSON file: a value of it, or its bytes."""
    if rng.random() < 0.25:
        return damaged_bytes(rng, whole)
    data = json.loads(whole)
    kind, place = damage_value(rng, data)
    return f"{kind} {'/'.join(map(str, place))}", json.dumps(data, allow_nan=True).encode()


def _places(data, at):
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from _places(value, (*at, key))
