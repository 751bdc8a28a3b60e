"""A model that another server runs: several requests are awaited at once."""

from __future__ import annotations

from typing import Any

from runner import Rejected
from runner.types import Positive


class Endpoint:
    """Sends texts to a server, which answers each with a score or an error.

    Attributes:
        concurrency: How many requests for pieces of the same batch are awaited at once.
    """

    def __init__(self, url: str, column: str, concurrency: int) -> None:
        """Nothing is sent yet."""
        self._url, self._column, self.concurrency = url, column, concurrency

    def prepare(self, batch: Any) -> list[str]:
        """The texts of a piece of a batch."""
        texts: list[str] = batch[self._column].tolist()
        return texts

    async def __call__(self, texts: list[str]) -> Rejected:
        """Make one request for these texts. What goes wrong with the request is raised, so that it is tried again."""
        import aiohttp

        async with (
            aiohttp.ClientSession(raise_for_status=True) as client,
            client.post(self._url, json=texts) as response,
        ):
            answers: list[dict[str, Any]] = await response.json()
        errors = {row: ValueError(each["error"]) for row, each in enumerate(answers) if "error" in each}
        return Rejected({"score": [each.get("score") for each in answers]}, errors)


def load(url: str, column: str, concurrency: Positive = 4) -> Endpoint:
    """Return a predictor that asks the server at this URL about the texts in a column."""
    return Endpoint(url, column, concurrency)
