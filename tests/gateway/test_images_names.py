"""Names of files in ComfyUI's input folder: what is a name, and whether the file is there."""

import asyncio

import pytest
from aiohttp import web
from PIL import Image
from support.request_images import take
from support.stores import chosen_store
from support.web_server import serve
from wan_flf2v.benchmarks._stand_in import StandIn, stand_ins
from wan_flf2v.client.images import ImageError
from wan_flf2v.gateway.decoders import Decoders
from wan_flf2v.gateway.fetch import Fetcher
from wan_flf2v.gateway.images import Images, check_name
from wan_flf2v.gateway.settings import Settings

NOT_NAMES = [
    "", " ", ".", "..", "../a.png", "..\\a.png", "a/b.png", "a\\b.png", "/etc/passwd", "\\\\server\\share\\a.png",
    "C:a.png", "C:\\a.png", "a.png:stream", "a..png", "....//a.png", ".hidden.png", "a.png.", "a.png ", " a.png",
    "~/a.png\n", "a\0.png", "a.png\0", "a\r\n.png", "a\x1b[31m.png", "a\x7f.png", "a\u202egnp.exe", "a\u2028.png",
    "\ud800.png", "a.png [output]", "a.png [temp]", "a.png [input]", "blake3:" + "a" * 64, "a*.png", "a?.png",
    "<a>.png", 'a".png', "a|b.png", "a" * 300 + ".png", "画" * 90 + ".png", "wan_flf2v_api/x/a.png", "file:///etc",
    "javascript:alert(1)",
]  # fmt: skip
NAMES = ["Runcomfy_Example_1259_2.png", "a.png", "a", "a b (1).jpeg", "画像.webp", "~a.png", "a%2fb.png",
         "file_1.png", "-a.png", "a'b;c&d#e.png"]  # fmt: skip


def images(folder, comfyui_url):
    settings = Settings(data=folder, comfyui_url=comfyui_url)
    return Images(settings, chosen_store(folder), Fetcher(settings), Decoders())


@pytest.mark.parametrize("name", NOT_NAMES)
def test_what_is_more_than_a_plain_name_is_refused_without_asking_comfyui(tmp_path, name):
    asked = []

    async def go():
        async def note(request):
            asked.append(request.path)
            return web.Response()

        async with serve(note) as port:
            with pytest.raises(ImageError):
                await take(images(tmp_path, f"http://127.0.0.1:{port}"), name)

    asyncio.run(go())
    assert not asked
    with pytest.raises(ImageError, match="nor the plain name"):
        check_name(name)


@pytest.mark.parametrize("name", NAMES)
def test_plain_names_are_asked_for_as_they_are(tmp_path, name):
    asked = []

    async def go():
        async def note(request):
            asked.append((request.method, request.path, dict(request.query)))
            return web.Response()

        async with serve(note) as port:
            return await take(images(tmp_path, f"http://127.0.0.1:{port}/"), name)

    image = asyncio.run(go())
    assert (image.name, image.stored) == (name, False)
    assert asked == [("HEAD", "/view", {"filename": name, "type": "input"})]


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_comfyui_that_cannot_tell_is_believed_to_have_the_file(tmp_path, status):
    async def go():
        async def answer(request):
            return web.Response(status=status)

        async with serve(answer) as port:
            return await take(images(tmp_path, f"http://127.0.0.1:{port}"), "a.png")

    assert asyncio.run(go()).name == "a.png"


def test_a_comfyui_that_is_down_is_believed_to_have_the_file(tmp_path):
    async def go():
        async def answer(request):
            return web.Response()

        async with serve(answer) as port:
            pass
        return await take(images(tmp_path, f"http://127.0.0.1:{port}"), "a.png")

    assert asyncio.run(go()).name == "a.png"


def test_a_comfyui_that_hangs_is_believed_to_have_the_file(tmp_path):
    async def go():
        async def hang(request):
            await asyncio.sleep(600)

        async with serve(hang) as port:
            return await take(images(tmp_path, f"http://127.0.0.1:{port}"), "a.png")

    assert asyncio.run(go()).name == "a.png"


def test_one_where_nothing_listens_has_nothing_beside_one_that_responds(tmp_path):
    async def go():
        async with StandIn() as dead, StandIn(files={("input", "", "a.png"): b"a photograph"}) as there:
            await dead.kill()
            known = images(tmp_path, [dead.url, there.url])
            assert (await take(known, "a.png")).name == "a.png"
            with pytest.raises(ImageError, match=r'no file "b\.png"'):
                await take(known, "b.png")

    asyncio.run(go())


def test_a_silent_one_may_have_what_another_one_lacks(tmp_path):
    async def go():
        async with stand_ins(2) as (silent, other):
            silent.stall()
            known = images(tmp_path, [silent.url, other.url])
            assert (await take(known, "a.png")).name == "a.png"

    asyncio.run(go())


def test_a_real_comfyui_knows_its_input_folder(tmp_path, comfy_server):
    inputs, outputs = comfy_server.base_dir / "input", comfy_server.base_dir / "output"
    (inputs / "wan_flf2v_api").mkdir(exist_ok=True)
    for path in (inputs / "画像 (1).png", outputs / "only_output.png", inputs / "wan_flf2v_api" / "inner.png"):
        Image.new("RGB", (8, 8)).save(path)

    async def go():
        known = images(tmp_path, comfy_server.url)
        assert await take(known, "画像 (1).png")
        for name in ("only_output.png", "inner.png", "wan_flf2v_api", "no_such.png"):
            with pytest.raises(ImageError, match=f'no file "{name}" in ComfyUI\'s input folder'):
                await take(known, name)

    asyncio.run(go())
