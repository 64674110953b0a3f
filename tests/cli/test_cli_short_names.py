"""Short class names in a config: each class that a config may name is imported by the command line itself."""

import sys

import warm

LOOK = """
import lightning_evo.cli.lightning
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning_evo.algorithms import Algorithm, Predictor
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.genome import Gene
from lightning_evo.predictors import CurvePredictor, StoppingPolicy
from lightning_evo.reporting.reporter import Reporter

def below(kind):
    for one in kind.__subclasses__():
        yield one.__name__
        yield from below(one)

lightning = (Callback, LightningModule, LightningDataModule)
kinds = (Algorithm, Predictor, CurvePredictor, StoppingPolicy, Gene, Reporter, *lightning)
print(*{name for kind in kinds for name in below(kind)})
"""


def test_classes_are_known_by_their_short_names():
    known = warm.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout.split()
    expected = (
        "RandomSearch RegularizedEvolution NSGA2 PopulationBasedTraining SwarmOptimization "
        "ForestPredictor GaussianProcessPredictor LSTMPredictor ZeroCostPredictor EnsemblePredictor "
        "SwarmAveraging FastTraining StructuralGrowth WeightInheritance EarlyFitnessPrediction HyperparameterSchedule "
        "RegressionCurve BayesianCurve LastValue Hyperband MedianRule Patience "
        "Integer Layers GrowthSteps Bitstring WandbReporter TensorBoardReporter "
        "BitstringCNN ImageClassifier TemplateNet ParticleStack Digits ImageFolder NpzImages TorchvisionImages"
    )
    assert set(expected.split()) - set(known) == set()
