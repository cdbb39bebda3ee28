"""The experiments of the book: base → rdn → policy and the variants beside them, each run once and kept."""

from rdnlib.reproduction.experiments.scheduler import ensure, ensure_all
from rdnlib.reproduction.experiments.workspace import Run, Workspace, open_workspace

__all__ = ["Run", "Workspace", "ensure", "ensure_all", "open_workspace"]
