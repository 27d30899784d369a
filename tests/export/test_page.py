"""The page of a report: complete by itself, with every figure, and nothing on it is taken for markup."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export import gate, page
from export.tolerances import DEFAULTS
from tests.fakes import images


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements, and its text in lines."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._in_cell = self._silent = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag == "style"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data
        if not self._silent and data.strip():
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def row(self, name: str) -> list[str]:
        """The cells of the row that begins so."""
        [found] = [row for row in self.rows if row[0] == name]
        return found

    @property
    def pictures(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]


def right(pixels: np.ndarray) -> np.ndarray:
    """Each image is what its first pixel says, and beyond doubt."""
    return np.eye(10, dtype=np.float32)[pixels[:, 0, 0, 0] % 10]


def document(wrong: int = 0, **changes: Any) -> dict[str, Any]:
    """A report as `parity.json` holds it, in which a candidate is wrong on the first so many of 400 images."""
    pixels = images(400)

    def candidate(asked: np.ndarray) -> np.ndarray:
        answers = right(asked)
        answers[:wrong] = np.roll(answers[:wrong], 1, axis=1)
        return answers

    truth = right(pixels)
    test = gate.TestSet(
        data={"name": "questions", "sha256": "5" * 64},
        pixels=pixels,
        labels=truth.argmax(axis=1).astype(np.int64),
        reference_name="torch fp32",
        reference=truth,
    )
    weights = {"count": 15954, "overflowing": 0, "vanishing": 21, "subnormal": 3456}
    peaks = {"0 Conv2d": 6.3399, "3 Conv2d": 9754.32, "6 Linear": 24.3}
    checks = [
        gate.check_engine("onnx fp32", test, right, DEFAULTS["fp32"], [1, 16], each=False),
        gate.check_answers("torch fp16", test, candidate, DEFAULTS["fp16"]),
        gate.check_range("range fp16", peaks, weights, 65504.0, DEFAULTS["fp16"]),
    ]
    report = gate.Report(
        model={"name": "compact", "version": "7"},
        data=test.data,
        images=400,
        tolerances=dict(DEFAULTS),
        checks=checks,
        pictures=gate.pictures(test, checks),
    )
    return json.loads(json.dumps(report.to_json())) | changes


def test_a_passed_report_says_so():
    shown = Page(page.render(document()))
    assert "Parity of compact, version 7" in shown.text
    assert "Passed. Everything in this bundle answers as the network does in PyTorch" in shown.text
    assert "400 labelled test images of questions." in shown.text
    assert "efused" not in shown.text
    assert shown.row("torch fp16")[1] == "passed"
    assert shown.text.count("None.") == 1
    assert not shown.pictures


def test_a_refused_report_says_what_was_found_and_where():
    refused = document(wrong=30)
    shown = Page(page.render(refused))
    assert "Refused. Nothing is published." in shown.text
    assert "Refused. The plan is not." in Page(page.render(refused, "the plan is not")).text
    assert "Passed. Everything" not in shown.text
    assert (shown.row("onnx fp32")[1], shown.row("torch fp16")[1]) == ("passed", "refused")
    findings = [finding for check in refused["checks"] for finding in check["findings"]]
    assert len(findings) == 3
    for finding in findings:
        assert f"torch fp16 : {finding}" in shown.text


def test_a_finding_of_the_range_check_is_shown_beside_its_figures():
    tall = document()
    tall["checks"][2]["findings"] = ["one layer is too large"]
    shown = Page(page.render(tall))
    assert "range fp16 : one layer is too large" in shown.text
    assert "where digits are lost. Refused." in shown.text


def test_every_figure_of_the_comparisons_is_shown():
    spoilt = document(wrong=30)
    comparison = spoilt["checks"][1]["comparison"]
    comparison |= {"max_difference": 0.12345, "mean_difference": 3.21e-5}
    comparison["drop"] = {"value": 0.075, "low": 0.0493, "high": 0.1015, "p_value": 0.0123}
    spoilt["checks"][1]["batch_difference"] = 0.00678
    name, *cells = Page(page.render(spoilt)).row("torch fp16")
    assert name == "torch fp16"
    assert cells == [
        "refused",
        "torch fp32",
        "400",
        "30",
        "0.123 (3.21e-05)",
        "92.50% (100.00%)",
        "+7.500 (+4.930 to +10.150) p = 0.0123",
        "0.00678",
    ]
    assert Page(page.render(document())).row("torch fp16")[-1] == "–"  # noqa: RUF001 it was not asked in batches


def test_every_figure_of_the_range_is_shown():
    shown = Page(page.render(document()))
    assert shown.row("0 Conv2d")[1:] == ["6.34", "10,332"]
    assert shown.row("3 Conv2d")[1:] == ["9,754", "6.72"]
    assert shown.row("6 Linear")[1:] == ["24.3", "2,696"]
    assert "15,954 weights: 0 beyond it, 21 too small and so zero, 3,456 below the smallest normal number" in shown.text


def test_a_layer_beyond_the_limit_does_not_look_as_if_it_fitted():
    over = document()
    over["checks"][2]["range"]["peaks"] = {"0 Conv2d": 105_500.0, "3 Conv2d": math.inf, "6 Linear": math.nan}
    shown = Page(page.render(over))
    assert shown.row("0 Conv2d")[1:] == ["105,500", "0.621"]
    assert shown.row("3 Conv2d")[1:] == ["inf", "0"]
    assert shown.row("6 Linear")[1:] == ["nan", "nan"]


def test_a_layer_that_gives_nothing_has_no_limit():
    dead = document()
    dead["checks"][2]["range"]["peaks"]["3 Conv2d"] = 0.0
    assert Page(page.render(dead)).row("3 Conv2d")[1] == "0"


def test_every_tolerance_is_shown():
    shown = Page(page.render(document()))
    named = [
        ("largest difference of a probability", "max_difference"),
        ("accuracy lost, as a share of the images compared", "max_accuracy_drop"),
        ("lead of the reference where the digit may change", "max_flip_margin"),
        ("largest difference between batches", "max_batch_difference"),
        ("times a layer's largest value must fit below 65,504", "min_headroom"),
    ]
    for text, name in named:
        assert [float(cell) for cell in shown.row(text)[1:]] == [getattr(each, name) for each in DEFAULTS.values()]
    assert "5" * 64 in shown.text


# Pictures


def test_the_pictures_are_the_images_in_dark_ink_on_white_paper():
    shown = Page(page.render(document(wrong=3)))
    assert len(shown.pictures) == 3
    for index, picture in enumerate(shown.pictures):
        content = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
        found = np.asarray(Image.open(io.BytesIO(content), formats=["png"]))
        np.testing.assert_array_equal(found, 255 - images(400)[index, 0])


def test_under_each_picture_stand_both_digits_the_label_and_the_lead():
    flipped = document(wrong=1)
    [flip] = flipped["checks"][1]["comparison"]["flips"]
    assert flip["reference"] == flip["label"] == (flip["candidate"] - 1) % 10
    flip |= {"label": 4, "margin": 0.98765}
    shown = Page(page.render(flipped))
    assert "torch fp16: 1" in shown.text
    assert f"{flip['reference']} became {flip['candidate']}; it is labelled 4 image 0, lead 0.988" in shown.text
    assert shown.pictures[0]["alt"] == "Test image 0, a 4"


def test_an_answer_that_is_no_number_is_no_digit():
    flipped = document(wrong=1)
    flipped["checks"][1]["comparison"]["flips"][0]["candidate"] = -1
    assert " became no digit; it is labelled " in Page(page.render(flipped)).text


def test_images_without_a_picture_are_counted():
    many = document(wrong=300)
    shown = Page(page.render(many))
    assert len(shown.pictures) == len(many["pictures"]) < 300
    assert f"And {300 - len(shown.pictures)} more." in shown.text
    assert "more." not in Page(page.render(document(wrong=3))).text


def test_each_candidate_has_its_own_changed_images():
    both = document(wrong=3)
    both["checks"][0]["comparison"]["flips"] = both["checks"][1]["comparison"]["flips"][:1]
    shown = Page(page.render(both))
    assert "onnx fp32: 1" in shown.text
    assert "torch fp16: 3" in shown.text
    assert [picture["alt"].split(",")[0] for picture in shown.pictures] == [
        "Test image 0",
        "Test image 0",
        "Test image 1",
        "Test image 2",
    ]


# What was not checked


def test_what_was_not_checked_is_said_with_the_reason():
    shown = Page(page.render(document(unchecked={"rtx.plan": "it could not be run where it was built"})))
    assert "rtx.plan was not checked: it could not be run where it was built" in shown.text
    assert "Passed. Everything in this bundle that could be run answers" in shown.text
    assert "was not checked" not in Page(page.render(document())).text


# Safety


def test_the_page_needs_no_other_file_no_script_and_no_network():
    text = page.render(document(wrong=300, unchecked={"a.plan": "no GPU"}))
    shown = Page(text)
    assert not {tag for tag, _ in shown.elements} & {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
    for _, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in shown.pictures)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r'src="[^"]*"', "", text), re.IGNORECASE)
    policies = [attributes for tag, attributes in shown.elements if tag == "meta" and "http-equiv" in attributes]
    assert [policy["http-equiv"] for policy in policies] == ["Content-Security-Policy"]
    assert policies[0]["content"].startswith("default-src 'none';")


ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "place",
    [
        "model name",
        "version",
        "data",
        "digest",
        "check",
        "reference",
        "finding",
        "layer",
        "unchecked",
        "reason",
        "bound",
    ],
)
def test_no_text_of_a_report_is_taken_for_markup(place):
    report = document(wrong=1)
    check = report["checks"][1]
    match place:
        case "model name":
            report["model"]["name"] = ATTACK
        case "version":
            report["model"]["version"] = ATTACK
        case "data":
            report["data"]["name"] = ATTACK
        case "digest":
            report["data"]["sha256"] = ATTACK
        case "check" | "reference":
            check["name" if place == "check" else place] = ATTACK
        case "finding":
            check["findings"] = [ATTACK]
        case "layer":
            report["checks"][2]["range"]["peaks"] = {ATTACK: 1.0}
        case "unchecked":
            report["unchecked"] = {ATTACK: "no GPU"}
        case "reason":
            report["unchecked"] = {"a.plan": ATTACK}
        case "bound":
            report["tolerances"] = {ATTACK: report["tolerances"]["fp16"]}
    shown = Page(page.render(report))
    assert ATTACK in " ".join(shown.words)
    assert "script" not in {tag for tag, _ in shown.elements}
    assert len(shown.pictures) == 1


def test_the_page_in_a_bundle_is_that_of_its_report(bundle):
    report = json.loads((bundle / "parity.json").read_bytes())
    assert (bundle / "parity.html").read_text("utf-8") == page.render(report)
    shown = Page(page.render(report))
    for check in report["checks"]:
        if check["comparison"]:
            assert shown.row(check["name"])[1] == "passed"
