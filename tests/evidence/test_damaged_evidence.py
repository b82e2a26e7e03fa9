"""A part of the assault on evidence (tests/assault): every kind of damage to the readers, some to the same command."""

import pytest

from tests.assault.damage import KINDS
from tests.assault.evidence_assault import check_readers, check_run, sound

__all__ = ["sound"]  # a fixture


def test_readers_survive_every_kind_of_damage(sound, tmp_path, capsys):
    assert len(KINDS) >= 71
    check_readers(sound, tmp_path, KINDS, capsys)


@pytest.mark.parametrize(
    "kind", ["part is a pipe", "part cut", "another chunk's part", "no examples", "chunks = 10000000000"]
)
def test_the_same_command_refuses_or_mends_damage(sound, tmp_path, kind):
    check_run(sound, tmp_path, kind)
