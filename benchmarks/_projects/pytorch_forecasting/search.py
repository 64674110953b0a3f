"""The search: the only file that is added."""

from train import build

from lightning_evo import Budget, Evolution, Objective
from lightning_evo.callbacks import EarlyFitnessPrediction, WeightInheritance

if __name__ == "__main__":
    Evolution(
        build=build,
        space={
            "context": [12, 18, 24],
            "hidden_size": [16, 32, 64],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        objectives=[Objective("val_loss", "min")],
        budget=Budget(candidates=6),
        callbacks=[EarlyFitnessPrediction(), WeightInheritance()],
        directory="run",
        seed=1,
    ).run()
