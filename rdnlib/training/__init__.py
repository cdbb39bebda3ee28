"""Training: joint loss and recipe (Sections 3.1 and 4.1), trainer, resumable state, batch norm and evaluation."""

from rdnlib.training.batchnorm import reestimate_norms
from rdnlib.training.evaluate import evaluate
from rdnlib.training.loss import joint_loss
from rdnlib.training.recipe import Recipe
from rdnlib.training.trainer import train

__all__ = ["Recipe", "evaluate", "joint_loss", "reestimate_norms", "train"]
