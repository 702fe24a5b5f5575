"""Costs by the prices of the settings."""

from collections.abc import Mapping

from api.settings import Price
from db.queue.usage import Amounts

#: Stands for every model that has no price of its own.
ANY_MODEL = "*"


def cost_of(amounts: Amounts, model: str, prices: Mapping[str, Price]) -> float | None:
    """Return the cost of what was used, or None if no price is set for the model."""
    price = prices.get(model) or prices.get(ANY_MODEL)
    if price is None:
        return None
    return (
        amounts.items * price.item
        + amounts.images * price.image
        + amounts.prompt_tokens / 1e6 * price.million_prompt_tokens
        + amounts.completion_tokens / 1e6 * price.million_completion_tokens
        + amounts.device_seconds / 3600 * price.device_hour
    )
