"""The form in which a rater was taught, out of its training's config, as layers of the config that asks it. Pure.

Training's config is given as sections, whose values nobody has checked yet.
"""

from __future__ import annotations

from typing import Any

from judgetrace.study.sections import Sections, find, merge, nest

RATES_AT_ONCE = ("label", "label_first")
"""What a rater learns (data.target) that rates without thinking first."""
PROMPT = ("prompt.template", "prompt.severity", "prompt.system", "prompt.chat_template_args")
"""What makes the form of a prompt; what becomes of an item that is too long is not of it."""
MARKS = ("thinking.format", "thinking.tags")
BASE = ("model.path", "model.revision")


def thinks(training: Sections) -> bool:
    """Whether a rater learns to reason before it rates, as TrainRaterConfig.thinks says of a checked config."""
    return find(training, "data.target") not in RATES_AT_ONCE and find(training, "thinking.format") != "none"


def makes_adapter(training: Sections) -> bool:
    """Whether training leaves an adapter, which needs its base beside it."""
    return bool(find(training, "output.form") == "adapter")


def layer_form(training: Sections, *, refined: bool) -> list[dict[str, Any]]:
    """Layer the form in which a rater was taught over any other: prompt, thinking, guideline, and an adapter's base.

    A key that training leaves out is dropped (null), so that nothing of another form stays. `refined` says that a
    refined guideline takes the place of the one that was taught.
    """
    base = BASE if makes_adapter(training) else ()
    guideline = () if refined else ("guideline",)
    form = merge(*(nest(key, find(training, key)) for key in (*PROMPT, *MARKS, *base, *guideline)))
    # A whole model takes no adapter that others have; one that its training leaves is wired.
    others = (*PROMPT, *(base or ("model.adapter",)))
    if thinks(training):
        # Training writes marks itself, and never has a parser read them.
        return [*(nest(key, None) for key in (*others, *MARKS, "thinking.parser")), form]
    return [*(nest(key, None) for key in (*others, "thinking")), form | {"thinking": {"format": "none"}}]
