"""The fits of `reconstruct` against least squares written out: all rows in one matrix, one group after the other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d, NestedLinear
from rdnlib.nn.groups import Space, counterpart, inflate, nested_sizes
from rdnlib.surgery import ridge as ridge_module
from rdnlib.surgery.ridge import RIDGE, STRENGTHS, Moments, Sampling, fit_dense, fit_grouped, ridge, samples

ALL = Sampling(held_out=0)  # all images are fitted, with RIDGE


def slow_fit(columns, target, *, offset=True):
    """Ridge regression of target (n, T) on columns (n, F) with an intercept: what it predicts."""
    x, y = columns.double(), target.double()
    mean, target_mean = (x.mean(0), y.mean(0)) if offset else (torch.zeros_like(x[0]), torch.zeros_like(y[0]))
    x, y = x - mean, y - target_mean
    penalty = RIDGE * x.square().sum() / x.shape[1]
    weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ y)
    return x @ weights + target_mean


def space(channels, k, *, plain=False, width=1):
    sizes = (channels,) if plain else tuple(width * size for size in nested_sizes(channels // width, k))
    return Space(channels, sizes, plain, width)


def outputs_of(layer, norm, x):
    """The layer's output, through its norm in eval mode, as (n, C)."""
    y = layer(x, 1, len(layer.writes.sizes))
    if norm is not None:
        y = norm.eval()(y, 1, len(norm.writes.sizes))
    return y.flatten(2).transpose(1, 2).flatten(0, 1) if y.ndim == 4 else y


def batches_of(x, target, count=3):
    return zip(x.tensor_split(count), target.tensor_split(count), strict=True)


