"""What a run keeps to go on from, and that it then ends as if it had not stopped."""
import torch

from algorithms.observer import Observer
from algorithms.problem import reconstruct


class Seen(Observer):
    """Notes steps and residuals, keeps the state before every level but the first; goes on from `state`."""

    def __init__(self, state=None):
        self.state, self.states, self.residuals, self.steps = state, [], [], None

    def begin(self, steps, label):
        self.steps = steps, label

    def estimate(self, level, x0, sigma=None, residual=None):
        self.residuals.append(residual)

    def keep(self, state):
        self.states.append({key: value.clone() if torch.is_tensor(value) else value for key, value in state().items()})

    def kept(self):
        return self.state


def assert_goes_on(problem, make_prior, options):
    """From every level but the first the same volume, whatever the generator, without a level done twice."""
    levels, seen = len(options.sigmas), Seen()
    whole = reconstruct(problem, make_prior(), options, torch.Generator().manual_seed(3), seen)
    assert seen.steps == (levels, "noise levels") and [state["level"] for state in seen.states] == [*range(1, levels)]
    for state in seen.states:
        later = Seen(state)
        again = reconstruct(problem, make_prior(), options, torch.Generator().manual_seed(99), later)
        assert torch.equal(again, whole) and len(later.residuals) == levels - state["level"]
