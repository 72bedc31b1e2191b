"""The report: the results of a run and their uncertainty, as one page and as the same numbers in JSON."""

from ldmfilter.analysis.report.make import Report, check_report, report

__all__ = ["Report", "check_report", "report"]
