"""Where an OpenAI-compatible endpoint is and what it takes."""

from __future__ import annotations

from pydantic import BaseModel, Field

from judgetrace.config import STRICT


class EndpointConfig(BaseModel):
    """An OpenAI-compatible endpoint."""

    model_config = STRICT

    base_url: str | None = Field(default=None, description="Its URL.")
    input_price: float = Field(default=0.0, ge=0, description="Money for a million prompt tokens.")
    output_price: float = Field(default=0.0, ge=0, description="Money for a million output tokens.")
