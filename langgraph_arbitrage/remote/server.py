"""A server, met once: what it takes and tells; then asked for completions, with retries."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from langgraph_arbitrage.engine.requests import GenerateRequest
from langgraph_arbitrage.errors import CheckpointError, EngineError
from langgraph_arbitrage.models.tokenizer import Tokenizer
from langgraph_arbitrage.remote.address import Address
from langgraph_arbitrage.remote.protocol import (
    EXACT,
    NEUTRAL,
    Broken,
    Chunk,
    Refused,
    chunk_of,
    options_of,
    said,
)

if TYPE_CHECKING:
    from types import TracebackType

    from openai import AsyncOpenAI

__all__ = ["RemoteServer", "Tries"]

logger = logging.getLogger(__name__)

PROBE = "Ann has 12 pens and 345 cups.\n\nSo 12 + 345 = 357; naïve, isn't it?"
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between two tries
LATER = (408, 409, 425, 429)  # come back later, as 5xx are


class RemoteServer:
    """The client of one server, on one event loop.

    Args:
        address: Where, and how it is asked.
        tokenizer: The model's.
    """

    def __init__(self, address: Address, tokenizer: Tokenizer) -> None:
        from openai import AsyncOpenAI, Timeout

        self.address = address
        self._tokenizer = tokenizer
        self._client: AsyncOpenAI = AsyncOpenAI(
            base_url=address.url,
            api_key=os.environ.get(address.key) or "none",
            timeout=Timeout(address.timeout, connect=min(10.0, address.timeout)),
            max_retries=0,  # a broken stream has to be gone on with, which is done here
        )
        self._meeting = asyncio.Lock()
        self._takes_ids: bool | None = None
        self._takes_neutral = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    @property
    def takes_ids(self) -> bool:
        """Whether it is asked in token ids, and for them."""
        return bool(self._takes_ids)

    # --- getting to know it ---------------------------------------------------------------

    async def meet(self) -> None:
        """Find out, once, what the server takes, and that it has the tokenizer that we have.

        Raises:
            CheckpointError: It has another tokenizer.
            EngineError: It does not answer, or is no server of completions.
        """
        if self._takes_ids is None:
            async with self._meeting:
                if self._takes_ids is None:
                    takes_ids = await self._told_whether_it_takes_ids()
                    await self._check_tokenizer()
                    self._takes_ids = takes_ids

    async def _told_whether_it_takes_ids(self) -> bool:
        if self.address.prompt == "text":
            return False
        ids = self._tokenizer.encode(PROBE, begins=True)
        extra = NEUTRAL | EXACT["extra_body"]
        try:
            await self._probed(prompt=ids, **EXACT | {"extra_body": extra})
        except Refused as refused:
            if self.address.prompt == "ids" or not refused.by_form:
                raise refused.error from None
            return False
        return True

    async def _check_tokenizer(self) -> None:
        try:
            found = await self._probed(prompt=PROBE, extra_body=NEUTRAL)
            self._takes_neutral = True
        except Refused as refused:
            if not refused.by_form:
                raise refused.error from None
            found = await self._probed_plainly()
        usage = getattr(found, "usage", None)
        if usage is None:
            return
        own, start = len(self._tokenizer.encode(PROBE, begins=True)), self._tokenizer.start_ids
        if usage.prompt_tokens not in (own, own + 1, own + len(start)):
            raise CheckpointError(
                f"{self.address} has another tokenizer than {self.address.tokenizer}: it counts "
                f"{usage.prompt_tokens} tokens in a text where that one counts {own}. Name the "
                "tokenizer of its model: openai:URL?tokenizer=NAME#MODEL"
            )

    async def _probed_plainly(self) -> Any:
        try:
            return await self._probed(prompt=PROBE)
        except Refused as refused:
            raise refused.error from None

    async def _probed(self, **what: Any) -> Any:
        async def ask() -> Any:
            async with self._errors():
                return await self._client.completions.create(
                    model=self.address.model, max_tokens=1, temperature=0, **what
                )

        tries = Tries(self.address)
        while True:
            try:
                found = await ask()
            except Broken as broken:
                await tries.again(broken)
                continue
            if not getattr(found, "choices", None):
                raise EngineError(f"{self.address} answers something else than completions")
            return found

    # --- asking ---------------------------------------------------------------------------

    async def stream(
        self, ids: Sequence[int], max_tokens: int, request: GenerateRequest
    ) -> AsyncIterator[Chunk]:
        """A completion's parts, as they come.

        Args:
            ids: All token ids so far.
            max_tokens: Most tokens to write.
            request: Its sampling and stop strings are used.

        Raises:
            Broken: It broke off, or the server is to be asked again later.
            ContextLengthError: The server says that the prompt is too long.
            EngineError: The server refuses it.
        """
        try:
            async with self._errors():
                parts = await self._client.completions.create(
                    model=self.address.model,
                    prompt=list(ids) if self.takes_ids else self._text(ids),
                    max_tokens=max_tokens,
                    stream=True,
                    **options_of(
                        request,
                        len(self._tokenizer.hf),
                        ids=self.takes_ids,
                        neutral=self._takes_neutral,
                    ),
                )
                # The client closes the response, not the generators that read it. Left to the
                # collector they may be closed on any thread, in the middle of their work.
                reader: Any = getattr(parts, "_iterator", parts)
                async with parts, aclosing(reader):
                    async for part in reader:
                        yield chunk_of(part)
        except Refused as refused:
            raise refused.error from None

    def _text(self, ids: Sequence[int]) -> str:
        """The prompt as text, without what the server's tokenizer puts before every text."""
        start = self._tokenizer.start_ids
        if start and list(ids[: len(start)]) == start:
            ids = ids[len(start) :]
        return str(self._tokenizer.hf.decode(list(ids), skip_special_tokens=False))

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """The client's errors as ours."""
        import httpx
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise Broken(f"no word within timeout={self.address.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            raise Broken(f"{error} ({error.__cause__ or 'connection lost'})") from None
        except openai.APIStatusError as error:
            if error.status_code >= 500 or error.status_code in LATER:
                raise Broken(f"status {error.status_code}: {said(error)}") from None
            raise Refused(self.address, error.status_code, said(error)) from None
        except openai.APIError as error:  # told within a stream
            raise Broken(said(error)) from None
        except (httpx.HTTPError, ConnectionError, ValueError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from None


class Tries:
    """How often a request was made, and how long to wait until it is made again."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._failed = 0

    def progress(self) -> None:
        """Something came: the count begins anew."""
        self._failed = 0

    async def again(self, why: Broken) -> None:
        """Wait, if there is another try.

        Raises:
            EngineError: There is none.
        """
        self._failed += 1
        if self._failed > self._address.retries:
            raise EngineError(
                f"{self._address} has failed {self._failed} times, the last time by: {why}. The "
                "answer so far is kept where a checkpointer keeps it: resume when the server is "
                "back, or set more retries= or a longer timeout= in the address"
            ) from None
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self._failed - 1))
        logger.warning("%s: %s; asked again in about %g s", self._address, why, wait)
        await asyncio.sleep(wait * random.uniform(0.75, 1.25))
