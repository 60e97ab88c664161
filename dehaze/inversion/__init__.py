"""Exact inversion of DDIM: schedule, solvers, the inverter, and the way back.

Nothing here knows what is being edited: a network comes in as a function, latents go out.
"""

from dehaze.inversion.criteria import list_criteria
from dehaze.inversion.denoising import denoise
from dehaze.inversion.inverter import InversionResult, InversionTrace, Inverter, NonFiniteError
from dehaze.inversion.predictors import list_predictors
from dehaze.inversion.schedule import DDIMTable, ScheduleError
from dehaze.inversion.solvers import Solution, get_solver, list_solvers

__all__ = [
    "DDIMTable",
    "InversionResult",
    "InversionTrace",
    "Inverter",
    "NonFiniteError",
    "ScheduleError",
    "Solution",
    "denoise",
    "get_solver",
    "list_criteria",
    "list_predictors",
    "list_solvers",
]
