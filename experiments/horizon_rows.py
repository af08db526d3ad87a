"""The tables of runs over the whole horizon: the rates of a search, and optimizers on their own."""

from experiments.rows import OfRun


class Trial(OfRun, key=("learning_rate",), file="trials"):
    """One rate of a search over the whole horizon: every rate that was tried, when it was done."""

    learning_rate: str
    steps: int  # The horizon.
    loss: float  # Mean training loss of the last epoch; inf if it diverged.
    diverged_at: int  # The step of the first loss that is not finite; 0 if all are.


class Own(OfRun, key=("step",), file="own"):
    """One optimizer's update where its own training has come to, on the fixed test subset.

    The update is the one that is applied, at the run's rate. Of a schedule-free optimizer the point
    is the one at which it takes gradients, not the average that it would be evaluated at.
    """

    learning_rate: str
    step: int  # From 1; measured before its update.
    training_loss: float  # Of the batch, before the step.
    loss: float  # Nats, mean over the test subset.
    slope: float  # gᵀv, v = update/‖update‖.
    slope_se: float  # Its standard error over micro-batches, as the next one's.
    sharpness: float  # vᵀHv.
    sharpness_se: float
    update_norm: float  # ‖update‖₂ as it is applied.
    newton_step: float  # −slope/sharpness where sharpness > 0, else nan.
    predicted_decrease: float  # slope²/(2·sharpness) where sharpness > 0, else nan.
    step_ratio: float  # ‖update‖/newton_step: 1 is the quadratic's minimum, beyond 2 it rises.


TABLES = (Trial, Own)
