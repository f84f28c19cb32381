"""The picture of a report in README.md: runs the default study and photographs its report in headless Chromium.

    python benchmarks/readme_picture.py                      # docs/report.png, from a study in a temporary folder
    python benchmarks/readme_picture.py --study runs/default # keeps the study there, or uses the runs that are there

Other arguments go to `alexnet-lab ablate`: `--seeds 1 --epochs 1 --to quick.png` for a trial.
Needs chromium on the PATH and playwright (`pip install ".[test]"`).
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
STUDY = ("ablate", "--norm", "bn", "--act", "leaky")  # the command that README.md begins with
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, SCALE = 1200, 1.5  # CSS pixels, and pixels of the picture for each
LAST_SECTION = "[aria-labelledby=section-effects-on-test-accuracy]"  # the picture ends with it
MOST_BYTES = 300_000
COLOURS = 128  # of the palette that the picture is stored with


def run_study(folder: Path, others: list[str]) -> Path:
    """Run the study in this folder, or what is missing of it, and return its report."""
    program = "from alexnet_ablations.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *STUDY, "--out", str(folder), *others], check=True)
    return folder / "report" / "index.html"


def photograph(page: Path) -> bytes:
    """Return a report from its title to its effects as a PNG of few colours."""
    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        raise SystemExit("needs chromium: apt-get install chromium")
    with sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=browser_path, args=arguments)
        view = browser.new_page(
            viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE, color_scheme="light", locale="en-GB"
        )
        view.goto(page.resolve().as_uri())
        end = view.locator(LAST_SECTION).evaluate("section => section.getBoundingClientRect().bottom + scrollY")
        shot = view.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": end})
        browser.close()
    small = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()


def main() -> None:
    """Write the picture, unless it is too large for a README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="folder for the study; a temporary one if left out")
    parser.add_argument("--to", type=Path, default=PICTURE, help="the PNG to write")
    chosen, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        picture = photograph(run_study(chosen.study or Path(scratch) / "study", others))
    if len(picture) > MOST_BYTES:
        raise SystemExit(f"the picture has {len(picture):,} bytes, more than {MOST_BYTES:,}")
    chosen.to.write_bytes(picture)
    print(f"{chosen.to}: {len(picture):,} bytes")


if __name__ == "__main__":
    main()
