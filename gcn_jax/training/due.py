"""At which steps a training logs, evaluates, saves and ends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Due:
    """Tells what is due at a step, which is the number of batches trained on so far.

    What is due at step i is done before the next batch is drawn. After the last step everything is due.

    Attributes:
      num_steps: number of steps of the training.
      log_every: steps between two logs.
      evaluate_every: steps between two evaluations; a checkpoint is saved at each.
      save_every: steps between two checkpoints.
    """

    num_steps: int
    log_every: int
    evaluate_every: int
    save_every: int

    def end(self, step: int) -> bool:
        """Whether the training is over."""
        return step == self.num_steps

    def log(self, step: int) -> bool:
        """Whether to log the steps since the last log."""
        return self.end(step) or step % self.log_every == 0

    def evaluate(self, step: int) -> bool:
        """Whether to evaluate the model."""
        return self.end(step) or (step > 0 and step % self.evaluate_every == 0)

    def save(self, step: int) -> bool:
        """Whether to save a checkpoint."""
        return self.evaluate(step) or (step > 0 and step % self.save_every == 0)
