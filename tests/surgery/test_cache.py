"""The activation cache: in memory and in files, the same."""

from functools import partial

import pytest
import torch
from support.networks import NETWORKS, build

from rdnlib import to_rdn
from rdnlib.surgery import cache as cache_module
from rdnlib.surgery import reconstruct
from rdnlib.surgery.cache import activation_cache
from rdnlib.surgery.ridge import Sampling


def test_it_gives_back_what_was_put_into_it_from_memory_and_from_files(tmp_path):
    values = {("a", 0): torch.randn(3, 4), ("a", 1): torch.randn(2, 4), ("b", 0): torch.arange(5)}
    with activation_cache(limit=48) as cache:  # bytes: the first value alone
        for (name, batch), value in values.items():
            cache.put(name, batch, value)
        files = list(cache.folder.iterdir())
        assert len(files) == 2
        assert all(torch.equal(cache.get(*key), value) for key, value in values.items())
        cache.drop("a")
        assert cache.used == 0
        assert len(list(cache.folder.iterdir())) == 1
        with pytest.raises(KeyError):
            cache.get("a", 0)
    assert not cache.folder.exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_in_batches_and_on_disk_changes_nothing(images, name, monkeypatch):
    """Any number of batches, and values that wait in files: the same RDN, where the ridge does not jump from one strength to the next."""
    model = build(name, images)
    monkeypatch.setattr(reconstruct, "Sampling", partial(Sampling, held_out=0))
    whole = to_rdn(model, 2, select="greedy-relative", init="reconstruct", calibration=images)
    monkeypatch.setattr(cache_module, "MEMORY", 0)
    parts = to_rdn(model, 2, select="greedy-relative", init="reconstruct", calibration=images.split(5))
    with torch.no_grad():
        a, b = whole(images), parts(images)
    assert (a - b).square().mean() < 1e-4 * a.var()
