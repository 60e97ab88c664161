"""Exact inversion of DDIM and rectified flows: schedules, solvers, the inverter, the way back.

Nothing here knows of haze or of edits: it takes a network and returns latents.
"""

from dehaze.inversion.adjustment import ADJUSTMENTS, adjust
from dehaze.inversion.criteria import CRITERIA
from dehaze.inversion.ddim import DDIMTable
from dehaze.inversion.denoising import WayBack, denoise, generate
from dehaze.inversion.exact import bdia_invert, edict_invert
from dehaze.inversion.flow import FlowTable
from dehaze.inversion.inverter import check_served, invert
from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.predictors import PREDICTORS
from dehaze.inversion.rectified import fireflow_invert, rf_inversion_invert, rf_solver_invert
from dehaze.inversion.relaxation import RELAXATIONS
from dehaze.inversion.result import (
    InversionFileError,
    InversionMismatchError,
    InversionResult,
    Origin,
)
from dehaze.inversion.schedule import ScheduleError, StepTable
from dehaze.inversion.settings import (
    InversionOptions,
    InversionSettings,
    SettingError,
    best_at_equal_cost,
)
from dehaze.inversion.solvers import SOLVERS, ExactSampler, Sampler, Solver
from dehaze.inversion.trace import InversionTrace

__all__ = [
    "ADJUSTMENTS",
    "CRITERIA",
    "PREDICTORS",
    "RELAXATIONS",
    "SOLVERS",
    "DDIMTable",
    "ExactSampler",
    "FlowTable",
    "InversionFileError",
    "InversionMismatchError",
    "InversionOptions",
    "InversionResult",
    "InversionSettings",
    "InversionTrace",
    "NoiseNetwork",
    "Origin",
    "Sampler",
    "ScheduleError",
    "SettingError",
    "Solver",
    "StepTable",
    "WayBack",
    "adjust",
    "bdia_invert",
    "best_at_equal_cost",
    "check_served",
    "denoise",
    "edict_invert",
    "fireflow_invert",
    "generate",
    "invert",
    "rf_inversion_invert",
    "rf_solver_invert",
]
