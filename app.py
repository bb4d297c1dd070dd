"""A web page for a model: captions to images, completions, search and classification."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import os

from dalle_base.common.errors import UserError, command
from dalle_web.request import AppRequest, parse_app_request


@command
def main() -> None:
    serve(parse_app_request(__doc__))


def serve(request: AppRequest) -> None:
    """Load the model, and answer visitors until Ctrl-C. Raises `UserError` where it cannot."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        from gradio.themes import Default

        from dalle_web.page import CSS, FONT, build
    except ModuleNotFoundError as error:
        raise UserError(
            f"the page needs {error.name}: pip install 'dalle-from-scratch[app]'"
        ) from None
    from dalle.checkpoint import load_text_to_image
    from dalle_base.common.device import announce, choose_device

    device = choose_device(request.device)
    announce(device)
    page = build(load_text_to_image(request.model, device=device), request)
    try:
        page.launch(
            server_name=request.host,
            server_port=request.port,
            css=CSS,
            theme=Default(font=FONT, font_mono=("ui-monospace", "monospace")),
            max_file_size="20mb",
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"{page.local_url} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    except OSError as error:
        port = f"port {request.port}" if request.port else "every port from 7860 on"
        host = request.host or "127.0.0.1"
        raise UserError(
            f"{port} at {host} cannot be had ({error}): name another by --port"
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
