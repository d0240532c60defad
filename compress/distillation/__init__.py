"""A student learns from a teacher: what is compared, where, and how much each comparison counts."""

from compress.distillation.objective import Objective, objective
from compress.distillation.teacher import Teacher
from compress.distillation.terms import TERMS, Options

__all__ = ["TERMS", "Objective", "Options", "Teacher", "objective"]
