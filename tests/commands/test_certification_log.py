"""Synthetic certification logs in the public format: what they add up to, and how they were made."""

import numpy as np
import pytest
from scipy import stats

from gauntlet.certification.sequential_test import floored
from gauntlet.commands.certification_log import ALPHAS, audit, ladder, main, read
from gauntlet.errors import UserError
from gauntlet.metrics.certificate_summary import summary
from tests.leaderboard.test_certificates import certify

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def write(path, misses, *, alpha=0.001, draws=100_000, scale=1, sigma=0.5, digits=3):
    lines = [HEAD]
    for number, miss in enumerate(misses):
        total = draws * scale
        radius = sigma * stats.norm.ppf(stats.beta.ppf(alpha, total - miss * scale, miss * scale + 1))
        lines.append(f"{number * 20}\t1\t1\t{radius:.{digits}}\t1\t0:00:01.500000\n")
    path.write_text("".join(lines))
    return path


def test_a_log_adds_up(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        HEAD + "0\t3\t3\t0.5\t1\t0:01:02.5\n20\t3\t-1\t0.0\t0\t2.0\n40\t1\t2\t0.75\t0\t1\n60\t1\t1\t0.25\t1\t1\n"
    )
    log = read(path)
    assert [log.certified(radius) for radius in (0.0, 0.25, 0.3, 0.5, 0.6)] == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert log.average == pytest.approx(0.75 / 4)
    assert log.abstained == 0.25
    assert log.seconds.tolist() == [62.5, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(("alpha", "draws"), [(0.001, 100_000), (0.01, 100_000), (0.001, 10_000), (0.001, 1000)])
def test_the_ladder_tells_alpha_and_draws(tmp_path, alpha, draws):
    path = write(tmp_path / "log", [0, 1, 2, 3, *range(40, 100)], alpha=alpha, draws=draws, digits=4)
    told = audit(read(path), 0.5)
    assert (told.alpha, told.draws, told.scale, told.problems) == (alpha, draws, 1, ())
    assert main([str(path), "--sigma", "0.5"]) == 0


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("draws", [100, 500, 1000, 10_000, 100_000])
def test_radii_that_were_rounded_down_tell_it_too(tmp_path, alpha, draws, sigma):
    misses = [0, 1, 2, 3, *range(4, 20)]
    bound = stats.beta.ppf(alpha, draws - np.array(misses), np.array(misses) + 1)
    run = certify(tmp_path, floored(sigma * stats.norm.ppf(bound)).tolist())
    path = str(tmp_path / "log")
    assert main([str(run.path), "--write", path]) == 0
    told = audit(read(tmp_path / "log"), sigma)
    assert (told.alpha, told.draws, told.scale, told.problems) == (alpha, draws, 1, ())
    assert main([path, "--sigma", str(sigma), "--alpha", str(alpha)]) == 0
    assert main([path, "--sigma", str(sigma), "--alpha", str(alpha * 2)]) == 1


@pytest.mark.parametrize("alpha", [0.0011, 0.004])
def test_a_ladder_of_no_known_alpha_stays_one_when_rounded_down(tmp_path, alpha):
    bound = stats.beta.ppf(alpha, 500 - np.arange(20), np.arange(20) + 1)
    run = certify(tmp_path, floored(0.5 * stats.norm.ppf(bound)).tolist())
    assert main([str(run.path), "--write", str(tmp_path / "log")]) == 0
    assert "no known alpha" in audit(read(tmp_path / "log"), 0.5).problems[0]


def test_another_alpha_than_was_said_is_told(tmp_path, capsys):
    path = str(write(tmp_path / "log", [0, 1, 2, 3, *range(40, 100)], alpha=0.01, digits=4))
    assert main([path, "--sigma", "0.5", "--alpha", "0.01"]) == 0
    assert main([path, "--sigma", "0.5", "--alpha", "0.001"]) == 1
    assert "alpha = 0.01, not 0.001" in capsys.readouterr().out


def test_counts_that_were_scaled_are_told(tmp_path, capsys):
    path = write(tmp_path / "log", [0, 1, 2, 3, *range(4, 60)], draws=1000, scale=100, digits=4)
    told = audit(read(path), 0.5)
    assert (told.draws, told.scale) == (1000, 100)
    assert "no certificates" in told.problems[0]
    assert main([str(path), "--sigma", "0.5"]) == 1
    assert "1000 draws times 100" in capsys.readouterr().out


def test_a_wrong_sigma_and_a_crowded_top_are_told(tmp_path):
    path = write(tmp_path / "log", [0, 1, 2, 3, *range(40, 100)])
    assert audit(read(path), 0.3).problems
    crowded = write(tmp_path / "crowded", [0] * 40 + [1, 2, 3, *range(10, 50)])
    assert "the largest radius" in audit(read(crowded), 0.5).problems[0]


def test_the_ladder_starts_at_the_cap():
    assert ladder(0.01, 100_000)[:3] == pytest.approx([3.911, 3.821, 3.763], abs=6e-4)
    assert ladder(0.001, 100_000)[:3] == pytest.approx([3.8115, 3.739, 3.690], abs=6e-4)
    assert (np.diff(ladder(0.001, 1000)) < 0).all()


def test_a_run_becomes_a_log_with_the_same_numbers(tmp_path, capsys):
    """No radius grows on the way, whatever its digits, and an abstention stays one."""
    radii, right = [0.0, 0.9996, 0.999999, 1 / 3, 0.1 + 0.2, 0.951234], [False, True, True, True, False, True]
    run = certify(tmp_path, radii, right=right)
    assert main([str(run.path), "--write", str(tmp_path / "log")]) == 0
    assert "6 images" in capsys.readouterr().out
    log, total = read(tmp_path / "log"), summary(run)
    assert log.radius.tolist() == radii
    assert log.correct.tolist() == right
    assert log.seconds.sum() == pytest.approx(2.0, abs=1e-5)
    for radius in (0.0, 0.3, 1 / 3, 0.9996, 0.99961, 1.0):
        assert log.certified(radius) == total.certified(radius) / 6
    assert log.average == pytest.approx(total.average)


def test_what_is_no_run_writes_no_log(tmp_path, capsys):
    running = certify(tmp_path, [0.5], status="running")
    for folders in ([tmp_path / "nothing"], [running.path], [running.path, running.path]):
        assert main([*map(str, folders), "--write", str(tmp_path / "log")]) == 1
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "log").exists()
    assert main([str(tmp_path / "log")]) == 1
    assert "--sigma" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("idx\tlabel\n0\t1\n", "lacks the column predict"),
        (HEAD, "holds no certificates"),
        (HEAD + "0\t1\t1\tmuch\t1\t1\n", "line 2"),
        (HEAD + "0\t1\t1\tnan\t1\t1\n", "line 2"),
    ],
)
def test_logs_that_are_none(tmp_path, text, why):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(UserError, match=why):
        read(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "gone")
