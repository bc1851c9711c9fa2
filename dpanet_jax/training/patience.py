"""Early stopping: a run ends when its evaluations have brought nothing better for too long."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass
class Patience:
    """Counts the evaluations since the validation mean IoU was last higher than ever before.

    An equal one is not better, and a NaN never is. Where the score is measured otherwise (see
    `checkpoint.measured_by`), the count begins anew. limit: evaluations without a better one, after which the
    run ends; 0: it does not. Scores are the same on all hosts, and so is what follows from them.
    """

    limit: int
    best: float | None = None
    best_step: int = 0
    without_better: int = 0
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, step: int, mean_iou: float, measured: Mapping[str, Any]) -> None:
        """Counts an evaluation, after this step."""
        if measured != self.measured:
            self.best, self.measured, self.without_better = None, dict(measured), 0
        if not math.isnan(mean_iou) and (self.best is None or mean_iou > self.best):
            self.best, self.best_step, self.without_better = mean_iou, step, 0
        else:
            self.without_better += 1

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return 0 < self.limit <= self.without_better

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it: a checkpoint has it as it was before the evaluation of its step."""
        content = dataclasses.asdict(self)
        del content["limit"]
        return content

    def go_on(self, stored: Mapping[str, Any], step: int, scores: Iterable[tuple[int, float, Any]]) -> None:
        """Counts as it would have in a run that was not stopped after `step`.

        stored: what that step's checkpoint holds of it; {} where there was no limit. scores: those that are
        there, as `Checkpoints.scores` returns them.
        """
        for name, value in stored.items():
            setattr(self, name, value)
        for of, mean_iou, measured in scores:
            if of == step or (not stored and of < step):
                self.add(of, mean_iou, measured)

    def in_words(self, step: int, total: int) -> str:
        """Why the run ends after this step."""
        count = self.without_better
        evaluations = "evaluation has" if count == 1 else "evaluations have"
        best = "that is a number"
        if self.best is not None:
            best = f"above {100 * self.best:.2f}%, which is of step {self.best_step}"
        return (
            f"stopped early after step {step} of {total}: {count} {evaluations} brought no mean IoU {best} "
            f"(config.training.patience={self.limit}; with a larger one, or 0, the same command goes on)"
        )
