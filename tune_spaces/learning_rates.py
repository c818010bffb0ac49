"""LARS rates of weights and of biases, for each batch size its own (Fig. 2; section 4).

`--search grid` tries every combination below for every batch size.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, Params, SearchSpace

BATCHES = (64, 128, 256, 512)
"""The paper's go from 128 to 4096."""
WEIGHT_RATES = (0.05, 0.1, 0.2, 0.4)
BIAS_RATES = (0.0012, 0.0048, 0.0192)


def propose(trial: Trial) -> Changes:
    """A batch size, then both rates, which are those of a batch of 256 and scaled with it."""
    batch = trial.suggest_categorical("batch", BATCHES)
    return {
        "data.global_batch": batch,
        "optimizer.weight_rate": trial.suggest_float(f"weight_rate_{batch}", 0.02, 2.0, log=True),
        "optimizer.bias_rate": trial.suggest_float(f"bias_rate_{batch}", 5e-4, 5e-2, log=True),
    }


def point(batch: int, weight_rate: float, bias_rate: float) -> Params:
    """What `propose` draws for these values."""
    return {"batch": batch, f"weight_rate_{batch}": weight_rate, f"bias_rate_{batch}": bias_rate}


SPACE = SearchSpace(
    name="learning_rates",
    propose=propose,
    points=tuple(point(batch, 0.2, 0.0048) for batch in BATCHES),
    grid=tuple(
        point(batch, weight_rate, bias_rate)
        for batch in BATCHES
        for weight_rate in WEIGHT_RATES
        for bias_rate in BIAS_RATES
    ),
)
