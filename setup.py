"""Puts what the console command needs besides packages into the wheel: everything else stands in
pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CHECKOUT = "dalle_checkout"
"""Folder of the installation that stands for the checkout (dalle_base/common/checkout.py)."""
FOLDERS = ("configs", "models/shapes")


class BuildWithCheckout(build_py):
    """Copies scripts, configs and the small model beside the packages."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then the checkout is there itself
            return
        target = Path(self.build_lib, CHECKOUT)
        target.mkdir(parents=True, exist_ok=True)
        for script in ROOT.glob("*.py"):
            if script.name != "setup.py":
                shutil.copy(script, target)
        for folder in FOLDERS:
            if (ROOT / folder).is_dir():
                shutil.copytree(ROOT / folder, target / folder, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithCheckout})
