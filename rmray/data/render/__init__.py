"""Turn a prompt and its completions into token ids, by one rule for training, evaluation and serving."""

from rmray.data.render.renderer import RenderedPath, Renderer, group_of
from rmray.data.render.rules import RENDER_VERSION, RenderRules

__all__ = ["RENDER_VERSION", "RenderRules", "RenderedPath", "Renderer", "group_of"]
