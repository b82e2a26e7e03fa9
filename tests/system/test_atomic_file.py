"""Files are replaced whole, with their content on the disk before; devices are never replaced."""

import os
from pathlib import Path

from gauntlet.data.download import staged
from gauntlet.system.atomic_file import write_atomically


def test_a_device_is_written_to(capfd):
    write_atomically(Path("/dev/stdout"), b"said")
    write_atomically(Path("/dev/null"), b"said")
    assert capfd.readouterr().out == "said"
    assert Path("/dev/null").is_char_device()


def test_what_was_fetched_is_on_the_disk_before_it_moves(tmp_path, monkeypatch):
    synced = []
    plain = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(str(Path(f"/proc/self/fd/{number}").readlink())), plain(number))
    )
    (tmp_path / "old").mkdir()
    with staged(tmp_path) as stage:
        for name in ("new/a", "old/b", "c"):
            (stage / name).parent.mkdir(exist_ok=True)
            (stage / name).write_text(name)
    assert sorted(Path(path).name for path in synced) == ["a", "b", "c"]
    assert [(tmp_path / name).read_text() for name in ("new/a", "old/b", "c")] == ["new/a", "old/b", "c"]
