"""The packages the corpus is made from, each pinned to a version, with its licence and its artist.

Only permissive licences are listed, so that a model trained on the corpus may be shipped with the
artists credited.
"""

from dataclasses import dataclass

LABELS = "emojibase-data@17.0.0"
LABELS_CREDIT = "captions and keywords: emojibase by Miles Johnson, MIT"


@dataclass(frozen=True)
class Source:
    """One artist's images in one npm package."""

    artist: str
    """The short name a user types in a prompt."""
    package: str
    """NAME@VERSION, as npm takes it."""
    licence: str
    """SPDX identifier of the images' licence."""
    credit: str
    url: str
    images: int
    """How many images the pinned version gives; a build that finds another number stops."""
    folder: str = ""
    """Folder of files named by code point; empty for packages that keep SVGs in `icons.json`."""
    misdrawn: tuple[str, ...] = ()
    """Code points whose image shows something else."""
    glued: bool = False
    """Image names are labels written without separators ("aerialtramway")."""


SOURCES = (
    Source(
        artist="noto",
        package="emoji-datasource-google@16.0.0",
        licence="Apache-2.0",
        credit="Noto Emoji by Google",
        url="https://github.com/googlefonts/noto-emoji",
        images=1905,
        folder="package/img/google/64/",
        misdrawn=("1F1E8-1F1F6",),  # Sark has Saudi Arabia's flag in this version
    ),
    Source(
        artist="twemoji",
        package="emoji-datasource-twitter@16.0.0",
        licence="CC-BY-4.0",
        credit="Twemoji by Twitter, Inc and other contributors",
        url="https://github.com/jdecked/twemoji",
        images=1906,
        folder="package/img/twitter/64/",
    ),
    Source(
        artist="fluent 3d",
        package="@lobehub/fluent-emoji-3d@1.1.0",
        licence="MIT",
        credit="Fluent Emoji (3D) by Microsoft Corporation",
        url="https://github.com/microsoft/fluentui-emoji",
        images=1852,
        folder="package/assets/",
    ),
    Source(
        artist="fluent flat",
        package="@iconify-json/fluent-emoji-flat@1.2.6",
        licence="MIT",
        credit="Fluent Emoji (flat) by Microsoft Corporation",
        url="https://github.com/microsoft/fluentui-emoji",
        images=1595,
    ),
    Source(
        artist="blob",
        package="@iconify-json/noto-v1@1.2.5",
        licence="Apache-2.0",
        credit="Noto Emoji, first version (the blobs), by Google",
        url="https://github.com/googlefonts/noto-emoji",
        images=1231,
    ),
    Source(
        artist="emojione",
        package="@iconify-json/emojione@1.2.3",
        licence="CC-BY-4.0",
        credit="EmojiOne 2.3 by Emoji One",
        url="https://github.com/EmojiTwo/emojitwo",
        images=1369,
    ),
    Source(
        artist="fxemoji",
        package="@iconify-json/fxemoji@1.2.2",
        licence="Apache-2.0",
        credit="Firefox OS Emoji by Mozilla",
        url="https://github.com/mozilla/fxemoji",
        images=751,
        glued=True,
    ),
)
