"""The web page: what it answers, and itself in a real browser where there is one."""

import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import app
import sample
from dalle.checkpoint import load_text_to_image
from dalle.generate import TO_SAMPLE
from dalle.request import parse_requests
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_web import finding
from dalle_web.drawing import LONGEST, LOWER_HALF, PAINTED, Wish, draw, given_codes
from dalle_web.request import parse_app_request
from dalle_web.streams import AbandonedError, reports

ROOT = Path(__file__).parents[1]
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(toy: Path) -> TextToImage:
    return load_text_to_image(toy)


def wish(caption: str = "a red star", **options: Any) -> Wish:
    return Wish(caption, **{"candidates": 3, "temperature": 1.0, **options})


def test_candidates_come_row_by_row_and_then_the_best_first(model: TextToImage, toy: Path) -> None:
    *before, last = draw(model, toy, wish(seed=5))
    rows = model.tokenizer.rows
    said = [f"row {row} of {rows}" for row in range(1, rows)]
    assert [shown.status for shown in before] == ["reading the caption", *said]
    assert all(len(shown.images) == 3 for shown in before[1:])
    assert last.status.startswith("3 candidates, the best first. Note: caption of 11 tokens cut")
    scores = [float(label.rsplit(" ", 1)[1]) for _, label in last.images]
    assert scores == sorted(scores, reverse=True)
    # Each command makes its image.
    for (image, label), line in zip(last.images, last.commands.splitlines(), strict=True):
        (request,) = parse_requests(None, shlex.split(line)[2:])
        assert label.startswith(f"#{request.sampling.first}: ")
        again = model.generate(request.text, request.sampling).images[0]
        assert np.abs(np.asarray(again, np.int16) - np.asarray(image)).max() <= 2


def test_a_style_is_part_of_the_caption() -> None:
    assert wish(" a  red\nstar ", style="noto").text == "a red star, noto style"


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("", "Write a caption first"),
        (" \n", "Write a caption first"),
        ("x" * (LONGEST + 1), "shorten it to 1,000"),
        ("a\0b", "no text"),
        ("\ud800", "no text"),
    ],
)
def test_captions_that_are_none_are_answered(
    caption: str, says: str, model: TextToImage, toy: Path
) -> None:
    with pytest.raises(UserError, match=says):
        next(draw(model, toy, wish(caption)))


@pytest.mark.parametrize("options", [{"candidates": 0}, {"temperature": 0}])
def test_numbers_out_of_their_bounds_are_answered(
    options: dict[str, Any], model: TextToImage, toy: Path
) -> None:
    with pytest.raises(UserError):
        list(draw(model, toy, wish(**options)))


def editor(side: int, paint: tuple[int, int, int, int] | None = None) -> dict[str, Any]:
    """What the image editor sends, with paint in a rectangle."""
    background = Image.effect_noise((side, side), 90).convert("RGBA")
    layer = Image.new("RGBA", (side, side))
    if paint:
        layer.paste((255, 0, 120, 255), paint)
    return {"background": background, "layers": [layer], "composite": background}


def test_what_is_painted_over_is_drawn_anew(model: TextToImage, toy: Path) -> None:
    rows, side = model.tokenizer.rows, 4 * model.tokenizer.image_size
    cell = side // rows
    image = editor(side, (cell + 1, cell + 1, 2 * cell, 3 * cell - 1))
    given, mask = given_codes(model, wish(image=image, anew=PAINTED))
    assert given is not None
    assert mask is not None
    anew = (given == TO_SAMPLE).view(rows, rows)
    wanted = torch.zeros_like(anew)
    wanted[1:3, 1] = True
    assert torch.equal(anew, wanted)
    half, mask = given_codes(model, wish(image=image, anew=LOWER_HALF))
    assert half is not None
    assert mask is None
    assert (half == TO_SAMPLE).view(rows, rows).all(dim=1).tolist() == [
        row >= rows // 2 for row in range(rows)
    ]
    with pytest.raises(UserError, match="Paint over"):
        given_codes(model, wish(image=editor(side), anew=PAINTED))
    assert given_codes(model, wish(image={"background": None, "layers": []})) == (None, None)


