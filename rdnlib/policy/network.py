"""The policy network of Section 3.4 and Figure 7: from N_1's features, p_v = Pr(N_v is right) for every v.

It is fitted to the outcomes [l_v = y] of the K sub-networks. `calibration` turns its probabilities into exits.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from tqdm import tqdm

from rdnlib.errors import ConfigError, DataError, DivergedError
from rdnlib.utils.ranges import Count, NotNegative, Part, Positive


class PolicyNetwork(nn.Module):
    """MLP from N_1's pooled features (B, C) to p_v(x) = Pr(N_v is correct | x), (B, K).

    p_v = sigmoid(logit_v / temperature_v), the temperature being 1 until `fit_temperature` sets it. The features are
    standardised by stored statistics (`mean`, `std`), so they may be fed as they are. The last `logits` of the inputs
    come from N_1's logits (`nn.heads.evidence`). `PolicyNetwork(**policy.config())` rebuilds the network, for
    `load_state_dict`. `network` is the hash of the network that it was fitted for, if known.
    """

    def __init__(
        self, in_features: int, num_subnetworks: int, hidden: Sequence[int] = (64,), *, logits: int = 0
    ) -> None:
        super().__init__()
        sizes = [in_features, *hidden, num_subnetworks]
        if any(size < 1 for size in sizes):
            raise ConfigError(f"every layer of the policy network needs at least one unit, not {sizes}")
        if not 0 <= logits <= in_features:
            raise ConfigError(f"{logits} of the policy's {in_features} inputs cannot come from the logits")
        self.from_logits = logits
        self.network: str | None = None
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("std", torch.ones(in_features))
        self.register_buffer("temperature", torch.ones(num_subnetworks))
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        return (self.logits(features) / self.temperature).sigmoid()

    def logits(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.std)  # (B, C) → (B, K)

    def config(self) -> dict:
        """The arguments that rebuild this network; plain numbers, fit for JSON."""
        linear = self.layers[::2]
        return {
            "in_features": linear[0].in_features,
            "num_subnetworks": linear[-1].out_features,
            "hidden": [layer.out_features for layer in linear[:-1]],
            "logits": self.from_logits,
        }

    @property
    def madds(self) -> int:
        """Multiply-adds for one image. The standardisation is not counted: it can be folded into the first layer."""
        return sum(layer.weight.numel() for layer in self.layers[::2])

    @property
    def params(self) -> int:
        """Learned parameters (weights and biases)."""
        return sum(parameter.numel() for parameter in self.parameters())


def fit_policy(
    features: Tensor | np.ndarray,
    correct: Tensor | np.ndarray,
    *,
    hidden: Sequence[int] = (64,),
    epochs: Count = 60,
    lr: Positive = 5e-3,
    weight_decay: NotNegative = 1.0,
    batch_size: Count = 256,
    held_out: Part = 0.1,
    logits: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> PolicyNetwork:
    """Fit p_v(x) to the outcomes by binary cross-entropy on [l_v = y] (Figure 7); AdamW with a cosine schedule.

    features: (N, C) pooled features of N_1, the last `logits` of them from its logits; correct: (N, K) bool. A share
    `held_out` of the samples is not trained on: the weights of the epoch with the least cross-entropy on it are taken,
    because an over-confident policy would leave too early (0 takes the last epoch). The same seed gives the same
    weights; the global random state is left alone. The network is returned in eval mode on the device of `features`.
    Raises DataError on NaN, shapes that disagree or no samples, ConfigError on settings out of range, DivergedError.
    """
    features = torch.as_tensor(features).detach().float()
    target = _checked(features, correct)
    if epochs < 1 or batch_size < 1 or not lr > 0 or not weight_decay >= 0 or not 0 <= held_out < 1:
        raise ConfigError("fit_policy needs epochs, batch_size ≥ 1, lr > 0, weight_decay ≥ 0 and held_out in [0, 1)")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(features), generator=generator)
    inner, train = order.tensor_split([round(held_out * len(order))])
    if not len(train):
        raise DataError(f"{len(order)} samples are too few to fit a policy with held_out={held_out}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = PolicyNetwork(features.shape[1], target.shape[1], hidden, logits=logits).to(features.device)
    _standardise(policy, features[train], target[train])
    weights = [parameter for parameter in policy.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in policy.parameters() if parameter.ndim == 1]  # the base rates: not to be shrunk
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(train) // batch_size))

    least, best = float("inf"), policy.state_dict()  # which follows the network while there is nothing better
    bar = tqdm(range(epochs), desc="policy", disable=not progress)
    for _ in bar:
        for batch in train[torch.randperm(len(train), generator=generator)].split(batch_size):
            loss = cross_entropy(policy.logits(features[batch]), target[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if not torch.isfinite(loss):
            raise DivergedError(f"the policy's loss is not finite at lr={lr}: use a smaller one")
        with torch.no_grad():
            now = cross_entropy(policy.logits(features[inner]), target[inner]).item()  # NaN without held-out samples
        bar.set_postfix(held_out=f"{now:.4f}")
        if now < least:
            least, best = now, {name: value.clone() for name, value in policy.state_dict().items()}
    policy.load_state_dict(best)
    return policy.eval()


@torch.no_grad()
def fit_temperature(policy: PolicyNetwork, features: Tensor | np.ndarray, correct: Tensor | np.ndarray) -> Tensor:
    """Set and return the temperature of each output, (K,), that minimises its cross-entropy on other samples."""
    features = torch.as_tensor(features).detach().float().to(policy.mean.device)
    correct = _checked(features, correct)
    policy.temperature.copy_(best_temperature(policy.logits(features), correct))
    return policy.temperature


def best_temperature(logits: Tensor, correct: Tensor) -> Tensor:
    """(K,) temperatures T for which sigmoid(logits / T), (N, K), has the least cross-entropy on outcomes (N, K).

    The order in which an output ranks images stays. The cross-entropy is convex in b = 1 / temperature; its slope is
    the mean of z (sigmoid(b z) − [l_v = y]) for logits z. The slope is bisected, b from 1/50 to 50.
    """
    z, target = logits.double(), correct.double()
    low, high = torch.full_like(z[0], 1 / 50), torch.full_like(z[0], 50.0)
    for _ in range(50):
        middle = (low * high).sqrt()
        rising = (z * ((middle * z).sigmoid() - target)).mean(dim=0) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return 1 / (low * high).sqrt()


def _checked(features: Tensor, correct: Tensor | np.ndarray) -> Tensor:
    """`correct` as numbers 0 and 1 on the device of `features`; DataError if the two cannot be fitted to each other."""
    correct = torch.as_tensor(correct).to(features.device)
    if features.ndim != 2 or correct.ndim != 2 or len(features) != len(correct):
        raise DataError(
            f"features must be (N, C) and correct (N, K), not {tuple(features.shape)} and {tuple(correct.shape)}"
        )
    if not features.numel() or not correct.numel():
        raise DataError("there are no samples to fit the policy on")
    if not torch.isfinite(features).all():
        raise DataError("the features of N_1 hold NaN or infinity: the network they come from has diverged")
    if correct.dtype != torch.bool and not ((correct == 0) | (correct == 1)).all():
        raise DataError("correct must hold only true and false")
    return correct.float()


def _standardise(policy: PolicyNetwork, features: Tensor, target: Tensor) -> None:
    """Store the input statistics and start the outputs at the base rates: training learns only the differences."""
    policy.mean.copy_(features.mean(dim=0))
    # A constant feature carries nothing; dividing it by (nearly) zero would make it explode on new images.
    spread = features.std(dim=0, correction=0)
    policy.std.copy_(torch.where(spread > 1e-6 * (1 + policy.mean.abs()), spread, 1.0))
    with torch.no_grad():
        policy.layers[-1].bias.copy_(target.mean(dim=0).clamp(0.01, 0.99).logit())
