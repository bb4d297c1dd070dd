"""The page itself, in Gradio: what a visitor sees, and which function answers."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr
from PIL import Image

from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_web import finding
from dalle_web.drawing import LONGEST, LOWER_HALF, PAINTED, WHOLE, Wish, draw
from dalle_web.request import AppRequest

TITLE = "DALL-E from scratch"
KEPT_SECONDS = 3600
"""How long images of visitors are kept on disk."""
MOST_SEED = 2**31 - 1
CSS = """
.gradio-container { width: 100% !important; max-width: 60rem !important; margin: auto; }
@media (max-width: 40rem) { .gradio-container > main { padding: .5rem !important; } }
button:focus-visible, input:focus-visible, textarea:focus-visible { outline: 3px solid #2563eb; }
"""
FONT = ("system-ui", "sans-serif")
"""The visitor's own: nothing is fetched from elsewhere."""


def build(model: TextToImage, request: AppRequest) -> gr.Blocks:
    """Return the page of a model."""
    with gr.Blocks(title=TITLE, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}\n{request.model.name}: write what the image should show.")
        drawn = gr.State([])
        with gr.Tab("Draw"):
            _draw_tab(model, request, drawn)
        if model.reranker:
            with gr.Tab("Search"):
                _search_tab(model, drawn)
            with gr.Tab("Classify"):
                _classify_tab(model)
    page.queue(max_size=request.waiting, default_concurrency_limit=1)
    return page


def _draw_tab(model: TextToImage, request: AppRequest, drawn: gr.State) -> None:
    caption, *wishes = _wishes(model, request)
    with gr.Row():
        button = gr.Button("Draw", variant="primary", elem_id="draw")
        stop = gr.Button("Stop", elem_id="stop")
    status = gr.Textbox(label="Status", interactive=False, elem_id="status", max_lines=2)
    gallery = gr.Gallery(
        label="Candidates with scores, the best first",
        columns=4,
        object_fit="contain",
        elem_id="gallery",
    )
    commands = gr.Code(
        label="What makes each image again",
        language="shell",
        interactive=False,
        wrap_lines=True,
        elem_id="commands",
        lines=1,
    )
    mask = gr.Image(
        label="mask.png",
        format="png",
        interactive=False,
        visible=False,
        height=160,
        elem_id="mask",
    )

    def answer(*wishes: Any) -> Iterator[tuple[Any, ...]]:
        shown = None
        for shown in draw(model, request.model, Wish(*wishes)):
            painted = gr.update(value=shown.mask, visible=shown.mask is not None)
            yield shown.images, shown.status, shown.commands, painted, gr.skip()
        if shown:
            yield *[gr.skip()] * 4, [image for image, _ in shown.images]

    begun = gr.on(
        [button.click, caption.submit],
        _answered(answer),
        [caption, *wishes],
        [gallery, status, commands, mask, drawn],
        concurrency_id="model",
        show_progress="minimal",
        api_name="draw",
    )
    hidden: Any = {"queue": False, "api_visibility": "private"}
    stop.click(lambda: "stopped", None, status, cancels=[begun], **hidden)


def _wishes(model: TextToImage, request: AppRequest) -> list[Any]:
    """Place the inputs of a `Wish`, in the order of its fields."""
    caption = gr.Textbox(
        label="Caption",
        info="Enter draws",
        placeholder="a red heart",
        max_length=LONGEST,
        autofocus=True,
        elem_id="caption",
    )
    with gr.Row():
        styles = [WHOLE, *request.styles]
        style = gr.Dropdown(styles, value=WHOLE, label="Style", visible=len(styles) > 1)
        usual = min(8, request.most)
        candidates = gr.Slider(1, request.most, usual, step=1, label="Candidates")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
    with gr.Accordion("More", open=False):
        own = model.sampling
        temperature = gr.Slider(0.05, 2, own.temperature, step=0.05, label="Temperature")
        guidance = gr.Slider(
            1,
            5,
            own.guidance_scale,
            step=0.1,
            label="Guidance",
            info="Above 1, images follow the caption more closely",
            visible=bool(model.transformer.config.text_drop),
        )
    with gr.Accordion("Start from an image", open=False):
        gr.Markdown("Upload an image to complete. The brush marks what to draw anew.")
        image = gr.ImageEditor(
            type="pil",
            image_mode="RGBA",
            sources=["upload", "clipboard"],
            brush=gr.Brush(default_size=24, colors=["#ff2d87"], color_mode="fixed"),
            layers=False,
            label="Image",
        )
        anew = gr.Radio([LOWER_HALF, PAINTED], value=LOWER_HALF, label="Draw anew")
    return [caption, style, candidates, seed, temperature, guidance, image, anew]


def _search_tab(model: TextToImage, drawn: gr.State) -> None:
    assert model.reranker
    ranker = model.reranker
    words = gr.Textbox(label="What to look for", max_length=LONGEST, elem_id="query")
    files = gr.File(
        label=f"Images to search, {finding.MOST_IMAGES} at most, besides what you have drawn last",
        file_count="multiple",
        file_types=["image"],
    )
    button = gr.Button("Search", variant="primary", elem_id="search")
    found = gr.Gallery(label="Best first", columns=4, object_fit="contain", elem_id="found")

    def answer(caption: str, paths: list[str] | None, own: list[Image.Image]) -> Any:
        return finding.search(ranker, finding.opened(paths, own), caption)

    gr.on(
        [button.click, words.submit],
        _answered(answer),
        [words, files, drawn],
        found,
        concurrency_id="model",
        api_name="search",
    )


def _classify_tab(model: TextToImage) -> None:
    assert model.reranker
    ranker = model.reranker
    image = gr.Image(
        type="pil",
        image_mode="RGBA",
        label="Image",
        sources=["upload", "clipboard"],
        elem_id="image",
    )
    labels = gr.Textbox(
        "a heart\na cat\na house",
        label="Labels, one a line",
        lines=5,
        max_lines=10,
        elem_id="labels",
    )
    button = gr.Button("Classify", variant="primary", elem_id="classify")
    found = gr.Label(label="What it shows", num_top_classes=10, elem_id="label")
    button.click(
        _answered(lambda image, labels: finding.classify(ranker, image, labels)),
        [image, labels],
        found,
        concurrency_id="model",
        api_name="classify",
    )


def _answered(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of the page so that what a visitor can mend is shown as one line."""
    import inspect

    if inspect.isgeneratorfunction(answer):

        @wraps(answer)
        def stream(*wishes: Any) -> Iterator[Any]:
            try:
                yield from answer(*wishes)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return stream

    @wraps(answer)
    def reply(*wishes: Any) -> Any:
        try:
            return answer(*wishes)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return reply
