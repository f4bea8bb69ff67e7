"""Slots that tokens share: limits, turns, and who goes away while waiting."""

import asyncio

from wan_flf2v.gateway.shares import Shares


async def hold(shares, token, log, leave):
    async with shares.slot(token):
        log.append(token)
        await leave.wait()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_token_cannot_hold_all_slots():
    async def go():
        shares, log, leave = Shares(3, 2), [], asyncio.Event()
        tasks = [asyncio.create_task(hold(shares, token, log, leave)) for token in "aaaab"]
        await settle()
        assert log == ["a", "a", "b"]
        leave.set()
        await asyncio.gather(*tasks)
        assert log == ["a", "a", "b", "a", "a"]

    asyncio.run(go())


def test_tokens_take_turns_however_many_wait_of_each():
    async def go():
        shares, log = Shares(1, 1), []

        async def use(token):
            async with shares.slot(token):
                log.append(token)
                await asyncio.sleep(0)

        await asyncio.gather(*(use(token) for token in "aaaabbc"))
        assert "".join(log) == "aabcaba"

    asyncio.run(go())


def test_who_goes_away_gives_the_slot_back():
    async def go():
        shares, log, leave = Shares(1, 1), [], asyncio.Event()
        first, second, third = (asyncio.create_task(hold(shares, "a", log, leave)) for _ in range(3))
        await settle()
        second.cancel()  # while it waits
        await settle()
        first.cancel()  # while it holds the slot, which the third then gets
        await settle()
        assert log == ["a", "a"]
        third.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        leave.set()
        await hold(shares, "b", log, leave)
        assert log == ["a", "a", "b"]

    asyncio.run(go())
