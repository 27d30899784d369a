"""The page in a real browser, before a real server."""

import asyncio
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import imaging
from clients import ServerBusy, ServerError
from clients.web.app import MAX_PICTURE_BYTES
from serve.process import module_process
from tests.clients.web.browser import launch
from tests.clients.web.conftest import CHAMPION, EXAMPLES
from tests.clients.web.strokes import LINES, SEVEN, THREE, draw

PHONE = {"viewport": {"width": 375, "height": 667}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}

# A file handed over in an event: as it is dropped, and as it is pasted.
HAND_OVER = """([kind, bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
  const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
  document.querySelector("#stage").dispatchEvent(event);
  return event.defaultPrevented;
}"""

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed before other tests: while it is open no other event loop can run in this thread."""
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def open_page(browser, url) -> OpenPage:
    """`with open_page() as page:`; the browser must find nothing to complain of, but for refusals that are expected."""

    @contextmanager
    def visit(at: str = url, *, refusals: bool = False, **options: object) -> Iterator[Page]:
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(15_000)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: request.url.startswith(at) or complaints.append(request.url))
        page.goto(at)
        expect(page.locator("#status")).to_contain_text("champion, version 1")
        yield page
        context.close()
        if refusals:
            complaints = [each for each in complaints if not each.startswith("Failed to load resource: the server")]
        assert complaints == []

    return visit


@pytest.fixture
def page(open_page) -> Iterator[Page]:
    with open_page() as page:
        yield page


def expect_answer(page: Page, digit: int) -> None:
    expect(page.locator("#digit")).to_have_text(str(digit))
    expect(page.locator("#bars .best b")).to_have_text(str(digit))


# Drawing


def test_digits_drawn_with_the_mouse_are_recognised(page):
    draw(page, THREE)
    expect_answer(page, 3)
    expect(page.locator("#certainty")).to_contain_text("% certain")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#digit")).to_be_empty()
    draw(page, SEVEN)
    expect_answer(page, 7)
    assert page.locator("#seen").evaluate("seen => seen.getContext('2d').getImageData(0, 0, 28, 28).data.some(v => v)")
    for name in ("total", "reading", "queue", "compute"):
        expect(page.locator(f"#{name}")).to_contain_text("ms")
    expect(page.locator("#batch")).to_have_text("1")


def test_the_probabilities_move_while_the_pen_is_down(page):
    draw(page, SEVEN[:2], hold=True)
    expect(page.locator("#digit")).not_to_be_empty()
    draw(page, SEVEN, hold=True)
    expect_answer(page, 7)


def test_undo_takes_back_one_stroke(page):
    draw(page, SEVEN)
    expect_answer(page, 7)
    draw(page, ((0.2, 0.9), (0.9, 0.9)))
    page.get_by_role("button", name="Undo").click()
    expect_answer(page, 7)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#certainty")).to_have_text("No picture yet")


def test_undo_ends_the_stroke_that_is_being_drawn(page):
    draw(page, SEVEN[:2], hold=True)
    page.keyboard.press("Control+z")
    page.mouse.move(5, 5)
    page.mouse.up()
    expect(page.locator("#certainty")).to_have_text("No picture yet")
    draw(page, SEVEN)
    expect_answer(page, 7)


def test_a_finger_draws_and_does_not_scroll(open_page):
    with open_page(**PHONE) as page:
        box = page.locator("#pad").bounding_box()
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in SEVEN]
        devtools = page.context.new_cdp_session(page)
        devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points[:1]})
        for point in points[1:]:
            devtools.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect_answer(page, 7)
        assert page.evaluate("scrollY") == 0
        expect(page.get_by_text("Camera")).to_be_visible()
        assert page.locator("#pad").evaluate("pad => pad.width / pad.clientWidth") == 2


def test_the_keyboard_draws_and_the_answer_is_said(page):
    page.keyboard.press("Tab")
    expect(page.get_by_label("Drawing area")).to_be_focused()
    for _ in range(11):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    expect(page.get_by_role("status").filter(has_text="Pen down")).to_be_attached()
    for _ in range(22):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect_answer(page, 1)
    expect(page.locator("#live")).to_contain_text("1, ")
    page.keyboard.press("Delete")
    expect(page.locator("#digit")).to_be_empty()


# Pictures


def test_a_picture_that_is_chosen_is_shown_and_recognised(page):
    page.get_by_label("Picture…").set_input_files(EXAMPLES / "three.png")
    expect_answer(page, 3)
    page.get_by_label("Picture…").set_input_files(EXAMPLES / "seven.png")
    expect_answer(page, 7)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_that_is_dropped_or_pasted_is_recognised(page, way):
    picture = list((EXAMPLES / "three.png").read_bytes())
    assert page.evaluate(HAND_OVER, [way, picture, "three.png"]), "the browser would open the file"
    expect_answer(page, 3)


def test_text_is_pasted_without_effect(page):
    page.evaluate("document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")
    expect(page.locator("#certainty")).to_have_text("No picture yet")


def test_a_file_that_is_no_picture_or_too_large_is_refused_in_words_and_the_next_is_taken(open_page, tmp_path):
    (tmp_path / "letter.png").write_text("a letter")
    (tmp_path / "film.png").write_bytes(bytes(MAX_PICTURE_BYTES + 1))
    with open_page(refusals=True) as page:
        page.get_by_label("Picture…").set_input_files(tmp_path / "letter.png")
        expect(page.locator("#notice")).to_contain_text("PNG, JPEG")
        page.get_by_label("Picture…").set_input_files(tmp_path / "film.png")
        expect(page.locator("#notice")).to_contain_text("too large; at most 16 MiB")
        page.get_by_label("Picture…").set_input_files(EXAMPLES / "seven.png")
        expect_answer(page, 7)
        expect(page.locator("#notice")).to_be_empty()


def test_a_picture_that_takes_its_time_is_said_to_be_read(page_with, champion, open_page):
    shown = threading.Event()

    async def slow(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        await asyncio.to_thread(shown.wait, 20)
        return imaging.read(data)

    with page_with(slow, champion) as at, open_page(at) as page:
        page.get_by_label("Picture…").set_input_files(EXAMPLES / "three.png")
        expect(page.locator("#certainty")).to_have_text("Reading the picture…")
        shown.set()
        expect_answer(page, 3)


def test_a_warning_is_shown_in_words(page_with, champion, open_page):
    async def doubt(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        (digit,) = imaging.read(data)
        warnings = (imaging.Warning.UNLIKE_A_DIGIT, imaging.Warning.LOW_CONTRAST)
        return (replace(digit, warnings=warnings),)

    with page_with(doubt, champion) as at, open_page(at) as page:
        draw(page, SEVEN)
        expect(page.locator("#notice")).to_contain_text("not look much like a digit. The ink is pale")


def test_several_digits_have_boxes_and_are_read_from_left_to_right(page_with, champion, open_page):
    """With a reader that finds the same two digits in every picture, one in each half."""

    async def halves(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.width // 2, picture.height
        (three,), (seven,) = (imaging.read((EXAMPLES / f"{name}.png").read_bytes()) for name in ("three", "seven"))
        return (
            replace(three, box=imaging.Box(left=0, top=0, width=width, height=height)),
            replace(seven, box=imaging.Box(left=width, top=0, width=width, height=height)),
        )

    with page_with(halves, champion) as at, open_page(at) as page:
        page.get_by_role("switch", name="Several digits").check()
        draw(page, THREE, right=0.2)
        digits = page.get_by_role("group", name="Digits").get_by_role("button")
        expect(digits).to_have_text(["3", "7"])
        expect(page.locator("#live")).to_contain_text("2 digits: 3 7")
        expect(page.locator("#batch")).to_have_text("2")
        stage = page.locator("#pad").bounding_box()
        boxes = [each.bounding_box() for each in page.locator("#boxes > div").all()]
        assert [box["x"] - stage["x"] for box in boxes] == pytest.approx([0, stage["width"] / 2], abs=2)
        assert [box["width"] for box in boxes] == pytest.approx([stage["width"] / 2] * 2, abs=2)
        expect(page.locator("#bars .best b")).to_have_text("3")
        digits.nth(1).click()
        expect(page.locator("#bars .best b")).to_have_text("7")
        expect(digits.nth(1)).to_have_attribute("aria-pressed", "true")


def test_lines_of_digits_are_shown_and_said_as_lines(page):
    page.get_by_role("switch", name="Several digits").check()
    for line in LINES:
        for stroke in line:
            draw(page, stroke)
    digits = page.get_by_role("group", name="Digits, line by line")
    expect(digits.get_by_role("group", name="Line 1").get_by_role("button")).to_have_text(["3", "7", "4"])
    expect(digits.get_by_role("group", name="Line 2").get_by_role("button")).to_have_text(["2", "4", "7", "3"])
    expect(page.locator("#live")).to_contain_text("7 digits in 2 lines: 3 7 4, 2 4 7 3")
    last = digits.get_by_role("button").last
    last.click()
    expect(last).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#boxes > .selected")).to_have_text("3")
    expect(page.locator("#certainty")).to_contain_text("3: ")


def test_the_answer_to_one_digit_goes_when_several_are_asked_for(page_with, champion, open_page):
    proceed = threading.Event()

    async def slow(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        if many:
            await asyncio.to_thread(proceed.wait, 20)
        return imaging.read(data, many=many)

    with page_with(slow, champion) as at, open_page(at) as page:
        draw(page, SEVEN)
        expect_answer(page, 7)
        expect(page.locator("#live")).to_contain_text("7, ")
        page.get_by_role("switch", name="Several digits").check()
        expect(page.locator("#certainty")).to_have_text("Reading the picture…")
        expect(page.locator("#bars .best")).to_have_count(0)
        expect(page.locator("#live")).to_be_empty()
        proceed.set()
        expect(page.get_by_role("group", name="Digits").get_by_role("button")).to_have_text(["7"])


@pytest.mark.parametrize("many", [False, True])
def test_a_picture_without_digits_is_said_to_have_none(page, many):
    page.get_by_role("switch", name="Several digits").set_checked(many)
    blank = page.evaluate("""async () => {
      const sheet = new OffscreenCanvas(50, 50);
      sheet.getContext("2d").fillRect(0, 0, 50, 50);
      return [...new Uint8Array(await (await sheet.convertToBlob()).arrayBuffer())];
    }""")
    page.evaluate(HAND_OVER, ["drop", blank, "blank.png"])
    expect(page.locator("#certainty")).to_have_text("No digit found")
    expect(page.locator("#digit")).to_be_empty()


# The server


def test_the_model_s_card_and_the_load_are_shown(page):
    card = page.locator("#model")
    expect(card).to_contain_text("99.71 % of the test images")
    expect(card).to_contain_text("onnxruntime on the CPU")
    expect(card).to_contain_text("1,024 images")
    draw(page, SEVEN)
    figures = page.locator("#load > div")
    expect(figures).to_have_count(4)
    expect(figures.nth(2).locator("dd").first).to_have_text("1")
    assert figures.first.locator("path").get_attribute("d").startswith("M")


def test_a_server_that_goes_and_comes_back_is_noticed_and_the_drawing_answered(page_process, open_page, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def serving() -> AbstractContextManager[object]:
        return module_process("serve", str(CHAMPION), "--port", str(port), log=tmp_path / "log")

    with page_process(f"127.0.0.1:{port}") as process, ExitStack() as visit:
        with serving():
            page = visit.enter_context(open_page(process.address, refusals=True))
        expect(page.get_by_role("alert")).to_contain_text("The digit server does not answer.")
        expect(page.locator("#status")).to_have_text("No answer")
        draw(page, SEVEN)
        expect(page.locator("#certainty")).to_have_text("No answer")
        with serving():
            expect_answer(page, 7)
            expect(page.get_by_role("alert")).to_be_hidden()
            expect(page.locator("#status")).to_contain_text("champion, version 1")


def test_a_refused_load_is_said_and_the_picture_tried_again(page_with, champion, open_page):
    refuse = [True]

    async def busy(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        if refuse[0]:
            raise ServerBusy("as told")
        return imaging.read(data)

    with page_with(busy, champion) as at, open_page(at, refusals=True) as page:
        draw(page, SEVEN)
        expect(page.locator("#notice")).to_contain_text("more to do than it can")
        refuse[0] = False
        expect_answer(page, 7)
        expect(page.locator("#notice")).to_be_empty()


def test_a_picture_on_which_the_server_fails_is_sent_once_and_the_fault_said(page_with, champion, open_page):
    pictures = []

    async def fail(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        pictures.append(data)
        raise ServerError("it failed as told")

    with page_with(fail, champion) as at, open_page(at, refusals=True) as page:
        page.get_by_label("Picture…").set_input_files(EXAMPLES / "seven.png")
        expect(page.locator("#notice")).to_have_text("It failed as told.")
        for _ in range(3):  # the server is watched all the time, and after it was away all is asked again
            page.wait_for_event("response", lambda response: response.url.endswith("/api/load"))
        expect(page.get_by_role("alert")).to_be_hidden()
        assert len(pictures) == 1


# For everybody

# The least contrast of any text with what lies behind it, and where; colours as the browser computes them.
LEAST_CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3)
    .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const colour = parse(getComputedStyle(element).backgroundColor);
    return (colour[3] ?? 1) > 0 || !element.parentElement ? colour : behind(element.parentElement);
  };
  const texts = [...document.querySelectorAll("body *")].filter((each) =>
    each.checkVisibility() && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((each) => {
    const [dark, light] = [parse(getComputedStyle(each).color), behind(each)].map(luminance).sort((a, b) => a - b);
    return [(light + 0.05) / (dark + 0.05), each.id || each.textContent];
  }).sort(([a], [b]) => a - b)[0];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"viewport": {"width": 1100, "height": 800}}, PHONE], ids=["desktop", "phone"])
def test_every_layout_fits_and_can_be_read(open_page, scheme, size):
    with open_page(color_scheme=scheme, **size) as page:
        for several in (False, True):
            page.get_by_role("switch", name="Several digits").set_checked(several)
            draw(page, SEVEN)
            expect(page.locator("#bars .best")).to_be_visible()
            page.locator("#banner").evaluate("banner => { banner.hidden = false; banner.textContent = 'Away'; }")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            ratio, where = page.evaluate(LEAST_CONTRAST)
            assert ratio >= 4.5, where


def test_what_can_be_operated_has_a_name_and_is_reached_by_tab(page):
    draw(page, SEVEN)
    expect_answer(page, 7)
    page.locator("h1").click()
    named = []
    for _ in range(5):
        page.keyboard.press("Tab")
        named.append(
            page.evaluate(
                "document.activeElement.ariaLabel ?? document.activeElement.closest('label, button').innerText"
            )
        )
    assert named == ["Drawing area", "Undo", "Clear", "Picture…", "Several digits"]
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.locator("img:not([alt])").count() == 0
    expect(page.locator("#live")).to_have_attribute("role", "status")


def test_the_focus_stays_on_the_page_when_its_button_can_do_no_more(page):
    draw(page, SEVEN)
    for name in ("Undo", "Clear"):
        page.locator("#pad").focus()
        page.keyboard.press("Tab")
        page.get_by_role("button", name=name).press("Enter")
        expect(page.get_by_label("Drawing area")).to_be_focused()
        draw(page, SEVEN)


def test_a_picture_that_the_browser_cannot_show_is_recognised(page):
    tiff = io.BytesIO()
    Image.open(EXAMPLES / "seven.png").save(tiff, "TIFF")
    page.get_by_role("switch", name="Several digits").check()
    page.evaluate(HAND_OVER, ["drop", list(tiff.getvalue()), "seven.tif"])
    expect_answer(page, 7)
    expect(page.locator("#hint")).to_have_text("This browser cannot show the picture")
    expect(page.locator("#boxes > div")).to_have_count(0)


def test_the_focus_is_seen(page):
    for _ in range(3):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "getComputedStyle(document.activeElement.closest('.button') ?? document.activeElement).outlineStyle"
        )
        assert outline == "solid"


def test_nothing_moves_by_itself_for_those_who_asked_for_that(open_page):
    with open_page(reduced_motion="reduce") as page:
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.share'), '::before').transitionDuration") == "0s"
        )
