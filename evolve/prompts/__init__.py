"""What a member is shown, and what is made of its answer."""

from evolve.prompts.read import read
from evolve.prompts.render import Briefing, Renderer

__all__ = ["Briefing", "Renderer", "read"]
