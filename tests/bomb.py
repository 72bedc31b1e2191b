"""A pickle that shows whether anything unpickled it."""

import os
from pathlib import Path
from typing import Any


class Bomb:
    """Unpickled, it makes a folder; the fixture `marker` names one, and fails the test that made it."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)
