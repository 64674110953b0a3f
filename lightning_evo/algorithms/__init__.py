"""Who breeds next? DEAP's operators, hall of fame, statistics and logbook behind one ask/tell."""

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.fame import HallOfFame, ParetoFront
from lightning_evo.algorithms.generational_evolution import GenerationalEvolution
from lightning_evo.algorithms.individual import Fitness, Individual
from lightning_evo.algorithms.local_search import LocalSearch
from lightning_evo.algorithms.nsga2 import NSGA2
from lightning_evo.algorithms.operators import Operator
from lightning_evo.algorithms.random_search import RandomSearch
from lightning_evo.algorithms.regularized_evolution import RegularizedEvolution
from lightning_evo.algorithms.variation import INACTIVE

__all__ = [
    "INACTIVE",
    "NSGA2",
    "Algorithm",
    "Fitness",
    "GenerationalEvolution",
    "HallOfFame",
    "Individual",
    "LocalSearch",
    "Operator",
    "ParetoFront",
    "RandomSearch",
    "RegularizedEvolution",
]
