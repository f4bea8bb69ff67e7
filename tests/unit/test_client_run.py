"""Waiting for news of a run."""

import asyncio

import pytest
from wan_flf2v.client.run import wait_for


def test_a_cancellation_that_comes_with_the_news_is_not_lost():
    """asyncio.wait_for loses it until Python 3.12: Ctrl-C would then wait for the whole run."""

    async def go():
        news = asyncio.Event()
        task = asyncio.create_task(wait_and_go_on(news))
        await asyncio.sleep(0.05)
        news.set()
        await asyncio.sleep(0)
        task.cancel()
        await task

    async def wait_and_go_on(news):
        await wait_for(news, 5.0)
        await asyncio.sleep(0.2)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())


def test_waiting_is_not_long():
    asyncio.run(asyncio.wait_for(wait_for(asyncio.Event(), 0.01), 5.0))
