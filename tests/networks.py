"""Networks for tests of the surgery: the paper's three at small widths, and a small one unlike them."""

import torch
from conftest import settle_norms
from torch import nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from rdnlib import RDN, to_rdn
from rdnlib.models import mobilenet_v2, mobilenext, resnext50


class Mixed(nn.Module):
    """3×3 convolutions with bias, uneven channels, a residual, a gate, squeeze-and-excitation, a grouped convolution that widens,
    pooling, functions and methods instead of modules, work in place, and a hidden Linear behind flattened positions."""

    def __init__(self, width: int = 13):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 11, 3, 2, 1), nn.ReLU())
        self.first = nn.Sequential(
            nn.Conv2d(11, width, 3, 1, "same", bias=True), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 7, 1), nn.SiLU(), nn.Conv2d(7, width, 1), nn.Sigmoid()
        )
        self.third = nn.Sequential(nn.Conv2d(width, 18, 3, 2, 1), nn.Conv2d(18, 27, 3, 1, 1, groups=9), nn.Tanh())
        self.excite = SqueezeExcitation(27, 6, activation=nn.SiLU)  # a dead ReLU would have no gradient
        self.fourth = nn.Conv2d(27, 15, 1)
        self.hidden, self.norm = nn.Linear(15 * 4, 12), nn.BatchNorm1d(12)
        self.classifier = nn.Linear(12, 6)

    def forward(self, x):
        x = self.first(self.stem(x))
        y = self.second(x) * self.gate(x)
        y += 0.5 * x
        x = self.excite(self.third(y))
        x = F.adaptive_avg_pool2d(F.hardswish(self.fourth(x)), 2)
        x = x.view(x.size(0), -1)
        return self.classifier(self.norm(self.hidden(x)).tanh())


# name → (builder of a width and number of classes, its widths, its choices of plain layers)
NETWORKS = {
    "mobilenext": (mobilenext, (0.2, 0.25, 0.35), (None, (), ("stem", "blocks.0", "blocks.1", "blocks.4"))),
    "mobilenet_v2": (mobilenet_v2, (0.25, 0.35), (None, (), ("features.0", "features.6"))),
    "resnext50": (resnext50, (0.25,), (None, (), ("conv1", "layer1", "layer2"))),
    "mixed": (lambda *, width_mult, num_classes: Mixed(round(13 * width_mult)), (0.5, 1.0, 1.3), (None, ("first",))),
}
FITTING_WIDTH = {name: widths[-1] for name, (_, widths, _) in NETWORKS.items()}


def build(name: str, images, *, width: float | None = None, seed: int = 0) -> nn.Module:
    """A network with settled batch norms and six classes."""
    torch.manual_seed(seed)
    builder, widths, _ = NETWORKS[name]
    return settle_norms(builder(width_mult=width or widths[-1], num_classes=6), images)


def randomise(rdn: RDN, seed: int) -> RDN:
    """Weights and statistics far from their initial values, new groups unlike their counterparts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rdn.parameters():
            parameter.mul_(0.75 + 0.5 * torch.rand(parameter.shape, generator=generator))
    return rdn


def make(name: str, images, *, k=4, select="random", init="copy", plain=None, width=None, seed=0, align=None) -> RDN:
    model = build(name, images, width=width, seed=seed)
    rdn = to_rdn(model, k, select=select, init=init, calibration=images, plain=plain, seed=seed, align=align)
    return randomise(rdn, seed)
