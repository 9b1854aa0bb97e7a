"""Self-contained HTML pages: markup, attention overlays, charts."""

from common.page.html import *  # noqa: F403
