"""Training: the recipe and joint loss (Section 4.1), the trainer, resumable state, batch norm and evaluation."""

from rdnlib.training.evaluate import evaluate
from rdnlib.training.recipe import Recipe, joint_loss
from rdnlib.training.trainer import train

__all__ = ["Recipe", "evaluate", "joint_loss", "train"]
