"""Turn a prompt and its completions into token ids, by one rule for training, evaluation and serving."""

from rmray.data.render.paths import RenderedPath, group_of, group_rendered
from rmray.data.render.renderer import Renderer
from rmray.data.render.rules import RENDER_VERSION, RenderRules

__all__ = ["RENDER_VERSION", "RenderRules", "RenderedPath", "Renderer", "group_of", "group_rendered"]
