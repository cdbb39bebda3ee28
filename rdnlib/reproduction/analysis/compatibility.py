"""torchvision's classification networks: which of them become an RDN, and why the others do not (Section 3.2).

The surgery looks only at shapes and at the graph, so the networks are built on torch's `meta` device, which has shapes
but no numbers: even the largest takes a second and no memory.
"""

from collections.abc import Iterable

import pandas as pd
import torch
import torchvision.models as tv
from accelerate import init_empty_weights
from torch import nn

from rdnlib.errors import ConfigError, UnsupportedModuleError
from rdnlib.madds import count, count_subnetworks
from rdnlib.models import MobileNetV2, ResNeXt
from rdnlib.surgery.nest import to_rdn

FAMILIES = {
    "AlexNet": ("alexnet",),
    "VGG": ("vgg11", "vgg11_bn", "vgg16_bn"),
    "ResNet": ("resnet18", "resnet34", "resnet50", "wide_resnet50_2"),
    "ResNeXt": ("resnext50_32x4d",),
    "MobileNet": ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    "MNASNet": ("mnasnet0_5", "mnasnet1_0"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b1", "efficientnet_v2_s"),
    "RegNet": ("regnet_x_400mf", "regnet_x_800mf", "regnet_y_400mf", "regnet_y_800mf"),
    "DenseNet": ("densenet121",),
    "Inception": ("googlenet", "inception_v3"),
    "SqueezeNet": ("squeezenet1_0",),
    "ShuffleNet": ("shufflenet_v2_x1_0",),
    "ConvNeXt": ("convnext_tiny",),
    "transformers": ("vit_b_16", "swin_t", "maxvit_t"),
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names}
# What stays plain besides the layers that read the image: the paper's choice for its own networks, and a first stage
# that has fewer conv-groups than an RDN of k = 4 has groups.
PLAIN = {
    "mobilenet_v2": MobileNetV2.plain_by_default,
    "resnext50_32x4d": ResNeXt.plain_by_default,
    "regnet_x_400mf": ("trunk_output.block1",),
}


def blank(name: str) -> nn.Module:
    """A network of torchvision on the meta device, in eval mode. Raises ConfigError for an unknown name."""
    if name not in FAMILY:
        raise ConfigError(f"unknown network '{name}': choose from {', '.join(FAMILY)}")
    options = {"init_weights": False} if FAMILY[name] == "Inception" else {}  # these two warn unless told
    with init_empty_weights():
        model = tv.get_model(name, weights=None, **options)
    return model.to("meta").eval()


def try_model(name: str, k: int = 4, *, plain: tuple[str, ...] | None = None, input_size: int = 224) -> dict:
    """Try `to_rdn` on one network; `plain` None takes the table `PLAIN`. The result is a row of `survey`."""
    model = blank(name)
    plain = PLAIN.get(name, ()) if plain is None else plain
    row = {"model": name, "family": FAMILY[name], "accepted": False, "plain": ", ".join(plain)}
    try:
        with torch.device("meta"):
            rdn = to_rdn(model, k, select="identity", plain=plain)
            nested = count_subnetworks(rdn, input_size)
    except (UnsupportedModuleError, ConfigError) as error:
        return {**row, "reason": str(error)}
    supernet = count(model, input_size)[["madds", "params"]].sum() / 1e6
    align = "new" if rdn.heads.tail is None else "its own"
    row |= {"accepted": True, "subnetworks": rdn.num_subnetworks, "align": align, "reason": "", **supernet}
    row |= {"params_rdn": nested["params"].iloc[-1] / 1e6}
    return row | {f"N_{index}": madds / 1e6 for index, madds in enumerate(nested["madds"], start=1)}


def survey(names: Iterable[str] = tuple(FAMILY), k: int = 4, *, input_size: int = 224) -> pd.DataFrame:
    """One row for each network, the accepted ones first.

    Columns: model, family, accepted, plain (what was kept untransformed), subnetworks (K), align ("its own" where the
    super-net's last convolution serves as align layer, else "new"), params and madds of the super-net, params_rdn, N_1
    … N_K (MAdds of the sub-networks), all in millions at `input_size` pixels, and the reason of a refusal.
    """
    rows = pd.DataFrame([try_model(name, k, input_size=input_size) for name in names])
    first = ["model", "family", "accepted", "plain", "subnetworks", "align", "params", "params_rdn", "madds"]
    columns = [*first, *(column for column in rows if column.startswith("N_")), "reason"]
    rows = rows.reindex(columns=columns).astype({"subnetworks": "Int64"})
    return rows.sort_values("accepted", ascending=False, kind="stable", ignore_index=True)
