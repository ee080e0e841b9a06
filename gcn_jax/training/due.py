"""What is due at which step of a training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Due:
    """Steps are counted from 0; what is due at step i is done before the i-th batch is drawn.

    Attributes:
      num_steps: in all; at the last everything is due.
      log_every, evaluate_every, save_every: steps; an evaluation is also a save.
    """

    num_steps: int
    log_every: int
    evaluate_every: int
    save_every: int

    def end(self, step: int) -> bool:
        """Whether no batch is left."""
        return step == self.num_steps

    def log(self, step: int) -> bool:
        """Whether the steps since the last log are to be told."""
        return self.end(step) or step % self.log_every == 0

    def evaluate(self, step: int) -> bool:
        """Whether the model is to be evaluated."""
        return self.end(step) or (step > 0 and step % self.evaluate_every == 0)

    def save(self, step: int) -> bool:
        """Whether a checkpoint is to be saved."""
        return self.evaluate(step) or (step > 0 and step % self.save_every == 0)
