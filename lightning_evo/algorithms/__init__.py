"""Search algorithms behind ask and tell, with DEAP's operators, hall of fame, statistics and logbook."""

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.generational_evolution import GenerationalEvolution
from lightning_evo.algorithms.hall_of_fame import HallOfFame, ParetoFront
from lightning_evo.algorithms.individual import Fitness, Individual
from lightning_evo.algorithms.local_search import LocalSearch
from lightning_evo.algorithms.nsga2 import NSGA2
from lightning_evo.algorithms.operators import Operator
from lightning_evo.algorithms.population_based_training import PopulationBasedTraining
from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.algorithms.predictor_search import PredictorSearch
from lightning_evo.algorithms.prescreen import Prescreen, Screen
from lightning_evo.algorithms.quality import Quality
from lightning_evo.algorithms.random_search import RandomSearch
from lightning_evo.algorithms.regularized_evolution import RegularizedEvolution
from lightning_evo.algorithms.search_setup import Prior, SearchSetup
from lightning_evo.algorithms.swarm_optimization import SwarmOptimization
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
    "Measure",
    "Operator",
    "ParetoFront",
    "PopulationBasedTraining",
    "Predictor",
    "PredictorSearch",
    "Prescreen",
    "Prior",
    "Quality",
    "RandomSearch",
    "RegularizedEvolution",
    "Screen",
    "SearchSetup",
    "SwarmOptimization",
]
