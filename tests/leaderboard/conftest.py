"""Synthetic evidence: run folders written as the evaluation writes them, with verdicts chosen by the test."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from gauntlet.evidence.digest import adversarial_digest, manifest_digest, records_digest
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import ATTACK_SCHEMA, CLEAN_STAGE, RANDOM_SCHEMA, rows
from gauntlet.evidence.verdict_seal import sealed
from gauntlet.leaderboard.collect import collect, discover
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.score import pools, score
from gauntlet.system.atomic_file import write_atomically

Make = Callable[..., RunFolder]

STRONG = {"_target_": "attacks.gauntlet.Gauntlet", "steps": 20}
"""An attack at the floor of a table, whatever a test calls it."""


def make_run(
    root: Path,
    *,
    attack: str = "pgd",
    defense: str = "none",
    model: str = "small_cnn",
    victim: str | None = None,
    dataset: str = "digits",
    norm: str = "linf",
    eps: str = "8/255",
    heads: str = "declared",
    stages: Sequence[str] | None = None,
    ids: Sequence[int] = range(20),
    selection: str = "all",
    wrong: Collection[int] = (),
    broken: Mapping[str, Collection[int]] | Collection[int] = (),
    distance: float | Mapping[int, float] | None = None,
    queries: Mapping[int, int] | None = None,
    errors: Mapping[int, str] | None = None,
    missing: Collection[tuple[int, str]] = (),
    chunk: int = 8,
    chunks: Collection[int] | None = None,
    images: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None,
    change: Mapping[str, Any] | None = None,
    seed: int = 0,
    shares: Callable[[int, str], tuple[float, float]] | None = None,
    label: Callable[[int], int] = lambda sample: 1,
) -> RunFolder:
    """Write a run.

    label: class of each sample; what breaks it becomes class 2, or 1 where it is of class 2.
    shares: (sample, stage) -> wrong and fresh share, of a randomized defense whose stages all attack every sample.
    broken: samples that each stage breaks (a bare collection: the first stage). distance: of all finds, or by sample.
    queries: forwards of each sample, by an attack that takes no gradient.
    missing: (sample, stage) rows left out.
    chunks: which chunks to write (all). images: sample -> clean and adversarial image. change: manifest keys to set.
    """
    stages = list(stages or [f"{attack}/true"])
    finds = broken if isinstance(broken, Mapping) else {stages[0]: broken}
    radius = None if eps == "unbounded" else float(Fraction(eps))
    name = {"dataset": dataset, "threat": f"{norm}-{eps.replace('/', '_')}", "defense": defense, "attack": attack}
    tail = f"{heads}-{selection}-{seed}"
    run = RunFolder(root.joinpath(*(part.replace("/", "_") for part in name.values()), tail))
    wanted = range(-(-len(ids) // chunk)) if chunks is None else chunks
    manifest: Manifest = {
        "schema_version": 1,
        "status": "done",
        "kind": "attack",
        "name": name | {"model": model},
        "command": f"python run.py attack={attack} defense={defense} seed={seed}",
        "config": {"attack": STRONG, "model": {"_target_": "gauntlet.models.small_cnn.SmallCNN"}, "seed": seed},
        "config_hash": "sha256:" + "0" * 64,
        "victim": victim or f"sha256:{defense}",
        "threat": {"norm": norm, "eps": eps, "radius": radius, "low": 0.0, "high": 1.0},
        "heads": heads,
        "dataset": {"name": dataset, "digest": "sha256:data", "selection": selection, "samples": len(ids)},
        "weights": {"model": "sha256:" + "1" * 64},
        "card": {"claims": "none", "randomized": False},
        "stages": [CLEAN_STAGE, *stages],
        "chunk": chunk,
        "chunks": -(-len(ids) // chunk),
        "seed": seed,
        "commit": "0123456789abcdef",
        "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
        "device": "cpu",
        "started": "2026-01-04T10:00:00Z",
        "finished": "2026-01-05T10:00:00Z",
        "cost": {s: {"attacked": 0, "forwards": 0, "backwards": 0, "seconds": 1.5} for s in [CLEAN_STAGE, *stages]},
        "flags": [],
        "failures": [],
    }
    run.update({**manifest, **(change or {})})  # type: ignore[typeddict-item]
    for index in wanted:
        members = list(ids)[index * chunk : (index + 1) * chunk]
        far = (radius or 1.0) if distance is None else distance
        table = _table(members, stages, wrong, finds, far, queries, errors or {}, missing, label)
        if shares is not None:
            table = _drawn(members, stages, shares)
        if images is not None:
            write_atomically(run.adversarial_path(index), _pictures(table, stages, images))
        run.write_part(index, rows(table), {"clean": 0.5})
    return run


def _table(
    members: Sequence[int],
    stages: Sequence[str],
    wrong: Collection[int],
    finds: Mapping[str, Collection[int]],
    distance: float | Mapping[int, float],
    queries: Mapping[int, int] | None,
    errors: Mapping[int, str],
    missing: Collection[tuple[int, str]],
    label: Callable[[int], int],
) -> dict[str, list[Any]]:
    """One clean row and, until it breaks, one row per stage for each sample: 10 forwards and 4 backwards a stage."""
    records = []
    for sample in members:
        stood = sample not in wrong
        own = label(sample)
        other = 1 if own == 2 else 2
        pred = own if stood else other
        records.append((sample, CLEAN_STAGE, own, pred, pred, not stood, 0.0, 1.0 + sample, 1, 0, 0, 0, None))
        for stage in stages:
            if not stood:
                break
            fell = sample in finds.get(stage, ())
            error = errors.get(sample)
            pred = other if fell else own
            passes = (10, 4) if queries is None else (queries[sample], 0)
            far = distance.get(sample, 0.0) if isinstance(distance, Mapping) else distance
            records.append((sample, stage, own, own, pred, fell, far, -1.0 if fell else 1.0, *passes, 0, 0, error))
            stood = not fell
    kept = [record for record in records if record[:2] not in set(missing)]
    return {column: [record[i] for record in kept] for i, column in enumerate(ATTACK_SCHEMA.names)}


def _drawn(
    members: Sequence[int], stages: Sequence[str], shares: Callable[[int, str], tuple[float, float]]
) -> dict[str, list[Any]]:
    """A row of each sample in each stage."""
    records = []
    for sample in members:
        for stage in (CLEAN_STAGE, *stages):
            wrong, fresh = shares(sample, stage)
            passes = (0, 0) if stage == CLEAN_STAGE else (40, 20)
            pred, far = (2, 1)[wrong <= 0.5], 0.0 if stage == CLEAN_STAGE else 0.01
            row = (sample, stage, 1, 1, pred, wrong > 0.5, far, 0.0, *passes, 0, 0, None, wrong, fresh)
            records.append(row)
    return {column: [record[i] for record in records] for i, column in enumerate(RANDOM_SCHEMA.names)}


def _pictures(
    table: dict[str, list[Any]], stages: Sequence[str], images: Callable[[int], tuple[np.ndarray, np.ndarray]]
) -> bytes:
    names = list(stages)
    pairs = zip(table["sample"], table["stage"], table["broken"], strict=True)
    found = [(sample, names.index(stage)) for sample, stage, broken in pairs if broken and stage != CLEAN_STAGE]
    shape = np.shape(images(0)[0])
    stacked = [np.array([images(s)[i] for s, _ in found], np.float32).reshape(-1, *shape) for i in (0, 1)]
    tensors = {
        "sample": np.array([s for s, _ in found], np.int64),
        "stage": np.array([i for _, i in found], np.uint8),
        "x": stacked[0],
        "z": stacked[1],
    }
    return bytes(save(tensors, {"stages": json.dumps(names)}))


def verify(run: RunFolder, *, verified: bool = True, checked: int = 5, failed: int = 0, claimed: int = 5) -> None:
    """Write the verdict of the independent check; it is one in part where there are more claims than examples."""
    content = {"verified": verified, "checked": checked, "failed": failed, "claimed": claimed}
    content["partial"] = 0 < checked < claimed and not failed
    content |= {"records_digest": records_digest(run), "manifest_digest": manifest_digest(run)}
    content |= {"adversarial_digest": adversarial_digest(run)}
    (run.path / "verification.json").write_text(json.dumps(sealed(content)))


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk() -> Iterator[None]:
    """Thousands of small files are written here, and no test pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def make(runs: Path) -> Make:
    return partial(make_run, runs)


@pytest.fixture
def entries(runs: Path) -> Callable[[], list[Entry]]:
    """Scores what is in the runs folder."""

    def scored() -> list[Entry]:
        return [entry for pool in pools(discover(runs).runs) for entry in score([collect(run, runs) for run in pool])]

    return scored


@pytest.fixture
def check() -> Callable[..., None]:
    return verify


@pytest.fixture(scope="session")
def write_run() -> Make:
    """The builder itself, for tests that choose their folder."""
    return make_run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, of which a test opens pages; skips where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on the PATH; install one, for example: apt-get install chromium")
    with driver.sync_playwright() as session:
        chromium = session.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
