"""The evaluation loop on small deterministic victims."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.attacks.suite import Suite
from gauntlet.data.chunks import chunks_of
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evidence.schema import ATTACK_SCHEMA
from gauntlet.threat_model.attack import compares
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.verification.row_checks import row_problems


class Net(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        rng = Rng(7, torch.arange(1), "weights")
        self.first = rng.normal((16, 24), dtype=dtype)[0] / 4
        self.second = rng.stream("2").normal((24, 5), dtype=dtype)[0] / 2

    def forward(self, x):
        return torch.relu((x - 0.5).flatten(1) @ self.first) @ self.second


def images(count=40, dtype=torch.float64):
    ids = torch.arange(count) * 3 + 5
    x = Rng(0, ids, "images").uniform((1, 4, 4), dtype=dtype)
    y = Net(dtype)(x).argmax(1)
    y[:4] = (y[:4] + 1) % 5  # some clean errors
    return Batch(ids, x, y)


def evaluation(**changes):
    net = Net()
    knobs = {
        "victim": Victim(plain(net), (net,)),
        "attack": ("pma", PMA(steps=10)),
        "threat": Threat("linf", 0.05),
        "classes": 5,
    }
    return Evaluation(**(knobs | changes))


def frame(run, batch=None):
    return evaluate_chunk(run, batch or images()).rows.to_pandas()


def test_one_row_per_sample_and_stage_that_attacks_it():
    rows = frame(evaluation())
    clean, attacked = rows[rows["stage"] == "clean"], rows[rows["stage"] == "pma/true"]
    assert clean["sample"].tolist() == images().ids.tolist()
    assert clean["broken"].sum() == 4
    assert set(attacked["sample"]) == set(clean[~clean["broken"]]["sample"])
    assert 0 < attacked["broken"].sum() < len(attacked)
    assert (attacked["broken"] == (attacked["pred"] != attacked["label"])).all()
    assert (attacked["distance"] <= 0.05 * (1 + 1e-6)).all()
    assert (attacked["margin"] < 0).equals(attacked["broken"])
    assert rows["error"].isna().all()


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("attack", [("pma", PMA(steps=10)), ("pgd", PGD(steps=10, restarts=2))], ids=lambda a: a[0])
def test_the_batch_size_changes_no_record(size, attack):
    whole = evaluate_chunk(evaluation(attack=attack, batch_size=40), images())
    parts = evaluate_chunk(evaluation(attack=attack, batch_size=size), images())
    assert parts.rows.equals(whole.rows)
    assert all(np.array_equal(parts.adversarial[key], whole.adversarial[key]) for key in whole.adversarial)


def test_the_cut_into_chunks_changes_no_record():
    batch = images()
    whole = frame(evaluation()).sort_values(["stage", "sample"], ignore_index=True)
    split = [frame(evaluation(), Batch(*(t[at] for t in batch))) for at in (slice(0, 11), slice(11, 40))]
    glued = __import__("pandas").concat(split).sort_values(["stage", "sample"], ignore_index=True)
    assert glued.equals(whole)


def test_the_order_within_a_chunk_changes_no_record():
    batch = images()
    mixed = torch.arange(39, -1, -1)
    assert frame(evaluation(), Batch(*(t[mixed] for t in batch))).equals(frame(evaluation()))


def test_stored_examples_are_the_judged_ones():
    done = evaluate_chunk(evaluation(), images())
    rows = done.rows.to_pandas()
    broken = rows[rows["broken"] & (rows["stage"] != "clean")]
    assert done.adversarial["sample"].tolist() == broken["sample"].tolist()
    z = torch.from_numpy(done.adversarial["z"]).double()
    assert Net()(z).argmax(1).tolist() == broken["pred"].tolist()


@dataclass(frozen=True)
class Fixed:
    """An attack that returns what it is told to."""

    needs: ClassVar[str] = "gradient"
    kind: str = "crash"

    def __call__(self, head, x, y, *, threat, rng) -> Tensor:
        if self.kind == "crash":
            raise RuntimeError("out of luck\nand a second line")
        if self.kind == "illegal":
            return x + 2 * threat.radius
        return torch.full_like(x, torch.nan)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("crash", "RuntimeError: out of luck"), ("illegal", "outside the threat"), ("nan", "outside the threat")],
)
def test_a_crash_or_an_illegal_candidate_is_an_error_record(kind, text):
    rows = frame(evaluation(attack=("fixed", Fixed(kind))))
    attacked = rows[rows["stage"] == "fixed/true"]
    assert attacked["error"].str.contains(text).all()
    assert not attacked["broken"].any()
    assert len(attacked) == 36


def test_a_surrogate_find_counts_only_if_it_fools_the_deployed_forward():
    net = Net()
    lying = Head("lying", lambda x, rng: -net(x))  # calls everything broken
    helpful = Head("helpful", lambda x, rng: net(x))
    for head in (lying, helpful):
        victim = Victim(lambda x, rng: net(x).round(decimals=2), (net,), (head,))  # the true head has no gradient
        rows = frame(evaluation(victim=victim, threat=Threat("linf", 0.02)))
        found = rows[rows["stage"] == f"pma/{head.name}"]
        assert found["broken"].any() if head is helpful else not found["broken"].all()
        assert (found["broken"] == (found["pred"] != found["label"])).all()
        true = rows[rows["stage"] == "pma/true"]
        assert (true["zero_gradients"] > 0).all() or not true["broken"].all()


def test_heads_true_attacks_only_the_deployed_forward():
    net = Net()
    victim = Victim(plain(net), (net,), (Head("other", plain(net)),))
    assert [stage.name for stage in evaluation(victim=victim).stages] == ["pma/true", "pma/other"]
    assert [stage.name for stage in evaluation(victim=victim, heads="true").stages] == ["pma/true"]


def test_bfloat16_gradients_and_a_folded_twin_find_as_much_and_the_plain_network_judges():
    net = Net(torch.float32)
    batch = images(200, torch.float32)
    victim = Victim(plain(net), (net,))
    base = evaluation(victim=victim, threat=Threat("linf", 0.04))
    found = frame(base, batch)["broken"].sum()
    reduced = frame(replace(base, gradients=torch.bfloat16), batch)
    assert abs(int(reduced["broken"].sum()) - int(found)) <= 1
    assert (reduced["broken"] == (reduced["pred"] != reduced["label"])).all()
    fused = replace(base, fused=Victim(plain(Net(torch.float32)), (net,)))
    assert frame(fused, batch)["broken"].sum() == found


@pytest.mark.parametrize(
    ("value", "seen"), [(1.5, "1.5"), (-0.1, "-0.1"), (float("nan"), "nan"), (float("inf"), "inf")]
)
def test_pixels_outside_the_box_are_refused(value, seen):
    batch = images()
    batch.x[7, 0, 0, 0] = value
    with pytest.raises(UserError, match=rf"image 26 has pixels.*{seen}.*\[0, 1\]"):
        evaluate_chunk(evaluation(), batch)


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_outside_the_classes_are_refused(label):
    batch = images()
    batch.y[7] = label
    with pytest.raises(UserError, match=f"image 26 has label {label}"):
        evaluate_chunk(evaluation(), batch)


def test_a_wrong_class_count_and_nan_scores_are_refused():
    with pytest.raises(UserError, match="the data set has 9 classes"):
        evaluate_chunk(evaluation(classes=9), images())
    broken = Victim(lambda x, rng: torch.full((len(x), 5), torch.nan), ())
    with pytest.raises(UserError, match="not finite for 40 of 40"):
        evaluate_chunk(evaluation(victim=broken), images())


def test_progress_counts_every_sample_of_every_stage():
    seen: dict[str, list[tuple[int, int]]] = {}
    run = evaluation(batch_size=7)
    evaluate_chunk(run, images(), lambda stage, count, due: seen.setdefault(stage, []).append((count, due)))
    assert {stage: sum(count for count, _ in told) for stage, told in seen.items()} == {"clean": 40, "pma/true": 36}
    assert {due for _, due in seen["pma/true"]} == {36}  # the others are wrong as they are


def test_every_chunk_belongs_to_one_shard():
    taken = [list(chunks_of(1000, 64, 3, shard)) for shard in range(3)]
    assert sorted(chunk for chunks in taken for chunk in chunks) == list(range(16))


def test_rows_have_the_schema():
    assert evaluate_chunk(evaluation(), images()).rows.schema.equals(ATTACK_SCHEMA)


def test_a_judge_that_fails_on_a_candidate_is_an_error_record():
    net = Net()

    def fragile(x, rng):
        if rng.name == "judge" and (x != images().x[: len(x)]).any() and len(x) < 40:
            raise RuntimeError("cannot see this")
        return net(x)

    rows = frame(evaluation(victim=Victim(fragile, (net,))))
    assert rows[rows["stage"] == "pma/true"]["error"].eq("RuntimeError: cannot see this").all()


def test_a_model_that_cannot_predict_clean_images_is_refused():
    def deaf(x, rng):
        raise ValueError("expected 3 channels\nand more")

    with pytest.raises(UserError, match=r"cannot predict clean images of \[1, 4, 4\]: expected 3 channels$"):
        evaluate_chunk(evaluation(victim=Victim(deaf, ())), images())


@dataclass(frozen=True)
class Comparing:
    """Moves the half of its samples that shine brightest, and says how many it was given, and in what pieces."""

    needs: ClassVar[str] = "gradient"
    cross_sample: ClassVar[bool] = True
    seen: list = field(default_factory=list)

    def __call__(self, head, x, y, *, threat, rng):
        index = torch.arange(len(x))
        self.seen.append((len(x), [len(piece) for piece in head.batches(index)]))
        for piece in head.batches(index):
            head.scores(x[piece], rng.select(piece))
        light = x.flatten(1).sum(1)
        return torch.where((light > light.median()).reshape(-1, 1, 1, 1), threat.project(x - 1, x), x)


def test_an_attack_that_compares_samples_sees_the_chunk_whole_and_cuts_its_passes_itself():
    rows = []
    for size in (7, 40):
        attack = Comparing()
        rows.append(frame(evaluation(attack=("comparing", attack), batch_size=size)))
        standing = 36
        assert attack.seen == [(standing, [7, 7, 7, 7, 7, 1] if size == 7 else [standing])]
    assert rows[0].equals(rows[1])
    assert compares(Comparing())
    assert compares(Suite({"pma": PMA(), "comparing": Comparing()}))
    assert not compares(Suite({"pma": PMA()}))


@pytest.mark.parametrize(("coverage", "rows"), [("standing", 36), ("correct", 36), ("all", 40)])
def test_the_coverage_says_whom_a_stage_attacks(coverage, rows):
    suite = Suite({"first": PGD(steps=5), "second": PGD(steps=10)})
    done = evaluate_chunk(evaluation(attack=("suite", suite), coverage=coverage), images())
    table = done.rows.to_pandas()
    first, second = (table[table["stage"] == f"{name}/true"] for name in ("first", "second"))
    assert len(first) == rows
    assert first["broken"].any()
    assert len(second) == (rows - first["broken"].sum() if coverage == "standing" else rows)
    stages = ["clean", "first/true", "second/true"]
    assert not list(row_problems(table, images().ids.tolist(), stages, 0.06, coverage))
    for other in {"standing", "correct", "all"} - {coverage}:
        assert list(row_problems(table, images().ids.tolist(), stages, 0.06, other))
    found = table[table["broken"] & (table["stage"] != "clean")]
    stored = zip(done.adversarial["sample"].tolist(), done.adversarial["stage"].tolist(), strict=True)
    assert set(stored) == {(row.sample, stages.index(row.stage) - 1) for row in found.itertuples()}
