"""Starts the BigQuery emulator, with one fault of bqemulator 1.4 mended.

Google's client sends tables under 5 MiB as `*/*`, which the emulator refuses
(jjviscomi/bqemulator#266, open). Can be deleted when a release has that change.
"""

import sys

from bqemulator.api.routes import upload
from bqemulator.cli import main

upload._PERMITTED_MEDIA_CONTENT_TYPES += ("*/*",)
sys.exit(main())
