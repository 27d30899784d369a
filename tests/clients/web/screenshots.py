"""`python -m tests.clients.web.screenshots`: take docs/page-*.png anew, with the committed network under some load."""

import io
import itertools
import math
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from clients import DigitClient
from serve.process import module_process, server_process
from tests.clients.web.browser import launch
from tests.clients.web.conftest import CHAMPION, ROOT
from tests.clients.web.strokes import FOUR, LINES, THREE, TWO, Stroke, draw

# Until the chart has something to show.
LOAD_S = 50

DESKTOP = {"viewport": {"width": 1080, "height": 860}}
PHONE = {"viewport": {"width": 375, "height": 800}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}


VIEWS: dict[str, tuple[dict[str, Any], tuple[Stroke, ...]]] = {
    "light": (DESKTOP, (THREE,)),
    "dark": (DESKTOP | {"color_scheme": "dark"}, (FOUR,)),
    "phone": (PHONE, (TWO,)),
    "lines": (DESKTOP, tuple(itertools.chain.from_iterable(LINES))),
}


def ask(address: str, stop: threading.Event) -> None:
    """Other callers, more and fewer of them in turn, with one to sixteen images each."""
    rng = np.random.default_rng(0)
    time_s = 0.0
    with DigitClient(address) as client:
        while not stop.is_set():
            client.classify(rng.integers(0, 256, (rng.integers(1, 17), 28, 28), dtype=np.uint8))
            pause_s = rng.exponential(0.03 * (1.2 + math.sin(time_s / 4)))
            time_s += pause_s
            stop.wait(pause_s)


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(server_process(CHAMPION, log=folder / "server"))
        web = stack.enter_context(
            module_process("clients.web", "--address", server.address, "--port", "0", log=folder / "web")
        )
        browser = stack.enter_context(launch())
        pages = {}
        for name, (options, strokes) in VIEWS.items():
            pages[name] = browser.new_context(**options).new_page()
            pages[name].goto(web.address)
            expect(pages[name].locator("#status")).to_contain_text("champion")
            if len(strokes) > 1:
                pages[name].get_by_role("switch", name="Several digits").check()
            for stroke in strokes:
                draw(pages[name], stroke)
        stop = threading.Event()
        callers = [threading.Thread(target=ask, args=(server.address, stop)) for _ in range(2)]
        for caller in callers:
            caller.start()
        pages["light"].wait_for_timeout(1000 * LOAD_S)
        for name, page in pages.items():
            page.mouse.move(0, 0)
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            path = ROOT / f"docs/page-{name}.png"
            image.save(path, optimize=True)
            print(f"{path.relative_to(ROOT)}  {image.width} x {image.height}  {path.stat().st_size / 1e3:.0f} kB")
        stop.set()
        for caller in callers:
            caller.join()


if __name__ == "__main__":
    main()
