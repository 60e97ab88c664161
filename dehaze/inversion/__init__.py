"""Exact inversion of DDIM: schedule, methods, the inverter, and the way back.

Nothing here knows what is being edited: a network comes in as a function, latents go out.
"""

from dehaze.inversion.criteria import list_criteria
from dehaze.inversion.denoising import denoise
from dehaze.inversion.inverter import Inverter, best_at_equal_cost
from dehaze.inversion.methods import get_method, list_methods
from dehaze.inversion.predictors import list_predictors
from dehaze.inversion.relaxation import list_relaxations
from dehaze.inversion.result import InversionResult, InversionTrace, NoiseNetwork
from dehaze.inversion.schedule import DDIMTable, ScheduleError
from dehaze.inversion.solvers import Solution

__all__ = [
    "DDIMTable",
    "InversionResult",
    "InversionTrace",
    "Inverter",
    "NoiseNetwork",
    "ScheduleError",
    "Solution",
    "best_at_equal_cost",
    "denoise",
    "get_method",
    "list_criteria",
    "list_methods",
    "list_predictors",
    "list_relaxations",
]