@given(
    k=st.integers(2, 4), kernel=st.sampled_from([1, 3]), stride=st.integers(1, 2), plain=st.booleans(),
    norm=st.booleans(), residual=st.booleans(), linear=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_dense_layers_are_fitted_group_by_group(k, kernel, stride, plain, norm, residual, linear, seed):
    torch.manual_seed(seed)
    reads, writes = space(6, k, plain=plain), space(7, k)
    if linear:
        layer, x = NestedLinear(nn.Linear(6, 7), k=k, reads=reads, writes=writes), torch.randn(60, sum(reads.sizes))
    else:
        conv = nn.Conv2d(6, 7, kernel, stride, kernel // 2)
        layer, x = NestedConv2d(conv, k=k, reads=reads, writes=writes), torch.randn(20, sum(reads.sizes), 4, 4)
    nn.init.normal_(layer.weight[0])
    for weight in layer.weight:
        nn.init.normal_(weight)
    x = x + 1
    target = layer(x, 1, 2 * k - 1)
    target = torch.tanh(target) + torch.randn(target.shape[1]).view(1, -1, *(1,) * (x.ndim - 2))
    batch_norm = NestedBatchNorm2d(nn.BatchNorm2d(7), writes=writes) if norm and not linear else None
    with torch.no_grad():
        fit_dense(layer, batch_norm, batches_of(x, target), k=k, residual=residual, sampling=ALL)
        fitted = outputs_of(layer, batch_norm, x)

    columns = x if linear else nn.functional.unfold(x, kernel, 1, kernel // 2, stride).mT.flatten(0, 1)
    wanted = ridge_module.rows_of(target)
    offsets, slow = writes.offsets, {}
    for group in range(1, 2 * k):
        read = torch.cat([torch.arange(a * layer.taps, b * layer.taps) for a, b in layer.runs[group - 1]])
        own = wanted[:, offsets[group - 1] : offsets[group]]
        partner = counterpart(group, k)
        if residual and partner != group:
            own = own - slow[partner]
        slow[group] = slow_fit(columns[:, read], own)
    slow = torch.cat([slow[group] for group in range(1, 2 * k)], dim=1)
    torch.testing.assert_close(fitted.double(), slow, rtol=1e-3, atol=1e-3 * slow.std().item())


@given(
    k=st.integers(2, 3), inputs=st.integers(1, 2), outputs=st.integers(1, 2), norm=st.booleans(), residual=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_grouped_convolutions_are_fitted_conv_group_by_conv_group(k, inputs, outputs, norm, residual, seed):
    torch.manual_seed(seed)
    groups = 5
    reads, writes = space(groups * inputs, k, width=inputs), space(groups * outputs, k, width=outputs)
    conv = nn.Conv2d(groups * inputs, groups * outputs, 3, 1, 1, groups=groups)
    layer = NestedGroupedConv2d(conv, reads=reads, writes=writes)
    nn.init.normal_(layer.weight)
    x = torch.randn(16, sum(reads.sizes), 4, 4) + 1
    target = torch.tanh(layer(x, 1, 2 * k - 1)) + torch.randn(sum(writes.sizes)).view(1, -1, 1, 1)
    batch_norm = NestedBatchNorm2d(nn.BatchNorm2d(groups * outputs), writes=writes) if norm else None
    with torch.no_grad():
        fit_grouped(layer, batch_norm, batches_of(x, target), k=k, residual=residual, sampling=ALL)
        fitted = outputs_of(layer, batch_norm, x)

    columns = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)  # (n, C·9)
    wanted = ridge_module.rows_of(target)
    count = sum(reads.sizes) // inputs
    partner = inflate(torch.arange(groups).split(list(nested_sizes(groups, k)[:k])))
    slow = {}
    for group in range(count):
        own = wanted[:, group * outputs : (group + 1) * outputs]
        if residual and group >= groups:
            own = own - slow[partner[group].item()]
        slow[group] = slow_fit(columns[:, group * inputs * 9 : (group + 1) * inputs * 9], own)
    slow = torch.cat([slow[group] for group in range(count)], dim=1)
    torch.testing.assert_close(fitted.double(), slow, rtol=1e-3, atol=1e-3 * slow.std().item())


def test_moments_do_not_depend_on_the_batches():
    z, t = torch.randn(5, 1000), torch.randn(3, 1000)
    whole, parts = Moments(), Moments()
    whole.add(z, t)
    for a, b in zip(z.split(77, dim=1), t.split(77, dim=1), strict=True):
        parts.add(a, b)
    for one, other in zip(whole.about(*whole.means()), parts.about(*parts.means()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    covariance, _ = whole.about(*whole.means())
    torch.testing.assert_close(covariance, torch.cov(z, correction=0).double(), rtol=1e-4, atol=1e-5)


def test_moments_keep_a_small_variance_about_a_large_mean():
    z = 100 + 0.01 * torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for piece in z.split(77, dim=1):
        moments.add(piece, piece[:3])
    covariance, cross = moments.about(*moments.means())
    exact = torch.cov(z.double(), correction=0)
    torch.testing.assert_close(covariance, exact, rtol=1e-4, atol=1e-4 * exact.max().item())
    torch.testing.assert_close(cross, exact[:, :3], rtol=1e-4, atol=1e-4 * exact.max().item())


def test_moments_about_any_centre():
    z, t, mean, target_mean = torch.randn(5, 99), torch.randn(3, 99), torch.randn(5).double(), torch.randn(3).double()
    moments = Moments()
    moments.add(z, t)
    covariance, cross = moments.about(mean, target_mean)
    z, t = z.double() - mean[:, None], t.double() - target_mean[:, None]
    torch.testing.assert_close(covariance, z @ z.T / 99, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cross, z @ t.T / 99, rtol=1e-5, atol=1e-5)


@given(
    kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 2), padding=st.integers(0, 2), dilation=st.integers(1, 2),
    positions=st.integers(1, 40), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_samples_are_columns_of_the_unfolded_input(kernel, stride, padding, dilation, positions, seed):
    conv = NestedConv2d(nn.Conv2d(4, 4, kernel, stride, padding, dilation), k=2, reads=space(4, 2), writes=space(4, 2))
    x = torch.randn(2, 6, 11, 9, generator=torch.Generator().manual_seed(seed))
    target = conv(x, 1, 3)
    whole = nn.functional.unfold(x, kernel, dilation, padding, stride)  # (B, C·taps, H'·W')
    z, t = samples(x, target, conv, positions, torch.Generator().manual_seed(seed))
    assert z.shape[2] == t.shape[2] == min(positions, whole.shape[2])
    rows = torch.cat([whole, target.flatten(2)], dim=1)
    for column in torch.cat([z, t], dim=1)[..., 0].unbind(dim=2):  # each is one of the positions, of both images alike
        assert (rows == column[..., None]).all(dim=1).all(dim=0).any()
    if positions >= whole.shape[2]:
        torch.testing.assert_close(z[..., 0], whole)


def test_ridge_of_many_problems_is_ridge_of_each():
    covariance = torch.randn(2, 4, 6, 6).double()
    covariance, cross = covariance @ covariance.mT, torch.randn(2, 4, 6, 2).double()
    together = ridge(covariance, cross, STRENGTHS)
    for index in range(4):
        torch.testing.assert_close(together[index], ridge(covariance[:, index], cross[:, index], STRENGTHS))


@given(noise=st.sampled_from([0.0, 0.3, 3.0]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_each_output_takes_the_ridge_that_predicts_the_held_out_images_best(noise, seed):
    """Against all fits written out, on few and noisy rows, where the smallest ridge is not the best one. A weaker ridge must
    explain 1 % more than the one before."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(60, 12, generator=generator).double()
    t = z[:, :3] + noise * torch.randn(60, 3, generator=generator).double()
    fitted, held_out = slice(0, 20), slice(20, 60)
    covariance = torch.stack([z[part].T @ z[part] / len(z[part]) for part in (fitted, held_out)])
    cross = torch.stack([z[part].T @ t[part] / len(z[part]) for part in (fitted, held_out)])
    chosen = ridge(covariance, cross, STRENGTHS)
    errors, weights = [], []
    for strength in STRENGTHS:
        penalty = strength * covariance[0].diagonal().mean() * torch.eye(12)
        weights.append(torch.linalg.solve(covariance[0] + penalty, cross[0]))
        explained = t[held_out].square() - (z[held_out] @ weights[-1] - t[held_out]).square()
        errors.append(-explained.mean(dim=0))
    for output in range(3):
        best = 0
        for index in range(1, len(STRENGTHS)):
            if errors[index][output] < errors[best][output] - 0.01 * abs(errors[best][output]):
                best = index
        torch.testing.assert_close(chosen[:, output], weights[best][:, output])


def test_every_eighth_image_is_held_out_whatever_the_batches():
    whole = Sampling().split(0, 50)[1]
    assert whole.nonzero().flatten().tolist() == [7, 15, 23, 31, 39, 47]
    assert torch.equal(torch.cat([Sampling().split(first, 10)[1] for first in range(0, 50, 10)]), whole)
    assert not Sampling(held_out=0).split(0, 50)[1].any()
