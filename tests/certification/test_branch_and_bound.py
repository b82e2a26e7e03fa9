"""The certifier that splits: what it records, that it says the same again, and that no attack contradicts it."""

import pytest
import torch

from gauntlet.certification import branch_and_bound
from gauntlet.certification.branch_and_bound import BranchAndBound
from gauntlet.certification.certifier import Work
from gauntlet.certification.linear_bounds import LinearBounds
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.certification.crown.conftest import attacked, dense, images, seeded

SHAPE = (1, 2, 2)


def certify(certifier, module, x, y, threat):
    victim = Victim(plain(module), (module,))
    certifier.check(victim, threat)
    with torch.no_grad():
        return certifier(victim, x, y, threat=threat, rng=Rng(0, torch.arange(len(x)), "certificate"), work=Work())


def case():
    module, x = seeded(dense(4, 12, 12, 3), 1), images(24, SHAPE)
    return module, x, module(x).argmax(1), Threat("linf", 0.4).scaled(torch.linspace(0.1, 1, 24))


def test_it_proves_more_and_breaks_only_what_falls():
    module, x, y, threat = case()
    y[3] = (y[3] + 1) % 3  # wrong
    before = certify(LinearBounds(method="alpha_crown"), module, x, y, threat)
    found = certify(BranchAndBound(domains=300), module, x, y, threat)
    assert torch.equal(found.predict, before.predict)
    assert (found.margin >= before.margin - 1e-6).all()
    assert (found.radius > 0).sum() > (before.radius > 0).sum()
    assert torch.equal(found.radius > 0, found.margin > 0)
    stop = list(found.stop)
    assert stop[3] == ""
    assert all(word in ("", "proven") for word, radius in zip(stop, found.radius, strict=True) if radius > 0)
    broken = torch.zeros(24, dtype=torch.bool)
    for z in attacked(module, x, y, threat):
        broken |= (module(z).argmax(1) != y) & threat.contains(z, x)
    assert not (broken & (found.radius > 0)).any()
    assert "broken" in stop
    assert "proven" in stop


def test_the_answer_depends_on_no_batch_mate_and_repeats():
    module, x, y, threat = case()
    certifier = BranchAndBound(domains=40, easy=16, inner_steps=3, split_steps=4)
    whole, part = certify(certifier, module, x, y, threat), torch.arange(5, 20)
    again = certify(certifier, module, x[part], y[part], threat.select(part))
    assert torch.equal(whole.margin[part], again.margin)
    assert [whole.stop[i] for i in part.tolist()] == list(again.stop)


def test_a_hard_image_begins_anew_with_tighter_layers(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "_descended", lambda *_: None)  # they break both images that are left
    module, x, y, threat = case()
    easy = certify(BranchAndBound(domains=4), module, x, y, threat)
    hard = certify(BranchAndBound(domains=8, easy=4, inner_steps=8), module, x, y, threat)
    assert (hard.margin >= easy.margin).all()
    left = [i for i, word in enumerate(easy.stop) if word == "budget"]
    assert (hard.margin[left] > easy.margin[left]).any()
    assert all(hard.stop[i] == easy.stop[i] for i in range(24) if i not in left)


def test_time_ends_a_search():
    module, x, y, threat = case()
    found = certify(BranchAndBound(domains=10**6, seconds=1e-6), module, x, y, threat)
    assert "time" in found.stop


@pytest.mark.parametrize("fields", [{"domains": 0}, {"split_steps": -1}, {"candidates": 0}, {"seconds": -1}])
def test_bad_fields(fields):
    with pytest.raises(UserError, match=f"certifier.{next(iter(fields))}="):
        BranchAndBound(**fields)


def test_it_is_named_in_what_it_refuses():
    module = dense(4, 3)
    victim = Victim(plain(module), (module,))
    with pytest.raises(UserError, match="certifier=branch_and_bound knows threat=linf and threat=l2"):
        BranchAndBound().check(victim, Threat("l1", 1))