@pytest.mark.parametrize("anew", [PAINTED, LOWER_HALF])
def test_the_commands_make_the_images_again(
    anew: str,
    model: TextToImage,
    toy: Path,
    tmp_path: Path,
    run_script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    side = 5 * model.tokenizer.image_size
    image = editor(side, (1, 1, side // 2, side // 3))
    image["background"].putalpha(Image.linear_gradient("L").resize((side, side)))
    *_, last = draw(model, toy, wish(image=image, anew=anew))
    image["background"].save("image.png")
    if anew == PAINTED:
        assert last.mask is not None
        last.mask.save("mask.png")
    assert (tmp_path / "mask.png").exists() == (last.mask is not None) == (anew == PAINTED)
    commands = [line for line in last.commands.splitlines() if not line.startswith("#")]
    assert len(commands) == len(last.images) == 3
    for command, (shown, _) in zip(commands, last.images, strict=True):
        words = shlex.split(command)
        assert words[:2] == ["python", "sample.py"]
        status, _, error = run_script(sample.main, *words[2:], "--device", "cpu", "--out", "out")
        assert status == 0, error
        number = int(words[words.index("--first") + 1])
        again = Image.open(next((tmp_path / "out").rglob(f"0-{number:03d}.png")))
        assert np.array_equal(np.asarray(again), np.asarray(shown)), command
        shutil.rmtree("out")


def test_images_are_found_and_classified(model: TextToImage, tmp_path: Path) -> None:
    ranker = model.reranker
    assert ranker
    images = [Image.new("RGB", (20, 30), colour) for colour in ("red", "green", "blue")]
    found = finding.search(ranker, images, " a red  thing ")
    scores = [float(label.split()[1]) for _, label in found]
    assert scores == sorted(scores, reverse=True)
    images[0].save(tmp_path / "a.png")
    assert len(finding.opened([tmp_path / "a.png"], images)) == 4
    shares = finding.classify(ranker, images[0], "red\n\n  blue \n")
    assert list(shares) == ["red", "blue"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_found_or_classified_is_answered(model: TextToImage, tmp_path: Path) -> None:
    ranker, image = model.reranker, Image.new("RGB", (8, 8))
    assert ranker
    (tmp_path / "text.png").write_text("no image")
    for ask, says in (
        (lambda: finding.search(ranker, [image], " "), "Write what to look for"),
        (lambda: finding.search(ranker, [], "red"), "nothing to search in"),
        (lambda: finding.opened([tmp_path / "text.png"], []), "not a readable image"),
        (lambda: finding.opened(["x"] * 65, []), "Up to 64 images"),
        (lambda: finding.classify(ranker, None, "a\nb"), "Choose an image"),
        (lambda: finding.classify(ranker, image, "a"), "give two or more"),
        (lambda: finding.classify(ranker, image, "a\n" * 101), "Up to 100 labels"),
    ):
        with pytest.raises(UserError, match=says):
            ask()


def test_work_ends_when_nobody_waits_for_it() -> None:
    ended = threading.Event()

    def work(report: Callable[[int], None]) -> None:
        try:
            for number in range(10**9):
                report(number)
                time.sleep(0.001)
        except AbandonedError:
            ended.set()

    stream = reports(work)
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert ended.is_set()


def test_work_that_fails_says_so() -> None:
    def work(report: Callable[[int], None]) -> None:
        report(1)
        raise UserError("no more")

    stream = reports(work)
    assert next(stream) == 1
    with pytest.raises(UserError, match="no more"):
        next(stream)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--most", "0"], "--most is 0"),
        (["--model", "nowhere"], "no checkpoint folder nowhere"),
    ],
)
def test_options_that_make_no_sense_are_named(
    words: list[str], says: str, run_script: Script
) -> None:
    status, _, error = run_script(app.main, *words)
    assert status == 2
    assert says in error.splitlines()[-1]


def test_styles_may_be_others_or_none() -> None:
    assert parse_app_request("", ["--styles", "ink", "oil"]).styles == ("ink", "oil")
    assert parse_app_request("", ["--styles"]).styles == ()


def test_a_space_installs_what_the_page_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    needed = project["dependencies"] + project["optional-dependencies"]["app"]
    assert [line for line in lines if not line.startswith("#")] == needed


# the page -----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page of the scenes' model, served by a process of its own."""
    port = free_port()
    command = [sys.executable, "app.py", "--model", "models/shapes", "--port", str(port)]
    command += ["--styles", "--most", "4"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert server.stdout
    try:
        lines = []
        while not (lines and lines[-1].startswith("http")):
            line = server.stdout.readline()
            assert line, lines
            lines.append(line)
        yield lines[-1].split()[0]
    finally:
        server.terminate()
        server.wait(timeout=30)
        server.stdout.close()


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.slow
def test_no_file_of_the_machine_is_reachable(address: str) -> None:
    assert status_of(address) == 200
    for path in ("/etc/passwd", ROOT / "pyproject.toml", "pyproject.toml", "../../etc/passwd"):
        for way in ("file=", "gradio_api/file="):
            assert status_of(f"{address}{way}{path}") in (403, 404), path


@pytest.mark.slow
def test_a_port_in_use_is_one_line(address: str) -> None:
    port = address.rstrip("/").rsplit(":", 1)[1]
    command = [sys.executable, "app.py", "--model", "models/shapes", "--port", port]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"error: port {port} at 127.0.0.1 cannot be had" in done.stderr
    assert "Traceback" not in done.stderr


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
with_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"
)


@pytest.fixture
def browse(address: str) -> Iterator[Callable[[], Any]]:
    """Open the page as one more visitor."""
    from selenium import webdriver

    visitors: list[Any] = []

    def visit() -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400"):
            options.add_argument(flag)
        service = webdriver.ChromeService(str(DRIVER))
        visitors.append(webdriver.Chrome(options=options, service=service))
        visitors[-1].get(address)
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.quit()


def find(visitor: Any, selector: str) -> Any:
    """Wait for an element."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(visitor, 60)
    return wait.until(lambda page: page.find_element(By.CSS_SELECTOR, selector))


def eventually(visitor: Any, holds: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(visitor, 120).until(lambda _: holds())


def write(visitor: Any, caption: str) -> None:
    box = find(visitor, "#caption textarea, #caption input")
    box.clear()
    box.send_keys(caption)


def status_line(visitor: Any) -> str:
    return find(visitor, "#status textarea, #status input").get_attribute("value")


def drawn(visitor: Any) -> int:
    from selenium.webdriver.common.by import By

    if "the best first." not in status_line(visitor):
        return 0
    return len(visitor.find_elements(By.CSS_SELECTOR, "#gallery .grid-container img"))


def toast(visitor: Any) -> str:
    """The words of a message on the page, once there is one."""
    from selenium.webdriver.common.by import By

    def words() -> str:
        found = visitor.find_elements(By.CSS_SELECTOR, ".toast-body, .toast-wrap")
        return " ".join(each.text for each in found)

    return eventually(visitor, words)


@with_browser
@pytest.mark.slow
def test_a_visitor_draws_by_the_keyboard_alone(browse: Callable[[], Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    visitor = browse()
    box = find(visitor, "#caption textarea, #caption input")
    box.send_keys("a red circle", Keys.ENTER)
    eventually(visitor, lambda: drawn(visitor) == 4)
    assert "python sample.py --text 'a red circle'" in find(visitor, "#commands").text
    # Everything that takes input has a name for screen readers.
    names = visitor.execute_script(
        """return [...document.querySelectorAll('input, textarea, button')]
        .filter(e => e.offsetParent && !(e.labels && e.labels.length) && !e.ariaLabel
                     && !e.getAttribute('aria-labelledby') && !e.title && !e.innerText.trim())
        .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert not names


@with_browser
@pytest.mark.slow
def test_captions_that_are_none_are_answered_on_the_page(browse: Callable[[], Any]) -> None:
    visitor = browse()
    find(visitor, "#draw").click()
    assert "Write a caption first" in toast(visitor)
    box = find(visitor, "#caption textarea, #caption input")
    box.click()
    visitor.execute_cdp_cmd("Input.insertText", {"text": "a red circle" + "x" * 10_000})
    assert len(box.get_attribute("value")) == LONGEST
    find(visitor, "#draw").click()
    eventually(visitor, lambda: drawn(visitor) == 4)
    assert "Note: " in status_line(visitor)


def start_from(visitor: Any, image: Path) -> Any:
    """Upload an image to begin with; return the canvas that shows it."""
    from selenium.webdriver.common.by import By

    for button in visitor.find_elements(By.TAG_NAME, "button"):
        if "Start from an image" in button.text:
            button.click()
    find(visitor, "input[type=file]").send_keys(str(image))
    eventually(visitor, lambda: find(visitor, "button[title=Brush]").is_displayed())
    time.sleep(2)  # the editor lays the image out
    return find(visitor, "canvas")


@with_browser
@pytest.mark.slow
def test_an_image_is_completed(browse: Callable[[], Any], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (220, 30, 30)).save(tmp_path / "red.png")
    visitor = browse()
    write(visitor, "a red circle")
    start_from(visitor, tmp_path / "red.png")
    find(visitor, "#draw").click()
    eventually(visitor, lambda: drawn(visitor) == 4)
    assert "--image image.png" in find(visitor, "#commands").text
    assert "--mask" not in find(visitor, "#commands").text


@with_browser
@pytest.mark.slow
def test_what_is_painted_over_with_the_mouse_is_drawn_anew(
    browse: Callable[[], Any], tmp_path: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    Image.new("RGB", (400, 400), (220, 30, 30)).save(tmp_path / "red.png")
    visitor = browse()
    write(visitor, "a blue star")
    canvas = start_from(visitor, tmp_path / "red.png")
    visitor.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    stroke = ActionChains(visitor, duration=50)
    stroke.move_to_element_with_offset(canvas, -60, -60).click_and_hold()
    for _ in range(6):
        stroke.move_by_offset(10, 0)
    stroke.release().perform()
    [painted] = [
        label for label in visitor.find_elements(By.TAG_NAME, "label") if label.text == PAINTED
    ]
    painted.click()
    time.sleep(1)  # the editor hands its layers over
    find(visitor, "#draw").click()
    eventually(visitor, lambda: drawn(visitor) == 4)
    assert "--image image.png --mask mask.png" in find(visitor, "#commands").text
    with urllib.request.urlopen(find(visitor, "#mask img").get_attribute("src")) as answer:
        mask = np.asarray(Image.open(answer).convert("L")) > 127
    assert mask.shape == (400, 400)
    assert 0.01 < mask.mean() < 0.2
    assert not mask[250:].any()


@with_browser
@pytest.mark.slow
def test_two_visitors_draw_and_a_reload_in_the_middle_is_forgiven(
    browse: Callable[[], Any],
) -> None:
    one, other = browse(), browse()
    for visitor, caption in ((one, "a red circle"), (other, "a blue square")):
        write(visitor, caption)
    find(one, "#draw").click()
    find(other, "#draw").click()
    one.refresh()
    eventually(other, lambda: drawn(other) == 4)
    write(one, "a green star")
    find(one, "#draw").click()
    eventually(one, lambda: drawn(one) == 4)
    assert "'a green star'" in find(one, "#commands").text
    assert "'a blue square'" in find(other, "#commands").text


@with_browser
@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(browse: Callable[[], Any]) -> None:
    visitor = browse()
    visitor.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    find(visitor, "#draw")
    time.sleep(1)
    assert visitor.execute_script("return document.documentElement.scrollWidth") <= 390
