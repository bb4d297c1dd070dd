"""The package the corpus is made from, pinned to a version, and what is taken from it.

Only sets under permissive licences are listed, so that a model trained on the corpus may be shipped
with their authors credited. Emoji art that corpora.emoji has is left out.
"""

from dataclasses import dataclass

PACKAGE = "@iconify/json@2.2.535"
URL = "https://icon-sets.iconify.design"
PERMISSIVE = {
    *("MIT", "ISC", "Apache-2.0", "BSD-3-Clause", "Unlicense", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"),
}

COLOURED, SILHOUETTES, ICON_PARK = "coloured", "silhouettes", "icon-park"
PARTS = (COLOURED, SILHOUETTES, ICON_PARK)
ICON_PARK_BLUE, ICON_PARK_LIGHT_BLUE = "#2f88ff", "#43ccf8"
"""The colour that icon-park's icons are filled with, and its companion in some."""


@dataclass(frozen=True)
class IconSet:
    """One set of icons in the package."""

    prefix: str
    """Iconify's name of the set."""
    icons: int
    """How many icons the pinned version has; a build that finds far fewer stops."""
    artist: str
    """The short name a user types in a prompt."""
    part: str = SILHOUETTES
    left_out: str = ""
    """Icons whose names end so are the same drawings in other colours."""
    plain_names: bool = False
    """Names have no styles, and a number in one counts."""


_COLOURED_SETS = (
    IconSet("flat-color-icons", 329, "icons8", COLOURED),
    IconSet("flat-ui", 100, "flat ui", COLOURED),
    IconSet("fluent-color", 890, "fluent color", COLOURED),
    IconSet("fluent-emoji", 3174, "fluent glossy", COLOURED, plain_names=True),
    IconSet("glyphs-poly", 861, "glyphs", COLOURED),
    IconSet("streamline-emojis", 787, "streamline emoji", COLOURED),
    IconSet("streamline-kameleon-color", 400, "kameleon", COLOURED, left_out="-duo"),
    IconSet("streamline-stickies-color", 200, "stickies", COLOURED, left_out="-duo"),
    IconSet("streamline-ultimate-color", 998, "streamline", COLOURED),
    IconSet("icon-park", 2658, "icon park", ICON_PARK),
)
GLOSSY, GLOSSY_TWIN = "fluent glossy", "fluent 3d"
"""An artist whose designs are those of one in the emoji corpus: they are held out together."""

# Sets of one colour under permissive licences, but for logos; PREFIX:ICONS.
_MONOCHROME = """
akar-icons:458 ant-design:848 at-icons:643 basil:496 bi:2084 bitcoin-icons:330 boxicons:3768
bubbles:409 bx:1609 bxs:665 bytesize:102 carbon:2776 charm:262 ci:715 cil:562 clarity:1105
codex:78 codicon:658 covid:142 cuida:182 dinkie-icons:1198 duo-icons:91 ei:70
emojione-monotone:1403 eos-icons:253 ep:293 eva:490 f7:1253
fa-regular:151 fa-solid:1023 fa6-regular:164 fa6-solid:1407 fa7-regular:272
fa7-solid:2000 fad:155 famicons:1342 fe:255 feather:286 flowbite:804
fluent-emoji-high-contrast:1594 fluent-mdl2:1735 fluent:20265 fontisto:615 formkit:144
foundation:283 game-icons:4134 garden:1027 geo:30 gg:704 ginetex:50 gis:367 glyphs:3452
gravity-ui:799 griddy-icons:2010 grommet-icons:637 guidance:360 healthicons:2709
heroicons-outline:385 heroicons-solid:387 heroicons:1288 hugeicons:6091 humbleicons:287
ic:10956 icon-park-outline:2658 icon-park-solid:1970 icon-park-twotone:1947 iconamoon:1781
iconmind:31722 iconoir:1682 icons8:234 il:84 ion:2361 iwwa:105 ix:1490 jam:940
keyline-icons:9736 la:1544 lets-icons:1544 line-md:1233 lineicons:962 lsicon:716
lucide-lab:373 lucide:1928 mage:1042 majesticons:1045 maki:418 material-symbols-light:16063
material-symbols:16422 mdi:7638 medical-icon:144 memory:651 meteor-icons:431 mi:180
mingcute:3336 mono-icons:180 mynaui:2658 nimbus:140 nrk:637 octicon:948 oi:223 ooui:430
osmic:169 oui:444 pajamas:414 pepicons-pencil:1275 pepicons-pop:1290 pepicons-print:1286
pepicons:428 ph:9161 pinhead:2785 pixel:578 pixelarticons:1306 prime:313 proicons:552
qlementine-icons:905 quill:141 radix-icons:342 raphael:266 reicon:6590 ri:3229 rivet-icons:210
roentgen:574 si:1301 sidekickicons:232 simple-line-icons:194 solar:8859 stash:982
streamline-block:300 streamline-cyber:500 streamline-flex:1500 streamline-freehand:1000
streamline-guidance:360 streamline-pixel:662 streamline-plump:1499 streamline-sharp:1500
streamline-ultimate:1999 streamline:3933 subway:306 svg-spinners:46 system-uicons:430
tabler:6268 tdesign:2364 teenyicons:1200 temaki:557 topcoat:89 uil:1216 uim:298 uis:190
uit:216 uiw:214 vaadin:636 vadivam:508 weui:162 wpf:200 zondicons:297
"""


def all_sets() -> dict[str, IconSet]:
    """The sets that the corpus reads, by prefix."""
    pairs = (entry.rsplit(":", 1) for entry in _MONOCHROME.split())
    monochrome = (IconSet(prefix, int(icons), prefix) for prefix, icons in pairs)
    return {each.prefix: each for each in (*_COLOURED_SETS, *monochrome)}
