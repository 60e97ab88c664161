"""A page of results in one file: every photo before and after, with its maps.

``cards`` keeps what the page shows of each photo while a job runs. ``page`` makes the page.
"""

from dehaze.report.cards import CARDS_FOLDER, Card, CardingWork, read_card
from dehaze.report.job import REPORT_NAME, report_of_job
from dehaze.report.page import Column, Entry, Layer, Report, asset, render_report, write_report
from dehaze.report.thumbnails import false_colours, thumbnail

__all__ = [
    "CARDS_FOLDER",
    "REPORT_NAME",
    "Card",
    "CardingWork",
    "Column",
    "Entry",
    "Layer",
    "Report",
    "asset",
    "false_colours",
    "read_card",
    "render_report",
    "report_of_job",
    "thumbnail",
    "write_report",
]
